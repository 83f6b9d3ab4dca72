"""ENCORE's ridge (Gupta et al., 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from alphaedit.core.site import Site
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Parts, Plugin


@dataclass(frozen=True)
class Ridge(Plugin):
    """Adds `weight` I to the system.

    Attributes:
        weight: in units of K K^T (published: 20).
    """

    weight: float = 20.0

    name = "ridge"
    title = "Ridge (ENCORE)"
    paper = "https://arxiv.org/abs/2502.01636"
    summary = "R K'(w C + Kp Kp' + K K' + weight I)^-1: keeps the norm of the change small."
    solves = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("weight", "a finite number from 0", 0 <= self.weight < math.inf)

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """See Plugin."""
        return replace(parts, ridge=parts.ridge + self.weight)


PLUGIN = Ridge
