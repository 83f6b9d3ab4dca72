"""Where an edited matrix lies: in a layer, or in an expert of a layer that is a mixture of them."""

from __future__ import annotations

import re
from typing import NamedTuple


class Expert(NamedTuple):
    """One expert of a layer; written as ``layer.expert``."""

    layer: int
    expert: int

    def __str__(self) -> str:
        """``layer.expert``."""
        return f"{self.layer}.{self.expert}"


Site = int | Expert
"""A layer by its number, or one of its experts."""


def layer_of(site: Site) -> int:
    """The layer in which `site` lies."""
    return site if isinstance(site, int) else site.layer


def site_of(text: str) -> Site | None:
    """What `str` made `text` of; None if it is the name of no site."""
    match = re.fullmatch(r"(\d+)(?:\.(\d+))?", text)
    if match is None:
        return None
    layer, expert = match.groups()
    return int(layer) if expert is None else Expert(int(layer), int(expert))
