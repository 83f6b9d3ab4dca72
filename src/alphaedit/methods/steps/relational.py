"""Deltas of a target search: free vectors, or what a relational network makes of a subgraph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Maker(Protocol):
    """Where the deltas [u, d_out] of a search come from."""

    @property
    def parameters(self) -> Sequence[Tensor]:
        """What the descent moves."""

    def delta(self) -> Tensor:
        """The deltas as they are now, with gradients to the parameters."""

    def restrain(self, limit: Tensor) -> None:
        """Keep the norm of each delta within `limit` [u] from now on."""


def clamp(delta: Tensor, limit: Tensor) -> Tensor:
    """`delta` [u, d] with each row's norm at most `limit` [u]."""
    norm = delta.norm(dim=1)
    return delta * torch.where(norm > limit, limit / norm.clamp_min(1e-30), 1.0)[:, None]


class Free:
    """A vector for each row of `like` [u, d_out]."""

    def __init__(self, like: Tensor) -> None:
        self.vectors = torch.zeros_like(like, requires_grad=True)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """See Maker."""
        return [self.vectors]

    def delta(self) -> Tensor:
        """See Maker."""
        return self.vectors

    def restrain(self, limit: Tensor) -> None:
        """See Maker."""
        with torch.no_grad():
            self.vectors.copy_(clamp(self.vectors, limit))


class Relational:
    """GLAME's encoder of one fact (Zhang et al. 2024, eq. 5): a relational network on its subgraph.

    z_s <- relu(mean over (s, r, o) of W1 (z_o + r) + W2 z_s), once for each hop; the delta is
    W3 z_subject, W3 zero at the start.

    Args:
        nodes: hidden states of the entities, [n, d_out]; node 0 is the subject.
        relations: hidden states of the relations, [m, d_out].
        edges: (source, relation, target) indices.
        rounds: hops.
    """

    def __init__(
        self,
        nodes: Tensor,
        relations: Tensor,
        edges: Sequence[tuple[int, int, int]],
        *,
        rounds: int,
        seed: int,
    ) -> None:
        size = nodes.shape[1]
        self.scale = nodes.norm(dim=1).mean().clamp_min(1e-30)
        self.nodes, self.relations = nodes / self.scale, relations / self.scale
        self.rounds = rounds
        source, relation, target = zip(*edges, strict=True)
        device = nodes.device
        self.source = torch.tensor(source, device=device)
        self.relation = torch.tensor(relation, device=device)
        self.target = torch.tensor(target, device=device)
        degree = torch.bincount(self.source, minlength=len(nodes)).clamp_min(1)
        self.share = 1.0 / degree[self.source].to(nodes.dtype)
        generator = torch.Generator().manual_seed(seed)
        spread = size**-0.5
        self._weights = [
            (torch.randn(size, size, generator=generator) * spread).to(nodes) for _ in range(2)
        ]
        self._weights.append(torch.zeros(size, size).to(nodes))
        for weight in self._weights:
            weight.requires_grad_()
        self.limit: Tensor | None = None

    @property
    def parameters(self) -> Sequence[Tensor]:
        """See Maker."""
        return self._weights

    def delta(self) -> Tensor:
        """See Maker."""
        first, second, third = self._weights
        z = self.nodes
        for _ in range(self.rounds):
            message = (z[self.target] + self.relations[self.relation]) @ first.T
            gathered = torch.zeros_like(z).index_add(0, self.source, message * self.share[:, None])
            z = torch.relu(gathered + z @ second.T)
        delta = self.scale * (z[:1] @ third.T)
        return delta if self.limit is None else clamp(delta, self.limit)

    def restrain(self, limit: Tensor) -> None:
        """See Maker."""
        self.limit = limit
