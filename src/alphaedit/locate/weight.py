"""The weight of the second moment inside a null space, where no preset says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alphaedit.core.defaults import WEIGHTS
from alphaedit.core.progress import Progress, silent
from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import null_space
from alphaedit.locate.trials import SCALES, moment_weight
from alphaedit.locate.well_known import probes
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters, build
from alphaedit.methods.registry import get_method
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.keys import BatchKeys
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.methods.systems import Systems
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score
from alphaedit.stats.statistics import ModelStatistics

GIVEN_UP = 0.2
"""Of a fact alone, where trials cannot tell."""
LOST = 0.02
"""Share of p(new) after paraphrases of trial edits that the weight may cost; tuned on hundreds of
facts it costs 0.03 on SmolLM2 and 0.01 on the bundled model.
"""
LIGHT, FIRST = 0.02, 0.1
"""What a fact alone is given up by where the weight costs nothing, and at the first that is tried.
"""
FACTOR, STEPS = 2.0, 8
"""From one weight to the next, at most so many."""
PHASE, MOST = "weights", STEPS + 3
"""Of the progress: its name, and how many weights are tried at most."""
TOLD = 0.05
"""A mean p(new) after paraphrases below which trial edits tell nothing of the weight."""
VERSION = 5
"""Of the way it is measured."""


def weight_inside(
    handle: ModelHandle,
    statistics: ModelStatistics,
    values: Mapping[str, Any],
    over: Mapping[str, Any],
    seed: int,
    progress: Progress = silent,
) -> dict[str, float]:
    """The heaviest weight at which trial edits still reach paraphrases, as a setting.

    The heavier the weight, the less other text moves, and up to a point nothing is lost for it:
    well-known facts are edited together, their targets searched once, at weights from light to
    heavy, until p(new) after their paraphrases falls by `LOST`. Where targets are reached through
    a norm or factor, or the model does not say even trial edits, it is the weight at which a fact
    alone is given up by `GIVEN_UP`; see `_given_up`. It is kept beside the second moments. Nothing
    where it is given, or no layers are known.

    Args:
        values: layers, null space and scale of the search that are known.
        over: what is given in their place.
    """
    known = {**values, **{name: value for name, value in over.items() if value is not None}}
    layers = known.get("layers")
    if not layers or over.get("moment_weight") is not None:
        return {}
    if any(map(handle.experts, layers)):
        return {"moment_weight": moment_weight(handle, layers)}
    cut = "energy" if known.get("threshold") is None else "threshold"
    space = {cut: known.get(cut)}
    if space[cut] is None:
        return {}
    search = {name: known[name] for name in (*SCALES, "contexts") if name in known}
    key = {
        "kind": "weight",
        "version": str(VERSION),
        "model": statistics.model,
        "layers": json.dumps(list(layers)),
        "space": json.dumps(space),
        "search": json.dumps(search, sort_keys=True),
        "seed": str(seed),
    }
    ranks, alone = statistics.ranks, handle.sharded
    weight = None if alone else ranks.from_first(statistics.cache.load_json(key))
    if weight is None:
        statistics.prepare(layers)
        at_one = _given_up(handle, statistics, list(layers), space, seed)
        heaviest = GIVEN_UP / at_one
        if handle.adds_directly:
            settings = {**search, **space, "layers": tuple(layers)}
            trial = TrialEdits(handle, statistics, settings, seed, progress)
            heaviest = _heaviest(trial, at_one) or heaviest
            progress(PHASE, MOST, MOST)
        weight = {"moment_weight": float(f"{heaviest:.2g}")}
        if ranks.first and not alone:
            statistics.cache.save_json(key, weight)
    return dict(weight)


class TrialEdits:
    """Edits of well-known facts at one weight after the other, and undone.

    Args:
        settings: layers, null space and scale of the search.
    """

    def __init__(
        self,
        handle: ModelHandle,
        statistics: ModelStatistics,
        settings: Mapping[str, Any],
        seed: int,
        progress: Progress = silent,
    ) -> None:
        self.progress, self.done = progress, 0
        asked = probes(handle, seed=seed)
        facts = [probe.fact for probe in asked]
        self.method = get_method(WEIGHTS)
        hp = build({**self.method.always, **settings}, "trial edits", self.method.config)
        assert isinstance(hp, Hyperparameters)
        self.hp = hp
        contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, seed)
        self.problem = Problem(
            handle=handle,
            facts=facts,
            hyperparameters=self.hp,
            statistics=statistics,
            state=SequentialState(contexts=contexts),
            seed=seed,
            targets=find_targets(handle, facts, hp.layers[-1], contexts, hp, progress=progress),
        )
        self.asked = [(text, fact.target) for fact in facts for text in fact.paraphrases]

    def reaches(self, weight: float) -> float:
        """Mean p(new) after paraphrases, with the edits made at `weight`."""
        self.progress(PHASE, self.done, MOST)
        self.done += 1
        hp = self.hp.model_copy(update={"moment_weight": weight})
        problem = replace(self.problem, hyperparameters=hp, systems=Systems())
        with self.problem.handle.temporarily(self.method.solve(problem).patch.weights):
            scores = score(self.problem.handle, self.asked)
        return sum(answer.p for answer in scores) / max(1, len(scores))


def _heaviest(trial: TrialEdits, at_one: float) -> float | None:
    """The heaviest weight that costs no more than `LOST`; None where trials tell nothing."""
    free = trial.reaches(LIGHT / at_one)
    if free < TOLD:
        return None
    weight = FIRST / at_one
    up = trial.reaches(weight) >= (1 - LOST) * free
    for _ in range(STEPS):
        other = weight * FACTOR if up else weight / FACTOR
        fits = trial.reaches(other) >= (1 - LOST) * free
        if up and not fits:
            break
        weight = other
        if fits and not up:
            break
    between = weight * FACTOR**0.5
    return between if trial.reaches(between) >= (1 - LOST) * free else weight


def _given_up(
    handle: ModelHandle,
    statistics: ModelStatistics,
    layers: list[int],
    space: Mapping[str, Any],
    seed: int,
) -> float:
    """What a fact alone is given up by at a weight of 1; it grows with the weight.

    A fact whose key has k^T (w C)^-1 k = q inside the null space is met up to q / (1 + q), and
    given up by about 1 / q: q is the mean over well-known facts, 1 / q that over layers.
    """
    facts = [probe.fact for probe in probes(handle, seed=seed)]
    batch, lost = BatchKeys(handle, facts, (), layers), 0.0
    conditioning = float(Hyperparameters.model_fields["conditioning"].default)
    for layer in layers:
        moment = statistics.second_moment(layer)
        system = System(
            ridge=conditioning * float(moment.diagonal().mean()),
            subspace=null_space(statistics.spectrum(layer), **space),
            second_moment=moment,
            moment_weight=1.0,
        )
        lost += 1 / float(system.reach(batch.at(layer)[0]).mean()) / len(layers)
    return lost
