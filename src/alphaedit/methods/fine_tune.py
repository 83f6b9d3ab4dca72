"""Fine-tuning as an editing method: FT, FT-L and LocFT-BF differ in their schedules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from alphaedit.core.patch import LowRank, Patch
from alphaedit.methods.base import Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Hyperparameters, Settings
from alphaedit.methods.plugin import Memory, Plugin, chain, run_delta
from alphaedit.methods.solving import Changes, check_layers, named, refuse_mixtures
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
        timer = Timer()
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
        return finished(problem, chosen, {layer: LowRank.dense(matrix)}, losses, timer)


def finished(
    problem: Problem[Any],
    chosen: Sequence[Plugin],
    changes: Changes,
    losses: Sequence[float],
    timer: Timer,
) -> Solution:
    """The solution of changes that gradients found, as plug-ins leave them.

    Args:
        losses: the last of each fact.
    """
    plugin_memory: Memory = dict(problem.state.memory)
    with timer.phase("plug-ins"):
        changes = {
            site: run_delta(chosen, problem, site, delta, plugin_memory)
            for site, delta in changes.items()
        }
    for plugin in chosen:
        plugin.after(problem, changes, {}, plugin_memory)
    edits = problem.state.edits + len(problem.facts)
    state = replace(problem.state, edits=edits, memory=plugin_memory)
    patch = Patch(weights=named(problem.handle, changes), metadata={"losses": list(losses)})
    return Solution(patch, state, timer.seconds)
