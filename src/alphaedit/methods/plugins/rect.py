"""RECT's sparse update (Gu et al., EMNLP 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.restrain import relative_top
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Plugin


@dataclass(frozen=True)
class Rect(Plugin):
    """Keeps the entries of the change that are largest relative to the weight.

    Attributes:
        keep: share of the entries kept (published: 0.4).
    """

    keep: float = 0.4

    name = "rect"
    title = "RECT"
    paper = "https://arxiv.org/abs/2401.04700"
    summary = "Keeps the entries with the largest |Delta / W|, zeroes the others."

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("keep", "a share above 0, up to 1", 0 < self.keep <= 1)

    def delta(self, problem: Problem, layer: Site, delta: LowRank, memory: Memory) -> LowRank:
        """See Plugin."""
        weight = problem.handle.weight(layer).to(delta.left)
        return LowRank.dense(relative_top(delta.matrix(), weight, self.keep))


PLUGIN = Rect
