"""Which method edits where none is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from alphaedit.core.defaults import GATED, METHOD, WEIGHTS
from alphaedit.core.edit import Edit
from alphaedit.editor.checkpoint import source_folder
from alphaedit.methods.base import Method
from alphaedit.methods.presets import ENDINGS, entry
from alphaedit.methods.registry import get_method
from alphaedit.model.gguf import in_cache
from alphaedit.model.handle import ModelHandle

OF_SYSTEMS = (
    "plugins",
    "project",
    "moment_weight",
    "ridge",
    "ridge_share",
    "layer_shares",
    "threshold",
    "energy",
    "kl_budget",
    "least_change",
)
"""Settings that say how a change of weights is solved for."""


def method_for(
    method: str | Method,
    handle: ModelHandle,
    edits: Iterable[Edit] = (),
    over: Mapping[str, Any] | None = None,
    preset: str | None = None,
) -> Method:
    """The method that is named, or the one for this model.

    That is `GATED`, or `WEIGHTS` where

    * settings or plug-ins are given that are of a change of weights, or a file of a preset that
      was tuned for one,
    * what is in force changes weights, so that all of it still fits into one adapter,
    * a layer is a mixture of experts, weights are split over processes, or the model is named
      as a GGUF file, which the edited one is to be again.

    Args:
        edits: those in force.
        over: settings that are given.
        preset: the one that is named.

    Raises:
        UnknownNameError: no such method.
        ConfigError: the preset's file is missing or is no preset.
    """
    if method != METHOD:
        return get_method(method)
    given = over or {}
    of_a_system = any(given.get(name) not in (None, False, (), []) for name in OF_SYSTEMS)
    of_weights = of_a_system or any(edit.patch.weights for edit in edits) or _tuned_for(preset)
    return get_method(WEIGHTS if of_weights or not _fits(handle) else GATED)


def before_a_model(method: str) -> str:
    """The method whose settings are those that may be given, where no model is at hand yet."""
    return GATED if method == METHOD else method


def _tuned_for(preset: str | None) -> bool:
    """Whether a preset is a file that names methods, and not `GATED`."""
    if preset is None or not preset.lower().endswith(ENDINGS):
        return False
    names = entry(preset).get("methods", {})
    return bool(names) and GATED not in names


def _fits(handle: ModelHandle) -> bool:
    """Whether `GATED` edits this model, and what it makes can be brought to where that runs."""
    if handle.sharded or any(handle.experts(layer) for layer in range(handle.n_layers)):
        return False
    folder = source_folder(handle)
    return folder is None or not in_cache(folder)
