"""AlphaEdit's projection, for any method (Fang et al., ICLR 2025)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.subspace import Subspace, null_space
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Parts, Plugin, Restrain


def preserved_null_space(problem: Problem, layer: Site) -> Subspace:
    """The null space of the preserved keys at `layer`, by the threshold or energy given.

    Raises:
        ConfigError: neither is given.
    """
    hp = problem.hyperparameters
    if hp.threshold is None and hp.energy is None:
        raise ConfigError(
            "A null space is needed, and neither a threshold nor an energy is given.",
            remedy="Give one, such as --set energy=0.9.",
        )
    return null_space(problem.statistics.spectrum(layer), threshold=hp.threshold, energy=hp.energy)


@dataclass(frozen=True)
class Project(Plugin):
    """Solve inside the null space where there is a system; multiply the change by P elsewhere.

    Methods that follow gradients go on from the projected change after each step.
    """

    name = "project"
    title = "Null-space projection"
    paper = "https://arxiv.org/abs/2410.02355"
    summary = "Delta P: nothing changes for the keys of what the model should go on knowing."
    second_moments = True

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """See Plugin."""
        if parts.subspace is not None:
            return parts
        return replace(parts, subspace=preserved_null_space(problem, layer))

    def restrain(self, problem: Problem, layer: Site) -> Restrain:
        """See Plugin."""
        return preserved_null_space(problem, layer).project_rows

    def delta(self, problem: Problem, layer: Site, delta: LowRank, memory: Memory) -> LowRank:
        """See Plugin."""
        space = preserved_null_space(problem, layer)
        return LowRank(delta.left, space.project_rows(delta.right).to(delta.right.dtype))


PLUGIN = Project
