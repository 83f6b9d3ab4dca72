"""Hyperparameters for a model: a preset that knows it, or what the model itself shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from alphaedit.core.edit import Edit
from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress
from alphaedit.linalg.subspace import energy_leaving
from alphaedit.locate.trials import SCALES, Trials, moment_weight, search_settings
from alphaedit.locate.weight import weight_inside
from alphaedit.locate.well_known import probes
from alphaedit.methods.base import Method
from alphaedit.methods.config import Settings, build, overridden
from alphaedit.methods.presets import entry, preset
from alphaedit.methods.presets import matching as of_facts
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

Measured = Mapping[str, Any]
"""Hyperparameters that were measured on a model."""

ENERGY = 0.9
"""Of other text's keys, kept out of the null space of changes that are no solution of a system, and
where targets are reached through a norm or factor: Gemma 3 gains nothing by a wider one.
"""
FREE = 0.8
"""Share of the directions that systems solve in. What an energy leaves differs by model: 0.9 leaves
three quarters of them on the bundled model and a third on SmolLM2 (docs/best-default.md).
"""
RIDGE_SHARE = 0.1
MEASURED = "measured"
"""In the place of a preset's name: none, but what the model itself shows."""
VERSION = 7
"""Of the way layers and scales are measured; what older ones found is not used."""


def shape(handle: ModelHandle) -> dict[str, Any]:
    """What presets know models by: the fields of their `match`."""
    return {
        "model_type": handle.model.config.get_text_config().model_type,
        "layers": handle.n_layers,
        "width": handle.d_out(0),
        "inner": handle.d_in(handle.sites(0)[0]),
        "bundled": handle.is_bundled,
    }


def matching(handle: ModelHandle, *, method: str = "", edits: int = 0) -> str | None:
    """Name of the preset whose `match` fits the model, if any; see `methods.presets.matching`."""
    return of_facts(shape(handle), method=method, edits=edits)


def check_match(handle: ModelHandle, name: str) -> None:
    """Refuse a preset of another model.

    Raises:
        ConfigError: naming what differs.
    """
    facts = shape(handle)
    wanted: Mapping[str, Any] = entry(name).get("match", {})
    wrong = [
        f"{key} {facts.get(key)} in place of {value}"
        for key, value in wanted.items()
        if facts.get(key) != value
    ]
    if wrong:
        raise ConfigError(
            f"Preset {name} is for another model; this one has {', '.join(wrong)}.",
            remedy="Leave --preset out, or make one for this model with `alphaedit tune`.",
        )


def _shown(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: Method,
    over: Mapping[str, Any],
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """What is measured on a model that no preset knows: layers and scales by trial edits.

    It does not depend on the facts that are about to be edited, nor on the method but for how many
    layers it edits; it is kept beside the second moments. What is given is not measured.
    """
    needs = method.needs
    if needs.layers == "none":
        return {}
    if needs.layers == "all":
        return {"layers": tuple(range(handle.n_layers))}
    one_layer = needs.layers == "one"
    given = {k: over[k] for k in ("layers", *SCALES) if k in over}
    key = {
        "kind": "choice",
        "version": str(VERSION),
        "model": statistics.model,
        "one layer": str(one_layer),
        "given": json.dumps(given, sort_keys=True, default=list),
        "contexts": str(over.get("contexts", "")),
        "seed": str(seed),
    }
    # Trials are made by all ranks together, or by none.
    choice = statistics.ranks.from_first(statistics.cache.load_json(key))
    if choice is None:
        tried: dict[str, Any] = {
            "one_layer": one_layer,
            "over": over,
            "seed": seed,
            "progress": progress,
        }
        choice = _tried(given, lambda: Trials(handle, statistics, **tried))
        if statistics.ranks.first:
            statistics.cache.save_json(key, choice)
    layers = tuple(choice["layers"])
    values: dict[str, Any] = {"layers": layers}
    if "moment_weight" in method.config.model_fields:
        values["moment_weight"] = moment_weight(handle, layers)
    if needs_space(method, over):
        values["energy"] = _energy(handle, statistics, method, layers, over)
        if needs.moment:
            scales = {k: choice[k] for k in SCALES if k in choice}
            values |= weight_inside(handle, statistics, {**scales, **values}, over, seed, progress)
    if not needs.target_search:
        return values
    if needs.ridge:
        values["ridge_share"] = RIDGE_SHARE
    return {**values, **{k: choice[k] for k in SCALES if k in choice}}


def _energy(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: Method,
    layers: Sequence[int],
    over: Mapping[str, Any],
) -> float:
    """What leaves `FREE` of the directions to a linear system, the mean over its layers.

    Measured only if it is not given. Experts have null spaces of their own, each when it fires.
    """
    given = any(over.get(name) is not None for name in SPACE)
    solves = method.needs.linear_system and handle.adds_directly
    if given or not solves or any(map(handle.experts, layers)):
        return ENERGY
    statistics.prepare(layers)
    energies = [energy_leaving(statistics.spectrum(layer), FREE) for layer in layers]
    return round(min(max(sum(energies) / len(energies), 0.01), 0.99), 2)


def _tried(given: Mapping[str, Any], make: Callable[[], Trials]) -> dict[str, Any]:
    """Layers and scales by trial edits, but for what is given."""
    if {"layers", "clamp", "learning_rate", "steps"} <= given.keys():
        return dict(given)
    trials = make()
    if {"layers", "clamp"} <= given.keys():
        # Nothing is to be tried; the rate goes with them.
        return {**given, **trials.settings(given["layers"], float(given["clamp"]))}
    best = trials.best()
    return {
        **trials.settings(best.layers, best.clamp),
        "layers": list(best.layers),
        "trial": [best.efficacy, best.generalization, best.specificity],
    }


def _suggested(
    handle: ModelHandle, statistics: ModelStatistics, method: Method, over: Mapping[str, Any]
) -> dict[str, Any]:
    """What a method finds by looking at the model, kept beside the second moments.

    It depends on the unedited model and on what is given, not on the facts.
    """
    key = {
        "kind": "suggested",
        "version": f"{VERSION}.{method.suggests}",
        "model": statistics.model,
        "method": method.name,
        "given": json.dumps(dict(over), sort_keys=True, default=str),
    }
    # All ranks look at the model, or none does; of split models nothing is kept.
    alone = handle.sharded
    suggestion = None if alone else statistics.ranks.from_first(statistics.cache.load_json(key))
    if suggestion is None:
        suggestion = json.loads(json.dumps(dict(method.suggest(handle, over))))
        if suggestion and statistics.ranks.first and not alone:
            statistics.cache.save_json(key, suggestion)
    return dict(suggestion)


SEARCH = (
    "steps",
    "learning_rate",
    "optimizer",
    "stop_loss",
    "clamp",
    "weight_decay",
    "kl_factor",
    "search_dtype",
    "turns",
)
SPACE = ("threshold", "energy")
RIDGE = ("ridge", "ridge_share")


def needs_space(method: Method, over: Mapping[str, Any]) -> bool:
    """Whether `method` with the plug-ins in `over` works inside a null space."""
    specs = [str(spec).partition(":")[0] for spec in over.get("plugins", ())]
    return bool(method.needs.null_space or over.get("project") or "project" in specs)


def _of_preset(name: str, method: Method, over: Mapping[str, Any], n_layers: int) -> dict[str, Any]:
    """What preset `name` says that `method` can use.

    What it says to all methods about target searches is not for those without one; a method in a
    null space of which it says nothing takes AlphaEdit's. One with a second moment there, of which
    the preset says nothing at all, takes the weight of MEMIT with history, all else of AlphaEdit.
    """
    own = preset(name, method.name, shared=False)
    if not own and method.needs.null_space and method.needs.moment:
        history = preset(name, "memit-history", shared=False)
        own = {k: v for k, v in history.items() if k == "moment_weight"}
        own |= {k: v for k, v in preset(name, "alphaedit", shared=False).items() if k not in RIDGE}
    values = {**preset(name, method.name), **own}
    if not method.needs.target_search:
        values = {k: v for k, v in values.items() if k in own or k not in SEARCH}
    model = preset(name, "alphaedit", shared=False)
    if needs_space(method, over) and not any(key in values for key in SPACE):
        values |= {key: model[key] for key in SPACE if key in model}
    if method.needs.null_space and method.needs.ridge and not any(key in values for key in RIDGE):
        values |= {key: model[key] for key in RIDGE if key in model}
    if method.needs.layers == "one":
        values["layers"] = list(values["layers"])[-1:]
    if method.needs.layers == "all" and "layers" not in own:
        values["layers"] = list(range(n_layers))
    # What a preset says to all methods is not for one whose settings are others.
    return {k: v for k, v in values.items() if k in own or k in method.config.model_fields}


def in_a_row(earlier: Sequence[Edit], method: str, facts: int) -> int:
    """How many facts a choice is for: those about to be edited, and those in force by `method`.

    None where some in force were edited by what was measured: history has keys of the layers that
    were edited, so later facts go to the same.
    """
    own = [edit for edit in earlier if edit.method == method]
    return 0 if any(edit.measured for edit in own) else sum(len(e.facts) for e in own) + facts


def _in_use(handle: ModelHandle, preset_name: str | None, method: Method, edits: int) -> str | None:
    """The preset that is named, or the one that fits the model and so many edits."""
    if preset_name == MEASURED:
        return None
    return preset_name or matching(handle, method=method.name, edits=edits)


def choose(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: Method,
    *,
    preset_name: str | None,
    edits: int,
    over: Mapping[str, Any],
    known: Measured | None = None,
    unedited: Callable[[], AbstractContextManager[None]] = nullcontext,
    seed: int,
    progress: Progress,
) -> tuple[Settings, Measured]:
    """Hyperparameters of `method` for this model, and what of them was measured on it.

    In this order, later ones winning: the method's own defaults; the preset named, or the one whose
    `match` fits, or what the model shows; what is always so of the method; `over`.

    Args:
        preset_name: of a preset or its file; `MEASURED` for none, whatever fits.
        edits: how many facts it is for, see `in_a_row`.
        known: what was measured before with the same `over`, to be used again.
        unedited: makes the model as it was before any edit, for the length of a block.

    Raises:
        UnknownNameError: no such preset or field.
        ConfigError: a value out of range, or nothing to choose from.
    """
    name = _in_use(handle, preset_name, method, edits)
    where = f"preset {name}" if name else f"hyperparameters of {method.name}"
    asked = build({"layers": (0,), **over}, where, method.config)
    for layer in asked.layers if method.needs.layers == "none" else ():
        handle.block(layer)  # of others the trials, or the method, say what is wrong
    if name and preset_name:
        check_match(handle, name)
    measured: Measured = {}
    if name and method.needs.layers != "none":
        values: dict[str, Any] = _of_preset(name, method, over, handle.n_layers)
        if method.needs.target_search and "clamp" in values and "learning_rate" not in values:
            # Of a sister of the model that it was tuned on: rates do not carry over.
            with unedited():
                layers, clamp = (over.get(k, values[k]) for k in ("layers", "clamp"))
                own = search_settings(handle, probes(handle, seed=seed), layers, float(clamp))
            values = {**own, **values}
        if method.needs.null_space and method.needs.moment and "moment_weight" not in values:
            with unedited():
                values |= weight_inside(handle, statistics, values, over, seed, progress)
    elif name and preset(name, method.name, shared=False):
        # What presets say to all methods of layers is of MLP matrices.
        values = preset(name, method.name, shared=False)
    else:
        if known is None:
            with unedited():
                shown = _shown(handle, statistics, method, over, seed, progress)
                known = {**shown, **_suggested(handle, statistics, method, over)}
            # "none" asks for what is measured.
            over = {k: v for k, v in over.items() if v is not None or k not in known}
        values, measured = dict(known), known
    chosen = overridden({**method.defaults, **values, **method.always}, over)
    return build(chosen, where, method.config), measured
