"""Fine-tuning as an editing method: FT, FT-L and LocFT-BF differ in their schedules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank, Patch
from alphaedit.methods.base import Problem, Solution
from alphaedit.methods.locate_then_edit import check_layers
from alphaedit.methods.plugin import Memory, chain, run_delta
from alphaedit.methods.solving import Changes, refuse_mixtures
from alphaedit.methods.steps.finetune import Schedule, finetune
from alphaedit.methods.timer import Timer


@dataclass(frozen=True)
class FineTune:
    """Adam on one MLP output matrix.

    Attributes:
        batch: facts in a step; 0 for all of them.
        bound: entries change by at most this (FT-L).
        shuffle: new order in each epoch (LocFT-BF).
    """

    name: str
    title: str
    paper: str
    summary: str
    batch: int = 0
    bound: float | None = None
    shuffle: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)
    one_by_one: bool = True  # edits one layer
    searches: bool = False

    def solve(self, problem: Problem) -> Solution:
        """Compute the patch for `problem.facts`; the model is left as it was, bit for bit."""
        hp = problem.hyperparameters
        check_layers(problem)
        refuse_mixtures(problem, self.name)
        if len(hp.layers) != 1:
            raise ConfigError(f"{self.name} edits one layer.", remedy="Give one layer.")
        chosen = chain(hp, method=self.name, solves=False, searches=False)
        (layer,) = hp.layers
        timer, memory = Timer(), dict(problem.state.memory)
        schedule = Schedule(
            epochs=hp.steps,
            batch=self.batch or len(problem.facts),
            learning_rate=hp.learning_rate,
            stop_loss=hp.stop_loss,
            bound=hp.bound if hp.bound is not None else self.bound,
            shuffle=self.shuffle,
        )
        with timer.phase("fine-tuning"):
            matrix, losses = finetune(
                problem.handle,
                problem.facts,
                layer,
                schedule,
                restrain=[r for plugin in chosen if (r := plugin.restrain(problem, layer))],
                seed=problem.seed,
                progress=problem.progress,
            )
        delta = LowRank.dense(matrix)
        kept: Memory = memory
        with timer.phase("plug-ins"):
            delta = run_delta(chosen, problem, layer, delta, kept)
        changes: Changes = {layer: delta}
        for plugin in chosen:
            plugin.after(problem, changes, {}, kept)
        edits = problem.state.edits + len(problem.facts)
        patch = Patch(
            weights={problem.handle.edited_name(layer): delta}, metadata={"losses": losses}
        )
        return Solution(patch, replace(problem.state, edits=edits, memory=memory), timer.seconds)
