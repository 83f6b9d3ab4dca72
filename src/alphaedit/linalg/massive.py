"""Massive activations: a few keys that hold most of the energy, and the directions they lie in.

Language models have tokens (the first of a text, delimiters) whose keys are hundreds to hundreds
of thousands of times as strong as others, nearly all in one direction (attention sinks; Sun et al.
2024, "Massive Activations in Large Language Models"). A second moment that counts them among the
others says nothing about the others: one direction holds nearly all of its trace.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MASSIVE = 300.0
"""A key is massive if its squared norm is more than this many times the median one."""
LEFT = 0.01
"""Energy of massive keys that may stay among the others, as a share of the others' energy."""
MOST = 64
"""Most directions that are told apart."""
COLUMNS = 512
"""Massive keys that are kept as they are; more of them are kept as their main directions."""


@dataclass(frozen=True, eq=False)
class Massive:
    """What is massive among the keys of a layer.

    Attributes:
        directions: [d, m] orthonormal, float32; m is 0 where nothing is massive.
        energies: [m] mean squared length of all keys along each of them, from massive keys.
        share: of all keys that are massive.
        energy: share of all energy that massive keys hold.
        limit: squared norm above which a key counts as massive.
    """

    directions: Tensor
    energies: Tensor
    share: float = 0.0
    energy: float = 0.0
    limit: float = float("inf")

    @classmethod
    def none(cls, d_in: int, limit: float = float("inf")) -> Massive:
        """Nothing is massive."""
        return cls(torch.zeros(d_in, 0), torch.zeros(0), limit=limit)


class MassiveSum:
    """Collects massive keys of one layer, pass by pass, in bounded memory.

    Args:
        limit: squared norm above which a key is massive; by default `MASSIVE` times the median of
            the first keys seen.
    """

    def __init__(self, limit: float | None = None) -> None:
        self.limit = limit
        self.count = 0
        self.factor: Tensor | None = None

    def add(self, keys: Tensor) -> None:
        """See keys [n, d]."""
        energy = keys.float().square().sum(dim=1)
        if self.limit is None:
            self.limit = MASSIVE * float(energy.median())
        is_massive = energy > self.limit
        if bool(is_massive.any()):
            new = keys[is_massive].T.double().cpu()
            self.count += new.shape[1]
            self.join(new)

    def join(self, columns: Tensor) -> None:
        """Take [d, n] more: massive keys, or a factor of the sum over some."""
        whole = columns if self.factor is None else torch.cat([self.factor, columns], dim=1)
        if whole.shape[1] > COLUMNS:
            left, sizes, _ = torch.linalg.svd(whole, full_matrices=False)
            whole = left[:, :MOST] * sizes[:MOST]
        self.factor = whole


def told_apart(
    factor: Tensor | None, count: int, moment: Tensor, tokens: int, limit: float
) -> Massive:
    """The directions of massive keys, as many as it takes.

    Args:
        factor: [d, n] with F F^T the sum of k k^T over massive keys, float64; None without any.
        count: how many keys are massive.
        moment: [d, d] mean of k k^T over all keys.
        tokens: how many these are.
        limit: squared norm above which a key is massive.
    """
    d_in = moment.shape[0]
    if factor is None or not count:
        return Massive.none(d_in, limit)
    left, sizes, _ = torch.linalg.svd(factor, full_matrices=False)
    energies = sizes.square() / tokens
    total = float(moment.double().diagonal().sum())
    massive = float(energies.sum())
    rest = max(total - massive, 1e-30)
    beyond = massive - energies.cumsum(0)
    many = min(int((beyond > LEFT * rest).sum()) + 1, MOST, max(1, d_in // 8), len(energies))
    return Massive(
        directions=left[:, :many].float().contiguous(),
        energies=energies[:many].float(),
        share=count / tokens,
        energy=min(1.0, massive / total) if total > 0 else 0.0,
        limit=limit,
    )


def without(moment: Tensor, massive: Massive) -> Tensor:
    """The second moment [d, d] of what is left, with nothing along the massive directions."""
    u = massive.directions.to(moment)
    rest = moment - (u * massive.energies.to(moment)) @ u.T
    half = u.T @ rest
    rest = rest - u @ half - half.T @ u.T + u @ (half @ u) @ u.T
    return (rest + rest.T) / 2
