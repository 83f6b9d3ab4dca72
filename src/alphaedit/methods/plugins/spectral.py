"""A weight on the spectrum of the preserved keys, in place of the second moment itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alphaedit.core.site import Site
from alphaedit.linalg.spectral import spectral_weight
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Parts, Plugin


@dataclass(frozen=True)
class Spectral(Plugin):
    """The system weighs directions by g(x) in place of x, x the eigenvalue over the mean one.

    g(x) = x^power * x / (x + soft) + floor; see `linalg.spectral`.

    Attributes:
        power: 1 is MEMIT's weight, 0 the identity's.
        soft: directions far below this share of the mean eigenvalue go free.
        floor: added to every direction.
        weight: in units of K K^T; by default the method's `moment_weight`.
    """

    power: float = 1.0
    soft: float = 0.0
    floor: float = 0.0
    weight: float = 0.0

    name = "spectral"
    title = "Spectral weight"
    paper = ""
    summary = "Weighs directions of preserved keys by a power and a soft step of their eigenvalues."
    solves = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("power", "a number from 0 to 2", 0 <= self.power <= 2)
        self.check("soft", "a finite number from 0", 0 <= self.soft < 1e300)
        self.check("floor", "a finite number from 0", 0 <= self.floor < 1e300)
        self.check("weight", "a finite number from 0", 0 <= self.weight < 1e300)

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """See Plugin."""
        moment = spectral_weight(
            problem.statistics.spectrum(layer), power=self.power, soft=self.soft, floor=self.floor
        )
        weight = self.weight or parts.moment_weight or problem.hyperparameters.moment_weight
        return replace(parts, second_moment=moment, moment_weight=weight)


PLUGIN = Spectral
