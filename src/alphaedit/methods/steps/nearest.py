"""Which of many keys is nearest to a query, and whether it is within its radius."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEVER = -1.0
"""Radius of an entry that answers nothing."""
CLOSE = 8
"""Entries whose distance to a query is computed exactly, of all those ranked by a product."""
WIDE = 2**22
"""Numbers in all keys from which on they are ranked by a sketch first."""
SKETCH = 96
"""Directions of a sketch; keys that are not four times as wide have none."""
SLACK = 1e-5
"""Error of products, as a share of the squared norms, that is allowed for."""


def distance(first: Tensor, second: Tensor) -> Tensor:
    """Between rows [..., h] and [..., h], [...] float32.

    Summed in float64, so that it does not depend on how many are computed together.
    """
    way: Tensor = (first.double() - second.double()).norm(dim=-1)
    return way.float()


class Nearest:
    """The nearest of `keys` [n, h] to a query, and whether it is within its radius [n].

    All are ranked by one product; of the first few the distances are exact. Many wide keys are
    ranked by a sketch before: a bound that no distance is below leaves few for the product.
    """

    def __init__(self, keys: Tensor, radii: Tensor) -> None:
        self.keys, self.radii = keys, radii
        self._half = torch.where(radii == NEVER, math.inf, keys.square().sum(1) / 2)
        wide = keys.numel() >= WIDE and keys.shape[1] >= 4 * SKETCH
        self._sketch = Sketch(keys) if wide else None

    def __call__(self, query: Tensor) -> Tensor:
        """Numbers of entries for states [rows, h], [rows] int64; -1 where none answers."""
        query = query.to(self.keys)
        near = self._candidates(query)
        apart = distance(query[:, None], self.keys[near])
        apart = torch.where(self.radii[near] == NEVER, math.inf, apart)
        way, place = apart.min(1)
        nearest = near.gather(1, place[:, None])[:, 0]
        return torch.where(way <= self.radii[nearest], nearest, -1)

    def _candidates(self, query: Tensor) -> Tensor:
        """Numbers [rows, c] of the entries that come first by the product, or by less."""
        few = self._few(query)
        if few is None:
            # Half the squared distance, but for what is the same for all entries.
            rank = torch.addmm(self._half, query, self.keys.T, alpha=-1)
            return _first(rank)
        rank = self._half[few] - _products(query, self.keys[few])
        return few.gather(1, _first(rank))

    def _few(self, query: Tensor) -> Tensor | None:
        """Entries [rows, c] among which the nearest is; None where they are not few."""
        if self._sketch is None:
            return None
        # No more than half the squared distance, but for what is the same for all entries.
        least = torch.addmm(self._half, self._sketch.of(query), self._sketch.keys.T, alpha=-1)
        first = _first(least)
        best = (self._half[first] - _products(query, self.keys[first])).min(1).values
        slack = SLACK * query.square().sum(1)
        count = int((least <= (best + slack + SLACK * best.abs())[:, None]).sum(1).max())
        if count * len(query) > len(self.keys) // 4:
            return None
        return least.topk(max(count, first.shape[1]), largest=False).indices


class Sketch:
    """Keys [n, h] in the directions in which they differ most, and how long the rest of each is.

    A product of two sketches is no smaller than that of the two keys.

    Attributes:
        keys: [n, SKETCH + 1].
    """

    def __init__(self, keys: Tensor) -> None:
        generator = torch.Generator(keys.device).manual_seed(0)
        shape = keys.shape[1], SKETCH
        basis = torch.randn(shape, generator=generator, device=keys.device, dtype=keys.dtype)
        for _ in range(3):
            basis = torch.linalg.qr(keys.T @ (keys @ basis)).Q
        self._basis = basis
        self.keys = self.of(keys)

    def of(self, states: Tensor) -> Tensor:
        """The sketch [rows, SKETCH + 1] of states [rows, h]."""
        inside = states @ self._basis
        whole = states.square().sum(1)
        # Rather too long than too short by rounding: the bound then still holds.
        rest = ((1 + SLACK) * whole - inside.square().sum(1)).clamp_min(0).sqrt()
        return torch.cat([inside, rest[:, None]], 1)


def _first(rank: Tensor) -> Tensor:
    """Places [rows, c] of the smallest numbers of each row."""
    count = min(CLOSE, rank.shape[1])
    return rank.topk(count, largest=False).indices if count > 1 else rank.argmin(1)[:, None]


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """Of states [rows, h] with keys [rows, c, h]: [rows, c]."""
    return torch.einsum("rh,rch->rc", query, keys)
