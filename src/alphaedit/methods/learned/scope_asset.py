"""Trained scopes on disk: a folder with editor.safetensors and editor.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors.torch import save_file

from alphaedit.core.errors import ConfigError, EditFileError, FingerprintError
from alphaedit.core.files import atomic_folder, write_text
from alphaedit.core.schema import Count, Record, Sha256, checked, read_json
from alphaedit.core.stored import read_tensors
from alphaedit.methods.learned.asset import ABOUT, ANEW, FORMAT, RETRAIN, TENSORS
from alphaedit.methods.learned.run import TRAINING
from alphaedit.methods.steps.scope import UNTRAINED, Scope
from alphaedit.model.handle import ModelHandle


class ScopeAbout(Record):
    """What editor.json says.

    Attributes:
        base: fingerprint of the model whose hidden states are read.
        layer: of those states.
        data: fingerprint of the facts that it was trained on.
        sha256: of the tensors' file.
    """

    format: Count
    method: str
    base: Sha256
    layer: Count
    data: Sha256
    facts: Count
    steps: Count
    measured: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    curve: list[dict[str, float]] = Field(default_factory=list)
    sha256: Sha256


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
    with atomic_folder(folder, last=ABOUT) as part:
        save_file({n: t.contiguous() for n, t in tensors.items()}, part / TENSORS)
        sha = hashlib.sha256((part / TENSORS).read_bytes()).hexdigest()
        values = {"format": FORMAT, **about, "layer": scope.layer, "sha256": sha}
        record = checked(ScopeAbout, json.loads(json.dumps(values)), str(folder / ABOUT))
        write_text(json.dumps(record.model_dump(), indent=1) + "\n", part / ABOUT)
    return folder


def find(method: str, editor: str | None, base: str) -> tuple[Path, ScopeAbout]:
    """A trained scope's folder, and what it says of itself.

    Raises:
        EditFileError: none is given, it is not finished, broken, or another method's.
        FingerprintError: it was trained for another model.
    """
    retrain = RETRAIN.format(method=method)
    if editor is None:
        raise EditFileError(
            f"{method} needs a trained scope, and none is given.",
            remedy=f"{retrain} Then: --set editor=EDITOR. (Or --set editor=untrained: the model's "
            "own distances, which miss more paraphrases.)",
        )
    place = Path(editor).expanduser()
    if not (place / ABOUT).is_file():
        begun = (place / TRAINING).is_dir()
        raise EditFileError(
            f"{place} holds a training that is not finished."
            if begun
            else f"There is no trained scope in {str(place)!r}: it has no {ABOUT}.",
            remedy="Give the same `alphaedit train` command again: it goes on from there."
            if begun
            else retrain,
        )
    values = read_json(place / ABOUT)
    of = values.get("method") if isinstance(values, dict) else None
    if of is not None and of != method:
        raise EditFileError(
            f"{place} is an editor of method {of}, not of {method}.", remedy=retrain
        )
    about = checked(ScopeAbout, values, str(place / ABOUT), remedy=ANEW)
    if about.format != FORMAT:
        raise EditFileError(
            f"{place / ABOUT} has format {about.format}; this version reads {FORMAT}.",
            remedy="Use the version of alphaedit that wrote it, or train anew.",
        )
    if about.base != base:
        raise FingerprintError(
            f"The trained scope {place} is for another model ({about.base[:12]}) than this one "
            f"({base[:12]}).",
            remedy=f"Use it with the model that it was trained for. {retrain}",
        )
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
    told = {"sha256": about.sha256, "trained_on": about.data, "base": about.base}
    return load(place, about), {"editor": told}


def load(place: Path, about: ScopeAbout) -> Scope:
    """The scope itself.

    Raises:
        EditFileError: its tensors are broken, or not those that editor.json speaks of.
    """
    path = place / TENSORS
    tensors = read_tensors(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != about.sha256:
        raise EditFileError(f"{path} is not the file that {ABOUT} speaks of.", remedy=ANEW)
    return Scope.of(about.layer, tensors, str(path))
