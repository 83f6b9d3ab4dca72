"""LyapLock's virtual queue: preservation weighs more when it was neglected (2025)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Parts, Plugin
from alphaedit.methods.running_sum import added


@dataclass(frozen=True)
class Queue(Plugin):
    """Minimises V (edit and history error) + Z (preservation error), Z a queue for each layer.

    After each batch Z <- max(0, Z + e - alpha e1), with e = tr(D C D^T) the preservation error of
    all changes D so far and e1 that of the first batch, both relative to e1. The weight of C in
    the system is `weight` (1 + Z).

    Attributes:
        alpha: how many times the first batch's preservation error is allowed on average.
        weight: weight of C while the queue is empty.
    """

    alpha: float = 5.0
    weight: float = 100.0

    name = "queue"
    title = "Virtual queue (LyapLock)"
    paper = "https://arxiv.org/abs/2505.15702"
    summary = "The weight of C grows with a queue of the preservation error beyond a budget."
    second_moments = True
    solves = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("alpha", "a finite number from 0", 0 <= self.alpha < math.inf)
        self.check("weight", "a finite number from 0", 0 <= self.weight < math.inf)

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """See Plugin."""
        waiting = float(memory.get(f"queue/{layer}/length", torch.tensor(0.0)))
        return replace(
            parts,
            second_moment=problem.statistics.second_moment(layer),
            moment_weight=self.weight * (1 + waiting),
        )

    def after(
        self,
        problem: Problem,
        deltas: Mapping[Site, LowRank],
        keys: Mapping[int, Tensor],
        memory: Memory,
    ) -> None:
        """See Plugin."""
        for layer, delta in deltas.items():
            key = f"queue/{layer}/"
            total = added(memory, f"queue/{layer}", delta)
            moment = problem.statistics.second_moment(layer).to(total.left)
            inner = (total.right @ moment @ total.right.T).double()
            error = float((total.left.T.double() @ total.left.double() * inner).sum())
            first = float(memory.setdefault(key + "first", torch.tensor(max(error, 1e-30))))
            length = float(memory.get(key + "length", torch.tensor(0.0)))
            memory[key + "length"] = torch.tensor(max(0.0, length + error / first - self.alpha))


PLUGIN = Queue
