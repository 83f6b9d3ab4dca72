"""Hyperparameters for a model: a preset that knows it, or what the model itself shows."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress
from alphaedit.locate.suggest import key_energy, read_out, window
from alphaedit.methods.base import Method
from alphaedit.methods.config import Hyperparameters, build, preset, presets
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

ENERGY = 0.98
RIDGE_SHARE = 0.1
"""Ridge of unknown models, as a share of the mean squared norm of the projected keys."""


def matching(handle: ModelHandle) -> str | None:
    """Name of the preset whose `match` fits the model, if any."""
    config = handle.model.config.get_text_config()
    facts = {
        "model_type": config.model_type,
        "layers": handle.n_layers,
        "width": handle.d_out(0),
        "inner": handle.d_in(0),
        "bundled": getattr(handle.model.config, "alphaedit_world", None) is not None,
    }
    for name, entry in presets().items():
        match: Mapping[str, Any] = entry.get("match", {})
        if match and all(facts.get(key) == value for key, value in match.items()):
            return name
    return None


def _shown(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: Method,
    facts: Sequence[Fact],
    over: Mapping[str, Any],
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Layers from where the subject is read; scales relative to hidden states and keys."""
    if not facts:
        raise ConfigError(
            "No preset knows this model, and without facts nothing can be measured on it.",
            remedy="Give facts, or a preset, or at least layers.",
        )
    found = read_out(handle, facts, seed=seed, progress=progress)
    layers = tuple(over.get("layers") or window(found.layer, handle.n_layers))
    if getattr(method, "one_by_one", False) and "layers" not in over:
        layers = layers[-1:]
    last = min(layers[-1], len(found.norms) - 1)
    values: dict[str, Any] = {
        "layers": layers,
        "learning_rate": 0.2 * found.norms[last] / handle.d_out(last) ** 0.5,
        "moment_weight": handle.d_in(last) / 10,
    }
    needs_space = getattr(method, "null_space", False) or bool(over.get("project"))
    if needs_space and "threshold" not in over:
        values["energy"] = over.get("energy", ENERGY)
    if getattr(method, "ridge", False) and "ridge" not in over:
        statistics.prepare(layers)
        keys = key_energy(handle, facts, layers)
        space = {k: over.get(k, values.get(k)) for k in ("threshold", "energy")}
        squares = [
            float(statistics.subspace(layer, **space).project(keys[layer].T).square().sum(0).mean())
            for layer in layers
        ]
        values["ridge"] = RIDGE_SHARE * sum(squares) / len(squares)
    return values


def choose(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: Method,
    *,
    preset_name: str | None,
    facts: Sequence[Fact],
    over: Mapping[str, Any],
    memory: MutableMapping[tuple[str, str | None], dict[str, Any]],
    seed: int,
    progress: Progress,
) -> Hyperparameters:
    """Hyperparameters of `method` for this model.

    In this order, later ones winning: the method's own defaults; the preset named, or the one whose
    `match` fits, or what the model shows; `over`. What a model shows is measured once and kept in
    `memory`, so that later batches of a sequence use the same.

    Raises:
        UnknownNameError: no such preset or field.
        ConfigError: a value out of range, or nothing to choose from.
    """
    name = preset_name or matching(handle)
    where = f"preset {name}" if name else f"hyperparameters of {method.name}"
    build({"layers": (0,), **over}, where)
    if name:
        values = preset(name, method.name)
    else:
        key = (method.name, repr(sorted(over.items())))
        if key not in memory:
            memory[key] = _shown(handle, statistics, method, facts, over, seed, progress)
        values = memory[key]
    defaults = getattr(method, "defaults", {})
    if over.get("threshold") is not None:
        values = {k: v for k, v in values.items() if k != "energy"}
    if over.get("energy") is not None:
        values = {k: v for k, v in values.items() if k != "threshold"}
    return build({**defaults, **values, **over}, where)
