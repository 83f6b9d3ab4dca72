"""MEMIT at half strength: an example of a method and a plug-in outside the package."""

from dataclasses import dataclass

from alphaedit.core.patch import LowRank
from alphaedit.methods.base import Problem
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


METHOD = LocateThenEdit(
    name="half-memit",
    title="Half MEMIT",
    paper="https://example.org/half",
    summary="MEMIT whose changes are halved.",
    moment=True,
    plugins=("half",),
)
