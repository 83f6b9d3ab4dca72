"""Pilot edits: what hyperparameters do to a few facts and to the rest of the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.base import Method, Problem
from alphaedit.methods.config import Settings
from alphaedit.methods.in_force import install
from alphaedit.methods.plugin import needs_moments, statistics_for
from alphaedit.methods.state import SequentialState
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import next_token, score
from alphaedit.stats.drift import held_out, kl
from alphaedit.stats.statistics import ModelStatistics

MOST_NEIGHBORS = 256


@dataclass(frozen=True)
class Measured:
    """What one batch of pilot edits did, every share between 0 and 1.

    Attributes:
        efficacy: mean probability of the new object after the rewrite prompt (exp of the mean
            token log-probability).
        generalization: the same after paraphrases; None without any.
        specificity: mean exp(-KL) of what follows neighborhood prompts, before and after; None
            without any.
        stability: exp(-KL) on held-out text, the KL scaled from the pilots to the edits that are
            planned (it grows in proportion to their number).
        kl: that KL as measured, nats a token.
    """

    efficacy: float
    generalization: float | None
    specificity: float | None
    stability: float
    kl: float

    @property
    def score(self) -> float:
        """Harmonic mean of the shares."""
        shares = [self.efficacy, self.generalization, self.specificity, self.stability]
        given = [share for share in shares if share is not None]
        if not all(share > 0 for share in given):
            return 0.0
        return len(given) / sum(1 / share for share in given)


class Pilot:
    """The facts, and what the unedited model says to everything around them.

    Args:
        facts: edited in one batch.
        planned: how many edits the hyperparameters are for.
    """

    def __init__(
        self,
        handle: ModelHandle,
        statistics: ModelStatistics,
        method: Method,
        facts: Sequence[Fact],
        *,
        planned: int,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        self.handle = handle
        self.statistics = statistics
        self.method = method
        self.facts = list(facts)
        self.scale = max(1.0, planned / len(self.facts))
        self.seed = seed
        self.progress = progress
        self.state = SequentialState()
        neighbors = [p for fact in self.facts for p in fact.neighborhood]
        self.neighbors = neighbors[:: max(1, math.ceil(len(neighbors) / MOST_NEIGHBORS))]
        self.unedited = next_token(handle, self.neighbors) if self.neighbors else None
        self.held_out = held_out(handle, seed=seed)

    def measure(self, hp: Settings) -> Measured:
        """Edit the facts with `hp`, measure, and leave the model as it was, bit for bit.

        Raises:
            AlphaEditError: the hyperparameters cannot be used.
        """
        known = statistics_for(self.method, hp, self.statistics)
        if needs_moments(self.method, hp) and isinstance(known, ModelStatistics):
            known.prepare(hp.layers)
        solution = self.method.solve(
            Problem(
                handle=self.handle,
                facts=self.facts,
                hyperparameters=hp,
                statistics=known,
                state=self.state,
                seed=self.seed,
                progress=self.progress,
            )
        )
        # Contexts are drawn by the seed: the same every time, so drawn once.
        self.state = replace(self.state, contexts=solution.state.contexts)
        with self.handle.temporarily(solution.patch.weights), ExitStack() as stack:
            if solution.patch.changes:
                stack.callback(install(self.handle, solution.patch.changes))
            return self._now()

    def _now(self) -> Measured:
        rewrites = [(fact.text, fact.target) for fact in self.facts]
        others = [(p, fact.target) for fact in self.facts for p in fact.paraphrases]
        scores = [s.p for s in score(self.handle, rewrites + others)]
        specificity = None
        if self.unedited is not None:
            moved = kl(self.unedited, next_token(self.handle, self.neighbors)).clamp_min(0)
            specificity = float(moved.neg().exp().mean())
        drift = self.held_out.drift(self.handle)
        return Measured(
            efficacy=_mean(scores[: len(rewrites)]),
            generalization=_mean(scores[len(rewrites) :]) if others else None,
            specificity=specificity,
            stability=math.exp(-self.scale * max(0.0, drift.kl)),
            kl=drift.kl,
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
