"""The weight of the second moment inside a null space, where no preset says it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import null_space
from alphaedit.locate.trials import moment_weight
from alphaedit.locate.well_known import probes
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.keys import BatchKeys
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

GIVEN_UP = 0.2
"""Of a fact alone: the bundled models were tuned to 0.03, SmolLM2 to 0.9 (docs/best-default.md)."""
VERSION = 1
"""Of the way it is measured."""


def weight_inside(
    handle: ModelHandle,
    statistics: ModelStatistics,
    values: Mapping[str, Any],
    over: Mapping[str, Any],
    seed: int,
) -> dict[str, float]:
    """The weight at which a fact alone is given up by `GIVEN_UP`, as a setting.

    A fact whose key has k^T (w C)^-1 k = q inside the null space is met up to q / (1 + q): the
    weight is that at which 1 / q is so much, q the mean over well-known facts, 1 / q that over
    layers. It is kept beside the second moments. Nothing where it is given, or no layers are known.

    Args:
        values: layers and null space that are known.
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
    key = {
        "kind": "weight",
        "version": str(VERSION),
        "model": statistics.model,
        "layers": json.dumps(list(layers)),
        "space": json.dumps(space),
        "seed": str(seed),
    }
    ranks, alone = statistics.ranks, handle.sharded
    weight = None if alone else ranks.from_first(statistics.cache.load_json(key))
    if weight is None:
        weight = {"moment_weight": _measured(handle, statistics, list(layers), space, seed)}
        if ranks.first and not alone:
            statistics.cache.save_json(key, weight)
    return dict(weight)


def _measured(
    handle: ModelHandle,
    statistics: ModelStatistics,
    layers: list[int],
    space: Mapping[str, Any],
    seed: int,
) -> float:
    statistics.prepare(layers)
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
    return float(f"{GIVEN_UP / lost:.2g}")
