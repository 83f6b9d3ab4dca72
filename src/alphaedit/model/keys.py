"""See the keys of a layer as they flow, of a matrix for all tokens or of routed experts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from alphaedit.model.experts import on_routed
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_input


class Keys(Protocol):
    """The keys of one pass at one layer."""

    @property
    def count(self) -> int:
        """How many tokens the pass has, rows and positions as one."""

    def at(self, places: Tensor) -> Tensor:
        """Keys [n, d_in] at the tokens `places` [n]."""


@dataclass(frozen=True, eq=False)
class Plain:
    """What every token goes through, [..., d_in], whether or not rows and positions are one."""

    tensor: Tensor

    @property
    def count(self) -> int:
        """See Keys."""
        return self.tensor.shape[:-1].numel()

    def at(self, places: Tensor) -> Tensor:
        """See Keys."""
        return self.tensor.flatten(0, -2)[places.to(self.tensor.device)]


def on_keys(
    handle: ModelHandle, layer: int, see: Callable[[Keys], None]
) -> AbstractContextManager[None]:
    """While the block runs, call `see` with the keys of each pass at `layer`.

    Raises:
        ArchitectureError: the edited module is called without a tensor.
    """
    module = handle.edited_module(layer)
    if handle.experts(layer) is not None:
        return on_routed(module, see)
    return on_input(module, lambda tensor: see(Plain(tensor)))


def places_of(keys: Keys, at: Tensor) -> Tensor:
    """Where position `at` [rows] of each row stands among all tokens of a padded pass.

    Where the pass has been cut down to one position a row, that one.
    """
    length = keys.count // len(at)
    rows = torch.arange(len(at), device=at.device)
    return rows * length + at.clamp_max(length - 1)
