"""Fine-tuning as an editing method: FT, FT-L and LocFT-BF differ in their schedules."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from alphaedit.core.patch import LowRank, Patch
from alphaedit.methods.base import Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Hyperparameters, Settings
from alphaedit.methods.plugin import Memory, chain, run_delta
from alphaedit.methods.solving import Changes, check_layers, refuse_mixtures
from alphaedit.methods.steps.finetune import Schedule, finetune
from alphaedit.methods.timer import Timer


class Bounded(Hyperparameters):
    """Settings of fine-tuning within a box."""

    bound: float = Field(5e-4, gt=0, description="largest change of an entry")


@dataclass(frozen=True)
class FineTune(Method):
    """Adam on one MLP output matrix.

    Attributes:
        batch: facts in a step; 0 for all of them.
        shuffle: new order in each epoch (LocFT-BF).
    """

    batch: int = 0
    shuffle: bool = False

    @property
    def needs(self) -> Needs:
        """One layer; second moments only as a plug-in wants them."""
        return Needs(layers="one", second_moments=False, target_search=False, linear_system=False)

    def bound_of(self, hp: Settings) -> float | None:
        """The largest change of an entry, if there is one (FT-L)."""
        return hp.bound if isinstance(hp, Bounded) else None

    def solve(self, problem: Problem[Any]) -> Solution:
        """Compute the patch for `problem.facts`; the model is left as it was, bit for bit."""
        hp = problem.hyperparameters
        check_layers(problem)
        refuse_mixtures(problem, self.name)
        layer = one_layer(problem, self.name)
        chosen = chain(hp, method=self)
        timer, memory = Timer(), dict(problem.state.memory)
        schedule = Schedule(
            epochs=hp.steps,
            batch=self.batch or len(problem.facts),
            learning_rate=hp.learning_rate,
            stop_loss=hp.stop_loss,
            bound=self.bound_of(hp),
            shuffle=self.shuffle,
            end_of_text=hp.end_of_text,
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
        plugin_memory: Memory = memory
        with timer.phase("plug-ins"):
            delta = run_delta(chosen, problem, layer, delta, plugin_memory)
        changes: Changes = {layer: delta}
        for plugin in chosen:
            plugin.after(problem, changes, {}, plugin_memory)
        edits = problem.state.edits + len(problem.facts)
        patch = Patch(
            weights={problem.handle.edited_name(layer): delta}, metadata={"losses": losses}
        )
        return Solution(patch, replace(problem.state, edits=edits, memory=memory), timer.seconds)
