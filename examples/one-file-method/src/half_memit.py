"""MEMIT at half strength: an example of a method and a plug-in outside the package."""

from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from alphaedit.core.patch import LowRank
from alphaedit.methods.base import Problem, Solution
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.locate_then_edit import LocateThenEdit
from alphaedit.methods.plugin import Memory, Plugin


@dataclass(frozen=True)
class Half(Plugin):
    """Multiplies every change.

    Attributes:
        factor: by this.
    """

    factor: float = 0.5

    name = "half"
    title = "Half"
    paper = "https://example.org/half"
    summary = "Delta <- factor Delta."

    def delta(self, problem: Problem, layer: int, delta: LowRank, memory: Memory) -> LowRank:
        """See Plugin."""
        return LowRank(self.factor * delta.left, delta.right)


class ScaledSettings(Hyperparameters):
    """Settings of MEMIT, and one of this method's own."""

    scale: float = Field(1.0, gt=0, description="every change is multiplied by this")


@dataclass(frozen=True)
class Scaled(LocateThenEdit):
    """A method that solves as its base does and goes on from there."""

    def solve(self, problem: Problem[Any]) -> Solution:
        """See Method."""
        solution = super().solve(problem)
        scale = problem.hyperparameters.scale
        weights = {n: LowRank(scale * d.left, d.right) for n, d in solution.patch.weights.items()}
        return replace(solution, patch=replace(solution.patch, weights=weights))


METHOD = Scaled(
    name="half-memit",
    title="Half MEMIT",
    paper="https://example.org/half",
    summary="MEMIT whose changes are halved.",
    moment=True,
    plugins=("half",),
    config=ScaledSettings,
)
