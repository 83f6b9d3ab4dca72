"""NSE: targets on the unedited weights, changes in the active neurons only (2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.restrain import active_neurons
from alphaedit.linalg.subspace import Subspace
from alphaedit.methods.base import Problem
from alphaedit.methods.plugin import Memory, Parts, Plugin
from alphaedit.methods.running_sum import added


@dataclass(frozen=True)
class Nse(Plugin):
    """Rewinds the weights for the target search, and changes the most active neurons only.

    Attributes:
        share: the neurons kept hold this share of the batch's activation (published: 0.8).
    """

    share: float = 0.8

    name = "nse"
    title = "NSE"
    paper = "https://arxiv.org/abs/2410.04045"
    summary = "Target values from the unedited weights; columns of the most active neurons change."
    solves = True
    searches = True

    def __post_init__(self) -> None:
        """Check the options."""
        self.check("share", "a share above 0, up to 1", 0 < self.share <= 1)

    @contextmanager
    def searching(self, problem: Problem, memory: Memory) -> Iterator[None]:
        """See Plugin."""
        undone = {
            problem.handle.edited_name(site): LowRank(
                -memory[f"nse/{site}/left"], memory[f"nse/{site}/right"]
            )
            for layer in problem.hyperparameters.layers
            for site in problem.handle.sites(layer)
            if f"nse/{site}/left" in memory
        }
        with problem.handle.temporarily(undone):
            yield

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """See Plugin."""
        if parts.subspace is not None:
            return parts
        neurons = active_neurons(parts.keys, self.share)
        basis = torch.zeros(len(parts.keys), len(neurons)).to(parts.keys)
        basis[neurons, torch.arange(len(neurons), device=basis.device)] = 1
        return replace(parts, subspace=Subspace(len(basis), basis, complement=False))

    def after(
        self,
        problem: Problem,
        deltas: Mapping[Site, LowRank],
        keys: Mapping[int, Tensor],
        memory: Memory,
    ) -> None:
        """See Plugin."""
        for layer, delta in deltas.items():
            added(memory, f"nse/{layer}", delta)


PLUGIN = Nse
