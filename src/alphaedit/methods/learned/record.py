"""What all that was trained is on disk: a folder with editor.safetensors and editor.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from alphaedit.core.errors import EditFileError, FingerprintError
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder, write_text
from alphaedit.core.schema import Count, Record, Sha256, checked, read_json
from alphaedit.core.stored import read_tensors
from alphaedit.methods.learned.run import TRAINING

FORMAT = 1
ABOUT, TENSORS = "editor.json", "editor.safetensors"
RETRAIN = "Train one: alphaedit train {method} MODEL DATA -o EDITOR."
ANEW = "Train it again, or take it from a backup."


class Trained(Record):
    """What editor.json says of anything that was trained.

    Attributes:
        base: fingerprint of the model that it was trained for.
        data: fingerprint of the facts that it was trained on.
        sha256: of the tensors' file.
    """

    format: Count
    method: str
    base: Sha256
    data: Sha256
    facts: Count
    steps: Count
    measured: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    curve: list[dict[str, float]] = Field(default_factory=list)
    sha256: Sha256

    def told(self) -> dict[str, str]:
        """What an edit tells of what proposed it."""
        return {"sha256": self.sha256, "trained_on": self.data, "base": self.base}


Kind = TypeVar("Kind", bound=Trained)


def of_facts(facts: Sequence[Fact]) -> str:
    """SHA-256 of facts in their order."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(json.dumps(fact.to_dict(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def write_trained(
    folder: Path, kind: type[Kind], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> Path:
    """Write what was trained, whole or not at all.

    Args:
        kind: of the record in editor.json.
        about: its values, but for format and sha256.

    Raises:
        ResourceError: it cannot be written; what was there is kept.
    """
    with atomic_folder(folder, last=ABOUT) as part:
        save_file({name: _apart(tensor) for name, tensor in tensors.items()}, part / TENSORS)
        sha = hashlib.sha256((part / TENSORS).read_bytes()).hexdigest()
        values = {"format": FORMAT, **about, "sha256": sha}
        record = checked(kind, json.loads(json.dumps(values)), str(folder / ABOUT))
        write_text(json.dumps(record.model_dump(), indent=1) + "\n", part / ABOUT)
    return folder


def _apart(tensor: Tensor) -> Tensor:
    """On the CPU, with memory of its own."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def read_trained(place: Path, method: str, kind: type[Kind]) -> Kind:
    """What something trained says of itself.

    Raises:
        EditFileError: it is nothing trained for that method, not finished, or broken.
    """
    path = place / ABOUT
    if not path.is_file():
        begun = (place / TRAINING).is_dir()
        raise EditFileError(
            f"{place} holds a training that is not finished."
            if begun
            else f"{place} holds no trained editor: there is no {ABOUT}.",
            remedy="Give the same `alphaedit train` command again: it goes on from there."
            if begun
            else RETRAIN.format(method=method),
        )
    values = read_json(path)
    version = values.get("format") if isinstance(values, dict) else None
    if version != FORMAT:
        raise EditFileError(
            f"{path} has format {version!r}; this version reads {FORMAT}.",
            remedy="Use the version of alphaedit that wrote it, or train anew.",
        )
    owner = values.get("method")
    if isinstance(owner, str) and owner != method:
        raise EditFileError(
            f"{place} is an editor of method {owner}, not of {method}.",
            remedy=f"Use --method {owner}, or one for {method}. " + RETRAIN.format(method=method),
        )
    return checked(kind, values, str(path), remedy=ANEW)


def check_base(about: Trained, place: Path, base: str) -> None:
    """Refuse what was trained for another model than the one of fingerprint `base`.

    Raises:
        FingerprintError: it was.
    """
    if about.base != base:
        raise FingerprintError(
            f"The trained editor {place} is for another model ({about.base[:12]}) than this one "
            f"({base[:12]}).",
            remedy="Use it with the model that it was trained for. "
            + RETRAIN.format(method=about.method),
        )


def trained_tensors(place: Path, about: Trained) -> dict[str, Tensor]:
    """The tensors that editor.json speaks of.

    Raises:
        EditFileError: they are broken, hold NaN or infinity, or are not those.
    """
    path = place / TENSORS
    tensors = read_tensors(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != about.sha256:
        raise EditFileError(f"{path} is not the file that {ABOUT} speaks of.", remedy=ANEW)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise EditFileError(f"{path}: tensor {name!r} holds NaN or infinity.", remedy=ANEW)
    return tensors
