"""CrispEdit's projection: nothing changes in directions in which the loss bends (2026)."""

from __future__ import annotations

from dataclasses import dataclass

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg import curvature
from alphaedit.methods.base import Problem, Statistics
from alphaedit.methods.plugin import Memory, Plugin, Restrain
from alphaedit.stats.statistics import ModelStatistics


@dataclass(frozen=True)
class Curvature(Plugin):
    """A change keeps its part in directions of low curvature of the loss on other text.

    Methods that follow gradients go on from the projected change after each step; of others the
    change of each layer is projected when it is solved.

    Attributes:
        energy: share of the curvature in the directions that are left alone.
    """

    energy: float = 0.9

    name = "curvature"
    title = "Low curvature (CrispEdit)"
    paper = "https://arxiv.org/abs/2602.15823"
    summary = "No change in directions in which the loss on other text bends, by keys and outputs."
    second_moments = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("energy", "a share above 0, below 1", 0 < self.energy < 1)

    def statistics(self, known: Statistics) -> Statistics:
        """See Plugin."""
        return known.with_outputs() if isinstance(known, ModelStatistics) else known

    def restrain(self, problem: Problem, layer: Site) -> Restrain:
        """See Plugin.

        Raises:
            ConfigError: it is an expert's, or the statistics are not those of a model.
        """
        known = problem.statistics
        if not isinstance(layer, int) or not isinstance(known, ModelStatistics):
            raise ConfigError(
                "Plug-in curvature needs the gradients at a whole layer's output.",
                remedy="Leave it out for mixtures of experts.",
            )
        bent = curvature.Curvature(known.spectrum(layer), known.output_spectrum(layer))
        return bent.projection(self.energy)

    def delta(self, problem: Problem, layer: Site, delta: LowRank, memory: Memory) -> LowRank:
        """See Plugin."""
        whole = delta.left.float() @ delta.right.float()
        return LowRank.dense(self.restrain(problem, layer)(whole))


PLUGIN = Curvature
