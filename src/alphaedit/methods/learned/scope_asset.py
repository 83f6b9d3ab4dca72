"""Trained scopes on disk: what tells whether a prompt is in the scope of an edit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alphaedit.core.errors import ConfigError, EditFileError
from alphaedit.core.schema import Count
from alphaedit.methods.learned.record import (
    RETRAIN,
    TENSORS,
    Trained,
    check_base,
    read_trained,
    trained_tensors,
    write_trained,
)
from alphaedit.methods.steps.scope import UNTRAINED, Scope
from alphaedit.model.handle import ModelHandle


class ScopeAbout(Trained):
    """What editor.json says of a scope.

    Attributes:
        layer: whose hidden states are read.
    """

    layer: Count


def write(folder: Path, scope: Scope, about: Mapping[str, Any], *, half: bool = False) -> Path:
    """Write a trained scope, whole or not at all.

    Args:
        folder: where.
        scope: what was trained.
        about: method, base, data, facts, steps, measured, settings and curve.
        half: the projection in float16.

    Raises:
        ResourceError: it cannot be written; what was there is kept.
    """
    tensors = scope.tensors()
    if half:
        tensors["projection"] = tensors["projection"].half()
    return write_trained(folder, ScopeAbout, tensors, {**about, "layer": scope.layer})


def find(method: str, editor: str | None, base: str) -> tuple[Path, ScopeAbout]:
    """A trained scope's folder, and what it says of itself.

    Raises:
        EditFileError: none is given, it is not finished, broken, or another method's.
        FingerprintError: it was trained for another model.
    """
    if editor is None:
        raise EditFileError(
            f"{method} needs a trained scope, and none is given.",
            remedy=f"{RETRAIN.format(method=method)} Then: --set editor=EDITOR. (Or --set "
            "editor=untrained: the model's own distances, which miss more paraphrases.)",
        )
    place = Path(editor).expanduser()
    about = read_trained(place, method, ScopeAbout)
    check_base(about, place, base)
    return place, about


def opened(
    handle: ModelHandle, method: str, editor: str | None, layers: tuple[int, ...], base: str
) -> tuple[Scope, dict[str, Any]]:
    """A trained scope by its folder, or the untrained one, and what an edit tells of it.

    Args:
        handle: the model.
        method: whose scope it is.
        editor: the folder, or "untrained".
        layers: the layer to be read, or none.
        base: fingerprint of the unedited model.

    Raises:
        ConfigError: the layer given is not that of the trained scope.
        EditFileError: see `find` and `load`.
        FingerprintError: see `find`.
    """
    if editor == UNTRAINED:
        return Scope.untrained(handle, layers or None), {}
    place, about = find(method, editor, base)
    if layers not in ((), (about.layer,)):
        raise ConfigError(f"{place} reads layer {about.layer}.", remedy="Leave the layers out.")
    return load(place, about), {"editor": about.told()}


def load(place: Path, about: ScopeAbout) -> Scope:
    """The scope itself.

    Raises:
        EditFileError: see `trained_tensors`.
    """
    return Scope.of(about.layer, trained_tensors(place, about), str(place / TENSORS))
