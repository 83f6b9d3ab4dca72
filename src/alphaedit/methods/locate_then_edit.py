"""The pipeline of the MEMIT family: keys, target values, one linear system a layer, spread.

The methods differ in the parts named by `LocateThenEdit`'s fields and in the plug-ins they bring
along, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.core.site import Site
from alphaedit.linalg.lowrank import concatenate
from alphaedit.linalg.solve import RomeSystem
from alphaedit.methods.base import Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.plugin import Memory, Plugin, chain, make
from alphaedit.methods.plugins.project import preserved_null_space
from alphaedit.methods.solving import Changes, Solver, check_layers, named
from alphaedit.methods.steps.budget import heaviest, spent_by, within
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.keys import (
    BatchKeys,
    check_finite,
    keys_and_values,
    prompts_in_context,
    tell_massive,
)
from alphaedit.methods.steps.outputs import find_outputs
from alphaedit.methods.steps.relational import Maker
from alphaedit.methods.steps.target_value import Targets, find_targets
from alphaedit.methods.timer import Timer
from alphaedit.model.residual_gain import pull_back

Expand = Callable[[Problem[Any]], Sequence[Fact]]
"""Turns the facts of a problem into those that are solved for."""
SCALE = "budget/scale"
"""In a run's memory: the factor on the system's weights that its last batch needed."""
_Solved = tuple[Changes, dict[int, Tensor], float]


@dataclass(frozen=True)
class LocateThenEdit(Method):
    """A method of the MEMIT family, as a combination of parts.

    Attributes:
        null_space: solve inside the null space of the preserved keys (AlphaEdit).
        history: keep the keys of earlier batches in the system.
        moment: put the second moment of the preserved keys in the system.
        ridge: put the identity in the system.
        one_by_one: exact rank-one update, one fact after another (ROME).
        history_after: keep the keys as they are after all layers changed, as AlphaEdit's published
            code does, instead of those solved with.
        equality: the facts are constraints, not least squares (EMMET).
        expand: solve for other facts than those given (AnyEdit's chunks).
        maker: what makes a fact's delta in the target search, one by one (GLAME).
    """

    null_space: bool = False
    history: bool = False
    moment: bool = False
    ridge: bool = False
    one_by_one: bool = False
    history_after: bool = False
    equality: bool = False
    expand: Expand | None = None
    maker: Callable[[Problem[Any], Fact, int], Maker] | None = None

    @property
    def needs(self) -> Needs:
        """Statistics of the layers, and a target search."""
        return Needs(
            layers="one" if self.one_by_one else "several",
            null_space=self.null_space,
            linear_system=not self.one_by_one,
            moment=self.moment,
            ridge=self.ridge,
        )

    def solve(self, problem: Problem[Any]) -> Solution:
        """Compute the patch for `problem.facts`; the model is left as it was, bit for bit."""
        return self.run(problem).solution()

    def run(self, problem: Problem[Any]) -> Run:
        """The run of one batch, with the plug-ins that are asked for."""
        check_layers(problem)
        if self.one_by_one:
            one_layer(problem, self.name)
        own = [make(spec) for spec in self.plugins]
        chosen = chain(problem.hyperparameters, own, method=self)
        for plugin in chosen:
            hp = plugin.search(problem.hyperparameters)
            problem = replace(problem, hyperparameters=hp)
        if self.null_space or any(plugin.name == "project" for plugin in chosen):
            for layer in problem.hyperparameters.layers:
                # Those of experts are made when it is known which of them fire.
                if problem.handle.experts(layer) is None:
                    preserved_null_space(problem, layer)
        return Run(self, problem, chosen)


class Run:
    """One batch."""

    def __init__(self, method: LocateThenEdit, problem: Problem, plugins: Sequence[Plugin]) -> None:
        self.method = method
        self.problem = problem
        self.plugins, self.timer = plugins, Timer()
        self.memory: Memory = dict(problem.state.memory)
        self.state = problem.state
        self.contexts = self._contexts()

    def _contexts(self) -> tuple[str, ...]:
        """As many texts as are asked for: those of earlier batches, or more of them."""
        hp, contexts = self.problem.hyperparameters, self.state.contexts or ()
        if len(contexts) < hp.contexts:
            with self.timer.phase("contexts"):
                handle, seed = self.problem.handle, self.problem.seed
                texts = generate_contexts(handle, hp.contexts, hp.context_tokens, seed)
            self.state = replace(self.state, contexts=self.problem.ranks.from_first(texts))
        return (self.state.contexts or ())[: hp.contexts]

    def solution(self) -> Solution:
        """The patch, and the state after it."""
        problem = self.problem
        facts = self.method.expand(problem) if self.method.expand else problem.facts
        solve = self._one_by_one if self.method.one_by_one else self._batch
        deltas, keys, losses = solve(facts)
        for plugin in self.plugins:
            plugin.after(problem, deltas, keys, self.memory)
        if self.method.history:
            self.state = self.state.absorb(keys)
        edits = problem.state.edits + len(problem.facts)
        state = replace(self.state, edits=edits, memory=self.memory)
        patch = Patch(weights=named(problem.handle, deltas), metadata=state.told(losses))
        return Solution(patch, state, self.timer.seconds)

    def targets(self, facts: Sequence[Fact], layer: int, reference: Tensor | None) -> Targets:
        """Target values behind `layer`: those that are given, or searched."""
        given = self.problem.targets
        return self.with_plugins(facts, lambda: given or self._searched(facts, layer, reference))

    def with_plugins(self, facts: Sequence[Fact], search: Callable[[], Targets]) -> Targets:
        """What a search finds, as the plug-ins leave it."""
        problem = self.problem
        with self.timer.phase("targets"), ExitStack() as searching:
            for plugin in self.plugins:
                searching.enter_context(plugin.searching(problem, self.memory))
            targets = search()
            for plugin in self.plugins:
                targets = plugin.targets(problem, targets, self.memory)
        check_finite("target values", targets.values, facts)
        return targets

    def outputs(self, facts: Sequence[Fact]) -> Targets:
        """Targets of the outputs of all edited matrices, [layers * d_out, u]."""
        problem, ranks = self.problem, self.problem.ranks
        mine = ranks.share(len(facts))
        targets: Targets | None = None
        if mine:
            targets = find_outputs(
                problem.handle,
                facts[mine.start : mine.stop],
                problem.hyperparameters.layers,
                self.contexts,
                problem.hyperparameters,
                progress=problem.progress,
            )
        first, *rest = problem.hyperparameters.layers
        size = (1 + len(rest)) * problem.handle.d_out(first)
        return self._of_all_ranks(targets, size, facts, first)

    def _searched(self, facts: Sequence[Fact], layer: int, reference: Tensor | None) -> Targets:
        """The search, each rank on its share of the facts."""
        problem, ranks = self.problem, self.problem.ranks
        mine = ranks.share(len(facts))
        make_delta = self.method.maker
        targets: Targets | None = None
        if mine:
            targets = find_targets(
                problem.handle,
                facts[mine.start : mine.stop],
                layer,
                self.contexts,
                problem.hyperparameters,
                reference=None if reference is None else reference[mine.start : mine.stop],
                maker=make_delta(problem, facts[0], layer) if make_delta else None,
                progress=problem.progress,
            )
        return self._of_all_ranks(targets, problem.handle.d_out(layer), facts, layer)

    def _of_all_ranks(
        self, own: Targets | None, size: int, facts: Sequence[Fact], layer: int
    ) -> Targets:
        ranks, like = self.problem.ranks, self._like(layer)
        if ranks.size == 1 and own is not None:
            return own
        losses = ranks.objects(own.losses if own else [])
        return Targets(
            values=ranks.columns(own.values if own else None, size, len(facts), like),
            clean=ranks.columns(own.clean if own else None, size, len(facts), like),
            losses=[row for part in losses for row in part],
        )

    def _like(self, layer: int) -> Tensor:
        handle = self.problem.handle
        return torch.empty(0, dtype=handle.wide, device=handle.weight_device(layer))

    def keys(self, facts: Sequence[Fact], layer: int) -> Tensor:
        """Keys of `layer`, each rank's share of the facts put together."""
        mine = self.problem.ranks.share(len(facts))
        own, handle, some = None, self.problem.handle, facts[mine.start : mine.stop]
        if mine:
            own = keys_and_values(handle, some, self.contexts, layer, layer)[0]
        return self._columns(own, handle.d_in(layer), facts, layer)

    def _batch_keys(self, facts: Sequence[Fact]) -> BatchKeys | None:
        """What gives the keys of this rank's share of the facts, if it has one."""
        mine = self.problem.ranks.share(len(facts))
        if not mine:
            return None
        layers, own = self.problem.hyperparameters.layers, facts[mine.start : mine.stop]
        return BatchKeys(self.problem.handle, own, self.contexts, layers)

    def _columns(self, own: Tensor | None, size: int, facts: Sequence[Fact], layer: int) -> Tensor:
        return self.problem.ranks.columns(own, size, len(facts), self._like(layer))

    def _pulled_back(self, facts: Sequence[Fact], layer: int, wanted: Tensor) -> Tensor:
        """From a change of hidden states to one of the edited module's output, [d_out, u]."""
        rows, lasts = prompts_in_context(self.problem.handle, facts, ())
        return pull_back(self.problem.handle, rows, lasts, layer, wanted)

    def _solver(self, memory: Memory, scale: float = 1.0) -> Solver:
        past = self.state.past_keys if self.method.history else {}
        batches = self.state.batches
        return Solver(self.method, self.problem, self.plugins, memory, past, batches, scale)

    def _batch(self, facts: Sequence[Fact]) -> tuple[Changes, dict[int, Tensor], list[float]]:
        """Deltas by layer or expert, keys [d_in, u] by layer, and the last losses."""
        handle, hp = self.problem.handle, self.problem.hyperparameters
        direct = handle.adds_directly or self.method.maker is not None
        goal = _AtTheEnd(self, facts) if direct else _AtEachLayer(self, facts)
        weighed = hp.kl_budget is not None or hp.least_change is not None
        solved = (self._weighed if weighed else self._layers)(facts, goal)
        return solved[0], solved[1], [row[-1] for row in goal.targets.losses]

    def _weighed(self, facts: Sequence[Fact], goal: _Goal) -> _Solved:
        """As `_layers`, with the weights that a budget allows or that the facts still bear."""
        hp, start = self.problem.hyperparameters, self.memory.get(SCALE)
        memory, first = dict(self.memory), 1.0 if start is None else float(start)

        def solve(scale: float) -> tuple[tuple[_Solved, Memory], float]:
            self.memory = dict(memory)
            solved = self._layers(facts, goal, scale)
            return (solved, self.memory), solved[2]

        if hp.least_change is not None:
            (solved, self.memory), scale = heaviest(solve, hp.least_change, first)
        elif hp.kl_budget is not None and self.problem.kl is not None:
            (solved, self.memory), scale = within(solve, hp.kl_budget, first)[:2]
        else:
            raise ConfigError(
                "A KL budget needs held-out text to measure it on, and nobody gives any.",
                remedy="Edit by an Editor, or leave kl_budget out.",
            )
        self.memory[SCALE] = torch.tensor(scale, dtype=torch.float64)
        return solved

    def _layers(self, facts: Sequence[Fact], goal: _Goal, scale: float = 1.0) -> _Solved:
        """Deltas and keys, layer after layer, and what `spent_by` says of them."""
        problem, hp, handle = self.problem, self.problem.hyperparameters, self.problem.handle
        slack = hp.conditioning if self.method.equality else 1.0
        solver = self._solver(self.memory, scale)
        with self.timer.phase("keys"):
            parts = self._parts(facts, goal, solver)
            batch = self._batch_keys(facts)
        deltas: Changes = {}
        used: dict[int, Tensor] = {}
        with ExitStack() as applied:
            for index, layer in enumerate(hp.layers):
                problem.progress("layers", index, len(hp.layers))
                with self.timer.phase("keys"):
                    own = batch.at(layer) if batch else (None, None)
                    keys = self._columns(own[0], handle.d_in(layer), facts, layer)
                    residual = goal.residual(layer, batch, own[1])
                    residual = residual / parts[index].to(residual)
                check_finite("keys", keys, facts)
                if batch:
                    tell_massive(problem, layer, batch.bare_keys, batch.facts)
                with self.timer.phase("solve"):
                    changes = solver.solve(layer, keys, residual, slack=slack)
                deltas |= changes
                used[layer] = keys
                applied.enter_context(handle.temporarily(named(handle, changes)))
            if self.method.history_after:
                with self.timer.phase("keys"):
                    for layer in hp.layers:
                        used[layer] = self.keys(facts, layer)
            spent = 0.0
            if hp.kl_budget is not None or hp.least_change is not None:
                with self.timer.phase("budget"):
                    spent = problem.ranks.from_first(spent_by(problem, facts, self.contexts))
        problem.progress("layers", len(hp.layers), len(hp.layers))
        return deltas, used, spent

    def _parts(self, facts: Sequence[Fact], goal: _Goal, solver: Solver) -> Tensor:
        """Into how many parts each layer divides what is still missing, [layers, 1 or u]."""
        layers = self.problem.hyperparameters.layers
        if not isinstance(goal, _AtTheEnd):
            return torch.ones(len(layers), 1)
        # A fact by itself, or a layer, takes all the same, and needs no pass for it.
        alone = len(facts) == 1 or len(layers) == 1
        if alone or self.problem.hyperparameters.layer_shares == "even":
            return torch.arange(len(layers), 0, -1)[:, None]
        batch, keys = self._batch_keys(facts), {}
        for layer in layers:
            own = batch.at(layer)[0] if batch else None
            keys[layer] = self._columns(own, self.problem.handle.d_in(layer), facts, layer)
            check_finite("keys", keys[layer], facts)
        return solver.parts_by_reach(keys)

    def _one_by_one(self, facts: Sequence[Fact]) -> tuple[Changes, dict[int, Tensor], list[float]]:
        """As `_batch`, one fact after another at one layer."""
        problem, hp, handle = self.problem, self.problem.hyperparameters, self.problem.handle
        (layer,) = hp.layers
        solver = self._solver(self.memory)
        deltas: dict[Site, list[LowRank]] = {}
        losses: list[float] = []
        systems: dict[Site, RomeSystem] = {}
        with ExitStack() as applied:
            for index, fact in enumerate(facts):
                problem.progress("facts", index, len(facts))
                with self.timer.phase("keys"):
                    key = self.keys([fact], layer)
                    output = handle.times_weight(layer, key)
                targets = self.targets([fact], layer, output.T)
                losses.append(targets.losses[0][-1])
                with self.timer.phase("solve"):
                    residual = self._pulled_back([fact], layer, targets.values - targets.clean)
                    changes = solver.update(layer, key[:, 0], residual[:, 0], systems)
                for site, delta in changes.items():
                    deltas.setdefault(site, []).append(delta)
                applied.enter_context(handle.temporarily(named(handle, changes)))
        problem.progress("facts", len(facts), len(facts))
        return {site: concatenate(parts) for site, parts in deltas.items()}, {}, losses


class _Goal(Protocol):
    """Target values, and what is still lacking of them."""

    targets: Targets

    def residual(self, layer: int, batch: BatchKeys | None, hidden: Tensor | None) -> Tensor:
        """The change [d_out, u] of the matrix's outputs that is still missing."""


class _AtTheEnd:
    """One target a fact, in the residual stream behind the last edited layer, spread over layers.

    What is still missing is divided by the number of layers that are left (MEMIT eq. 20), or by how
    far each of them reaches.
    """

    def __init__(self, run: Run, facts: Sequence[Fact]) -> None:
        self.run, self.facts = run, facts
        self.layers = run.problem.hyperparameters.layers
        self.targets = run.targets(facts, self.layers[-1], None)

    def residual(self, layer: int, batch: BatchKeys | None, hidden: Tensor | None) -> Tensor:
        """The change [d_out, u] of the matrix's outputs that is still missing."""
        run, last = self.run, self.layers[-1]
        size = run.problem.handle.d_out(last)
        values = run._columns(hidden, size, self.facts, layer)
        wanted = self.targets.values.to(values.device) - values
        return run._pulled_back(self.facts, layer, wanted)


class _AtEachLayer:
    """A target for the output of each edited matrix, searched together; see `steps.outputs`."""

    def __init__(self, run: Run, facts: Sequence[Fact]) -> None:
        self.run, self.facts = run, facts
        self.layers = run.problem.hyperparameters.layers
        self.targets = run.with_plugins(facts, lambda: run.outputs(facts))
        self.by_layer = self.targets.values.unflatten(0, (len(self.layers), -1))

    def residual(self, layer: int, batch: BatchKeys | None, hidden: Tensor | None) -> Tensor:
        """The change [d_out, u] of the matrix's outputs that is still missing."""
        run, handle = self.run, self.run.problem.handle
        own = handle.times_weight(layer, batch.bare_keys.T) if batch else None
        now = run._columns(own, handle.d_out(layer), self.facts, layer)
        wanted: Tensor = self.by_layer[self.layers.index(layer)].to(now) - now
        return wanted
