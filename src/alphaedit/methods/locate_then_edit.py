"""The pipeline of the MEMIT family: keys, target values, one linear system a layer, spread.

AlphaEdit, MEMIT with and without history, and ROME differ in the parts named by `LocateThenEdit`'s
fields, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.linalg.lowrank import concatenate
from alphaedit.linalg.solve import System, rome_update
from alphaedit.linalg.subspace import Subspace, null_space
from alphaedit.methods.base import Problem, Solution
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.keys import check_finite, keys_and_values
from alphaedit.methods.steps.target_value import find_targets


class Timer:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the block to `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


@dataclass(frozen=True)
class LocateThenEdit:
    """A method of the MEMIT family, as a combination of parts.

    Attributes:
        null_space: solve inside the null space of the preserved keys (AlphaEdit).
        history: keep the keys of earlier batches in the system.
        moment: put the second moment of the preserved keys in the system.
        ridge: put the identity in the system.
        one_by_one: exact rank-one update, one fact after another (ROME).
    """

    name: str
    title: str
    paper: str
    summary: str
    null_space: bool = False
    history: bool = False
    moment: bool = False
    ridge: bool = False
    one_by_one: bool = False
    defaults: dict[str, Any] = field(default_factory=dict)

    def solve(self, problem: Problem) -> Solution:
        """Compute the patch for `problem.facts`; the model is left as it was, bit for bit."""
        hp = problem.hyperparameters
        self._check(problem)
        timer = Timer()
        state = problem.state
        if state.contexts is None:
            with timer.phase("contexts"):
                texts = generate_contexts(
                    problem.handle, hp.contexts, hp.context_tokens, problem.seed
                )
            state = replace(state, contexts=texts)
        if self.one_by_one:
            return self._one_by_one(problem, state, timer)
        deltas, keys, losses = self._batch(problem, problem.facts, state, timer)
        state = state.absorb(keys if self.history else {})
        if not self.history:
            state = replace(state, edits=state.edits + len(problem.facts))
        patch = Patch(weights=deltas, metadata=_metadata([row[-1] for row in losses], state))
        return Solution(patch, state, timer.seconds)

    def _check(self, problem: Problem) -> None:
        hp, handle = problem.hyperparameters, problem.handle
        for layer in hp.layers:
            if layer >= handle.n_layers:
                raise ConfigError(
                    f"Layer {layer} is out of range: the model has layers 0 to "
                    f"{handle.n_layers - 1}.",
                    remedy="Choose layers of this model, or another preset.",
                )
        if (self.null_space or hp.project) and hp.threshold is None and hp.energy is None:
            raise ConfigError(
                f"{self.name} needs a null space.", remedy="Give a threshold or an energy."
            )
        if self.one_by_one and len(hp.layers) != 1:
            raise ConfigError(f"{self.name} edits one layer.", remedy="Give one layer.")

    def _subspace(self, problem: Problem, layer: int) -> Subspace:
        hp = problem.hyperparameters
        spectrum = problem.statistics.spectrum(layer)
        return null_space(spectrum, threshold=hp.threshold, energy=hp.energy)

    def _system(self, problem: Problem, layer: int, keys: Tensor, past: Tensor | None) -> System:
        hp = problem.hyperparameters
        weight = hp.moment_weight if self.moment else 0.0
        moment = problem.statistics.second_moment(layer) if weight else None
        space = self._subspace(problem, layer) if self.null_space else None
        ridge = _ridge(hp, space, keys) if self.ridge else 0.0
        if moment is not None:
            ridge += weight * hp.conditioning * float(moment.diagonal().mean())
        return System(
            ridge=ridge,
            subspace=space,
            second_moment=moment,
            moment_weight=weight,
            past_keys=past,
        )

    def _batch(
        self, problem: Problem, facts: Sequence[Fact], state: SequentialState, timer: Timer
    ) -> tuple[dict[str, LowRank], dict[int, Tensor], list[list[float]]]:
        """Deltas by parameter name, keys by layer [d_in, u], loss trajectories."""
        hp, handle = problem.hyperparameters, problem.handle
        contexts, last = state.contexts or (), hp.layers[-1]
        with timer.phase("targets"):
            found = find_targets(handle, facts, last, contexts, hp, progress=problem.progress)
        check_finite("target values", found.values, facts)
        deltas: dict[str, LowRank] = {}
        used: dict[int, Tensor] = {}
        with ExitStack() as applied:
            for index, layer in enumerate(hp.layers):
                problem.progress("layers", index, len(hp.layers))
                with timer.phase("keys"):
                    keys, values = keys_and_values(handle, facts, contexts, layer, last)
                check_finite("keys", keys, facts)
                residual = (found.values.to(values.device) - values) / (len(hp.layers) - index)
                with timer.phase("solve"):
                    past = state.past_keys.get(layer) if self.history else None
                    delta = self._system(problem, layer, keys, past).solve(keys, residual)
                    if hp.project and not self.null_space:
                        delta = _projected(delta, self._subspace(problem, layer))
                name = handle.edited_name(layer)
                deltas[name], used[layer] = delta, keys
                applied.enter_context(handle.temporarily({name: delta}))
        problem.progress("layers", len(hp.layers), len(hp.layers))
        return deltas, used, found.losses

    def _one_by_one(self, problem: Problem, state: SequentialState, timer: Timer) -> Solution:
        hp, handle = problem.hyperparameters, problem.handle
        (layer,) = hp.layers
        name, contexts = handle.edited_name(layer), state.contexts or ()
        deltas: list[LowRank] = []
        losses: list[float] = []
        with ExitStack() as applied:
            for index, fact in enumerate(problem.facts):
                problem.progress("facts", index, len(problem.facts))
                with timer.phase("keys"):
                    key, _ = keys_and_values(handle, [fact], contexts, layer, layer)
                    output = handle.weight(layer) @ key
                with timer.phase("targets"):
                    found = find_targets(handle, [fact], layer, contexts, hp, reference=output.T)
                check_finite("target values", found.values, [fact])
                losses.append(found.losses[0][-1])
                with timer.phase("solve"):
                    delta = rome_update(
                        key[:, 0],
                        (found.values - found.clean)[:, 0],
                        problem.statistics.second_moment(layer),
                        conditioning=hp.conditioning,
                    )
                    if hp.project:
                        delta = _projected(delta, self._subspace(problem, layer))
                deltas.append(delta)
                applied.enter_context(handle.temporarily({name: delta}))
        problem.progress("facts", len(problem.facts), len(problem.facts))
        state = replace(state, edits=state.edits + len(problem.facts))
        patch = Patch(weights={name: concatenate(deltas)}, metadata=_metadata(losses, state))
        return Solution(patch, state, timer.seconds)


def _ridge(hp: Hyperparameters, space: Subspace | None, keys: Tensor) -> float:
    if hp.ridge_share is None:
        return hp.ridge
    free = keys if space is None else space.project(keys)
    return hp.ridge_share * float(free.double().square().sum(dim=0).mean())


def _projected(delta: LowRank, subspace: Subspace) -> LowRank:
    return LowRank(delta.left, subspace.project_rows(delta.right).to(delta.right.dtype))


def _metadata(losses: Sequence[float], state: SequentialState) -> dict[str, Any]:
    """What is kept with a patch: final losses, and how much history there is after it."""
    columns = {str(layer): keys.shape[1] for layer, keys in state.past_keys.items()}
    return {"losses": list(losses), "past_columns": columns}
