"""What a method is: a name, a paper, and a function from facts to a Patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.site import Site
from alphaedit.linalg.subspace import Spectrum
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.state import SequentialState
from alphaedit.methods.systems import Systems
from alphaedit.model.handle import ModelHandle


class Statistics(Protocol):
    """Where a method gets what is known of the preserved keys."""

    def second_moment(self, site: Site) -> Tensor:
        """C = E[k k^T] at a layer or expert, [d_in, d_in] float32 or float64."""

    def spectrum(self, site: Site) -> Spectrum:
        """Eigendecomposition of C at a layer or expert."""


@dataclass(frozen=True)
class Problem:
    """All a method may use to compute one batch of edits."""

    handle: ModelHandle
    facts: Sequence[Fact]
    hyperparameters: Hyperparameters
    statistics: Statistics
    state: SequentialState
    seed: int = 0
    progress: Progress = silent
    ranks: Ranks = ALONE
    systems: Systems = field(default_factory=Systems)


@dataclass(frozen=True)
class Solution:
    """A method's answer: the patch, the state after it, and seconds by phase."""

    patch: Patch
    state: SequentialState
    seconds: Mapping[str, float] = field(default_factory=dict)


class Method(Protocol):
    """An editing method. `solve` must leave the model as it found it, bit for bit."""

    name: str
    title: str
    paper: str
    summary: str

    def solve(self, problem: Problem) -> Solution:
        """Compute the patch for a batch of facts."""
