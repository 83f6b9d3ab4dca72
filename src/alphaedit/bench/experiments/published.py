"""Figures of the paper, to stand beside a run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from alphaedit.core.errors import unknown_name


def tables() -> Mapping[str, Any]:
    """All tables by name, with their sources."""
    text = (files("alphaedit.bench.experiments") / "published.yaml").read_text(encoding="utf-8")
    by_name: Mapping[str, Any] = yaml.safe_load(text)
    return by_name


def figures(name: str) -> Mapping[str, Any]:
    """The published table `name`.

    Raises:
        UnknownNameError: there is none of that name.
    """
    known = tables()
    if name not in known:
        raise unknown_name("published table", name, list(known))
    table: Mapping[str, Any] = known[name]
    return table
