"""Hyperparameters for a model: a preset that knows it, or what the model itself shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress
from alphaedit.locate.suggest import read_out, window
from alphaedit.methods.base import Method, Problem
from alphaedit.methods.config import Hyperparameters, build, overridden
from alphaedit.methods.presets import entry, preset
from alphaedit.methods.presets import matching as of_facts
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score
from alphaedit.stats.statistics import ModelStatistics

Measured = Mapping[str, Any]
"""Hyperparameters that were measured on a model."""

ENERGY = 0.9
RIDGE_SHARE = 0.1
STEPS = 40
RATE = 0.04
"""Adam's rate as a share of |h| / sqrt(d) at the usual clamp: small steps find short deltas."""

CLAMPS = (0.75, 1.5, 3.0)
REACHED = 0.3
"""Mean loss of the pilot's targets, in nats, at which a layer is good enough."""
HELD = 0.8
"""Mean probability of the pilot's targets after the edit at which a clamp is good enough."""
PILOTS = 8
CANDIDATES = 4


def shape(handle: ModelHandle) -> dict[str, Any]:
    """What presets know models by: the fields of their `match`."""
    return {
        "model_type": handle.model.config.get_text_config().model_type,
        "layers": handle.n_layers,
        "width": handle.d_out(0),
        "inner": handle.d_in(0),
        "bundled": getattr(handle.model.config, "alphaedit_world", None) is not None,
    }


def matching(handle: ModelHandle) -> str | None:
    """Name of the preset whose `match` fits the model, if any."""
    return of_facts(shape(handle))


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


class _Model:
    """What is measured on a model that no preset knows."""

    def __init__(
        self,
        handle: ModelHandle,
        statistics: ModelStatistics,
        method: Method,
        facts: Sequence[Fact],
        over: Mapping[str, Any],
        seed: int,
        progress: Progress,
    ) -> None:
        if not facts:
            raise ConfigError(
                "No preset knows this model, and without facts nothing can be measured on it.",
                remedy="Give facts, or a preset, or at least layers.",
            )
        self.handle = handle
        self.statistics = statistics
        self.method = method
        self.facts = list(facts[:PILOTS])
        self.over = over
        self.seed = seed
        self.progress = progress
        self.read = read_out(handle, facts, seed=seed, progress=progress)

    def shown(self) -> dict[str, Any]:
        """Layers from where the subject is read; scales relative to hidden states and keys."""
        over, method = self.over, self.method
        given = over.get("layers")
        last = max(given) if given else self._last_layer()
        one_layer = getattr(method, "one_by_one", False)
        chosen = (last,) if one_layer else window(last, self.handle.n_layers)
        values: dict[str, Any] = {
            "layers": tuple(given or chosen),
            "moment_weight": self.handle.d_in(last) / 10,
        }
        if needs_space(method, over):
            values["energy"] = ENERGY
        if not getattr(method, "searches", True):
            return values
        if getattr(method, "ridge", False):
            values["ridge_share"] = RIDGE_SHARE
        return {**values, **self._scale(values)}

    def _search(self, layer: int, clamp: float) -> dict[str, Any]:
        """Clamp, steps and rate of a target search at `layer`."""
        norm = self.read.norms[min(layer, len(self.read.norms) - 1)]
        rate = RATE * clamp / CLAMPS[0] * norm / self.handle.d_out(layer) ** 0.5
        return {"clamp": clamp, "learning_rate": rate, "steps": STEPS}

    def _last_layer(self) -> int:
        """The latest layer not after the read-out from which targets are reached, or nearly."""
        contexts = generate_contexts(self.handle, 2, 10, self.seed)
        losses: dict[int, float] = {}
        candidates = range(self.read.layer, max(-1, self.read.layer - CANDIDATES), -1)
        for number, layer in enumerate(candidates):
            self.progress("pilot searches", number, len(candidates))
            values = {**self._search(layer, CLAMPS[0]), **self.over, "layers": (layer,)}
            hp = build(values, "hyperparameters of the pilot")
            rows = find_targets(self.handle, self.facts, layer, contexts, hp).losses
            losses[layer] = sum(row[-1] for row in rows) / len(rows)
            if losses[layer] <= REACHED:
                break
        self.progress("pilot searches", len(candidates), len(candidates))
        return min(losses, key=lambda layer: (max(losses[layer], REACHED), -layer))

    def _scale(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The smallest clamp by which an edit of a few facts holds, or the best."""
        defaults = getattr(self.method, "defaults", {})
        layers = values["layers"]
        self.statistics.prepare(layers)
        pairs = [(fact.text, fact.target) for fact in self.facts]
        clamps = [self.over["clamp"]] if "clamp" in self.over else CLAMPS
        held: list[tuple[float, dict[str, Any]]] = []
        for number, clamp in enumerate(clamps):
            self.progress("pilot edits", number, len(clamps))
            scale = self._search(layers[-1], clamp)
            chosen = overridden({**defaults, **values, **scale}, self.over)
            hp = build(chosen, "hyperparameters of the pilot")
            solution = self.method.solve(
                Problem(
                    handle=self.handle,
                    facts=self.facts,
                    hyperparameters=hp,
                    statistics=self.statistics,
                    state=SequentialState(),
                    seed=self.seed,
                )
            )
            with self.handle.temporarily(solution.patch.weights):
                scores = score(self.handle, pairs)
            held.append((sum(s.p for s in scores) / len(scores), scale))
            if held[-1][0] >= HELD:
                break
        self.progress("pilot edits", len(clamps), len(clamps))
        return max(held, key=lambda trial: trial[0])[1]


SEARCH = ("steps", "learning_rate", "stop_loss", "clamp", "weight_decay", "kl_factor")
SPACE = ("threshold", "energy")
RIDGE = ("ridge", "ridge_share")


def needs_space(method: Method, over: Mapping[str, Any]) -> bool:
    """Whether `method` with the plug-ins in `over` works inside a null space."""
    specs = [str(spec).partition(":")[0] for spec in over.get("plugins", ())]
    own = getattr(method, "null_space", False)
    return bool(own or over.get("project") or "project" in specs)


def _of_preset(name: str, method: Method, over: Mapping[str, Any]) -> dict[str, Any]:
    """What preset `name` says that `method` can use.

    What it says to all methods about target searches is not for those without one; a method in a
    null space of which it says nothing takes AlphaEdit's.
    """
    values, own = preset(name, method.name), preset(name, method.name, shared=False)
    if not getattr(method, "searches", True):
        values = {k: v for k, v in values.items() if k in own or k not in SEARCH}
    model = preset(name, "alphaedit", shared=False)
    if needs_space(method, over) and not any(key in values for key in SPACE):
        values |= {key: model[key] for key in SPACE if key in model}
    wants_ridge = getattr(method, "null_space", False) and getattr(method, "ridge", False)
    if wants_ridge and not any(key in values for key in RIDGE):
        values |= {key: model[key] for key in RIDGE if key in model}
    if getattr(method, "one_by_one", False):
        values["layers"] = list(values["layers"])[-1:]
    return values


def choose(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: Method,
    *,
    preset_name: str | None,
    facts: Sequence[Fact],
    over: Mapping[str, Any],
    known: Measured | None = None,
    unedited: Callable[[], AbstractContextManager[None]] = nullcontext,
    seed: int,
    progress: Progress,
) -> tuple[Hyperparameters, Measured]:
    """Hyperparameters of `method` for this model, and what of them was measured on it.

    In this order, later ones winning: the method's own defaults; the preset named, or the one whose
    `match` fits, or what the model shows; `over`.

    Args:
        known: what was measured before with the same `over`, to be used again.
        unedited: makes the model as it was before any edit, for the length of a block.

    Raises:
        UnknownNameError: no such preset or field.
        ConfigError: a value out of range, or nothing to choose from.
    """
    name = preset_name or matching(handle)
    where = f"preset {name}" if name else f"hyperparameters of {method.name}"
    build({"layers": (0,), **over}, where)
    if preset_name:
        check_match(handle, preset_name)
    measured: Measured = {}
    if name:
        values: Mapping[str, Any] = _of_preset(name, method, over)
    else:
        if known is None:
            with unedited():
                known = _Model(handle, statistics, method, facts, over, seed, progress).shown()
        values = measured = known
    defaults = getattr(method, "defaults", {})
    return build(overridden({**defaults, **values}, over), where), measured
