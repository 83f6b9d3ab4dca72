"""NAS: target values of one norm (norm anchor scaling, 2026)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Plugin
from alphaedit.methods.steps.target_value import Targets

ANCHOR = "norm-anchor/anchor"


@dataclass(frozen=True)
class NormAnchor(Plugin):
    """Scales every target value to the mean norm of the first batch's; skips what is far beyond.

    Attributes:
        dropped: share of the largest norms left out of the mean (published: 0.05).
        skip: an edit whose target's norm is beyond `skip` times the anchor is not made.
    """

    dropped: float = 0.05
    skip: float = 2.0

    name = "norm-anchor"
    title = "Norm anchor (NAS)"
    paper = "https://arxiv.org/abs/2602.02543"
    summary = "v <- a v / |v|: target values do not grow from batch to batch."
    searches = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("dropped", "a share from 0, below 1", 0 <= self.dropped < 1)
        self.check("skip", "a finite number above 0", 0 < self.skip < math.inf)

    def targets(self, problem: Problem, targets: Targets, memory: Memory) -> Targets:
        """See Plugin."""
        norms = targets.values.norm(dim=0)
        if ANCHOR not in memory:
            smallest = norms.sort().values[: max(1, int(len(norms) * (1 - self.dropped)))]
            memory[ANCHOR] = smallest.mean().cpu()
        anchor = memory[ANCHOR].to(norms)
        scaled = targets.values * (anchor / norms.clamp_min(1e-30))
        values = torch.where(norms > self.skip * anchor, targets.clean, scaled)
        return replace(targets, values=values)


PLUGIN = NormAnchor
