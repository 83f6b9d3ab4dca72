"""SPHERE: leave the directions in which the weight's rows lie (2025)."""

from __future__ import annotations

from dataclasses import dataclass

from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.restrain import row_directions
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Plugin


@dataclass(frozen=True)
class Sphere(Plugin):
    """Delta <- Delta (I - strength U U^T), U the main directions of the row-normalised weight.

    Attributes:
        energy: share of the row-normalised weight's energy that U holds (published: 0.5).
        strength: share of the change along U that is taken away (published: 0.5; 0.8 for MEMIT,
            PRUNE and RECT).
    """

    energy: float = 0.5
    strength: float = 0.5

    name = "sphere"
    title = "SPHERE"
    paper = "https://arxiv.org/abs/2510.01172"
    summary = "Takes the part along the weight's main directions out of the change."

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("energy", "a share above 0, up to 1", 0 < self.energy <= 1)
        self.check("strength", "a share from 0 to 1", 0 <= self.strength <= 1)

    def delta(self, problem: Problem, layer: Site, delta: LowRank, memory: Memory) -> LowRank:
        """See Plugin."""
        basis = row_directions(problem.handle.weight(layer).float(), self.energy).to(delta.right)
        right = delta.right - self.strength * (delta.right @ basis) @ basis.T
        return LowRank(delta.left, right)


PLUGIN = Sphere
