"""PRUNE: restrain the singular values of all that was changed (Ma et al., ICLR 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.lowrank import concatenate
from alphaedit.linalg.restrain import restrained
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Plugin
from alphaedit.methods.running_sum import added, past_sum


@dataclass(frozen=True)
class Prune(Plugin):
    """Keeps the singular values of the accumulated change below or near the weight's largest.

    The change of a batch is what takes the restrained sum of all batches before to the restrained
    sum with it; kept in memory: the unrestrained sum, as factors.

    Attributes:
        base: a of log_a (published in AlphaEdit's comparison: e; PRUNE's own code: 1.2).
    """

    base: float = math.e

    name = "prune"
    title = "PRUNE"
    paper = "https://arxiv.org/abs/2405.16821"
    summary = (
        "A singular value s of the accumulated change above s0 = s_max(W): log s - log s0 + s0."
    )

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("base", "a finite number above 1", 1 < self.base < math.inf)

    def delta(self, problem: Problem, layer: Site, delta: LowRank, memory: Memory) -> LowRank:
        """See Plugin."""
        key = f"prune/{layer}"
        if f"{key}/largest" not in memory:
            weight = problem.handle.weight(layer).to(delta.left)
            memory[f"{key}/largest"] = torch.linalg.matrix_norm(weight, 2).cpu()
        largest = float(memory[f"{key}/largest"])
        past = past_sum(memory, key, delta)
        before = None if past is None else restrained(past, largest, self.base)
        after = restrained(added(memory, key, delta), largest, self.base)
        return (
            after if before is None else concatenate([after, LowRank(-before.left, before.right)])
        )


PLUGIN = Prune
