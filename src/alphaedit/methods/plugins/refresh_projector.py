"""BetaEdit's moment inside the null space, and a projector that learns the edits (2026)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, NonFiniteError
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.subspace import Subspace, null_space, spectrum
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Parts, Plugin


@dataclass(frozen=True)
class RefreshProjector(Plugin):
    """Every so many edits the null space is made anew, of preserved and edited keys together.

    P is that of (Kp Kp^T / t + weight C) / (1 + weight), t the number of past keys; the system
    inside it is K K^T + Kp Kp^T + weight C + ridge I.

    Attributes:
        every: edits between two projectors (published: 1,000).
        weight: weight of C, in the system and in the new projector (published: 3,000).
        abort: a batch of b facts whose change has a norm beyond abort sqrt(b) is refused
            (published: 20).
    """

    every: int = 1000
    weight: float = 3000.0
    abort: float = 20.0

    name = "refresh-projector"
    title = "Projector refresh (BetaEdit)"
    paper = "https://arxiv.org/abs/2605.09285"
    summary = "C weighs inside the null space; every 1,000 edits P is made anew with their keys."
    second_moments = True
    solves = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("every", "a whole number from 1", self.every >= 1 and self.every % 1 == 0)
        self.check("weight", "a finite number from 0", 0 <= self.weight < math.inf)
        self.check("abort", "a number above 0", self.abort > 0)

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """See Plugin.

        Raises:
            ConfigError: the method has no null space, or keeps no past keys.
        """
        if parts.subspace is None:
            raise ConfigError(
                "Plug-in refresh-projector needs a method inside a null space.",
                remedy="Use it with alphaedit, or after the plug-in project.",
            )
        moment = problem.statistics.second_moment(layer)
        due = problem.state.edits // self.every
        if due and parts.past_keys is not None:
            parts = replace(parts, subspace=self._space(problem, layer, parts, memory, due))
        return replace(parts, second_moment=moment, moment_weight=self.weight)

    def _space(
        self, problem: Problem, layer: Site, parts: Parts, memory: Memory, due: int
    ) -> Subspace:
        key = f"refresh-projector/{layer}/"
        moment = problem.statistics.second_moment(layer)
        if key + "due" not in memory or int(memory[key + "due"]) != due:
            assert parts.past_keys is not None
            past = parts.past_keys.to(moment)
            mixed = past @ past.T / past.shape[1] + self.weight * moment
            hp = problem.hyperparameters
            made = null_space(
                spectrum(mixed / (1 + self.weight)), threshold=hp.threshold, energy=hp.energy
            )
            memory[key + "due"] = torch.tensor(due)
            memory[key + "basis"] = made.basis.contiguous().cpu()
            memory[key + "complement"] = torch.tensor(int(made.complement))
        return Subspace(
            len(moment), memory[key + "basis"].to(moment), bool(memory[key + "complement"])
        )

    def after(
        self,
        problem: Problem,
        deltas: Mapping[Site, LowRank],
        keys: Mapping[int, Tensor],
        memory: Memory,
    ) -> None:
        """See Plugin.

        Raises:
            NonFiniteError: the change is larger than `abort` allows; nothing was changed.
        """
        for layer, delta in deltas.items():
            size = float(torch.linalg.matrix_norm(delta.matrix()))
            if size > self.abort * math.sqrt(len(problem.facts)):
                raise NonFiniteError(
                    f"The change of layer {layer} has norm {size:.3g}, beyond {self.abort} for "
                    "each square root of a fact.",
                    remedy="Nothing was changed. Raise the ridge, or refresh-projector:abort=...",
                )


PLUGIN = RefreshProjector
