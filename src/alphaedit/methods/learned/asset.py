"""Trained editors on disk: a folder with editor.safetensors and editor.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from alphaedit.core.errors import EditFileError, FingerprintError, suggestion
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder, write_text
from alphaedit.core.schema import Count, Record, Sha256, checked, read_json
from alphaedit.core.stored import read_tensors
from alphaedit.methods.learned.editor import EditorNetwork, EditorShape
from alphaedit.methods.learned.run import TRAINING
from alphaedit.model.handle import ModelHandle

FORMAT = 1
ABOUT, TENSORS = "editor.json", "editor.safetensors"
RETRAIN = "Train one: alphaedit train {method} MODEL DATA -o EDITOR."
ANEW = "Train it again, or take it from a backup."


class ShapeRecord(Record):
    """See `EditorShape`."""

    layers: list[Count]
    sizes: list[list[Count]]
    rank: Count
    blocks: Count
    rate: float
    floor: float
    vocabulary: Count
    width: Count


class About(Record):
    """What editor.json says.

    Attributes:
        base: fingerprint of the model that it was trained for.
        matrices: names of the parameters that it changes, layer by layer.
        data: fingerprint of the facts that it was trained on.
        sha256: of the tensors' file.
    """

    format: Count
    method: str
    base: Sha256
    matrices: list[str]
    shape: ShapeRecord
    data: Sha256
    facts: Count
    steps: Count
    measured: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    curve: list[dict[str, float]] = Field(default_factory=list)
    sha256: Sha256

    def editor_shape(self) -> EditorShape:
        """The networks' sizes."""
        values = self.shape.model_dump()
        sizes = tuple((size[0], size[1]) for size in values.pop("sizes"))
        return EditorShape(layers=tuple(values.pop("layers")), sizes=sizes, **values)


def of_facts(facts: Sequence[Fact]) -> str:
    """SHA-256 of facts in their order."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(json.dumps(fact.to_dict(), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def write(
    folder: Path,
    network: EditorNetwork,
    shape: EditorShape,
    about: Mapping[str, Any],
    *,
    half: bool = False,
) -> Path:
    """Write a trained editor, whole or not at all.

    Args:
        about: method, base, matrices, data, facts, steps, measured, settings and curve.
        half: matrices of the networks in float16; means, deviations and rates stay as they are.

    Raises:
        ResourceError: it cannot be written; what was there is kept.
    """
    with atomic_folder(folder, last=ABOUT) as part:
        tensors = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
        save_file(tensors, part / TENSORS)
        sha = hashlib.sha256((part / TENSORS).read_bytes()).hexdigest()
        values = {"format": FORMAT, **about, "shape": shape.to_json(), "sha256": sha}
        record = checked(About, json.loads(json.dumps(values)), str(folder / ABOUT))
        write_text(json.dumps(record.model_dump(), indent=1) + "\n", part / ABOUT)
    return folder


def _stored(tensor: Tensor, half: bool) -> Tensor:
    own = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return own.half() if half and own.ndim > 1 else own


def shipped(method: str) -> dict[str, Path]:
    """Trained editors of `method` that come with the package, by name."""
    root = Path(str(files("alphaedit.methods.learned") / "assets" / method))
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return {path.name: path for path in folders if (path / ABOUT).is_file()}


def find(method: str, editor: str | None, base: str) -> tuple[Path, About]:
    """The trained editor of that name or in that folder; by default the one for the model `base`.

    Raises:
        EditFileError: there is none, it is not finished, or broken.
        FingerprintError: it is for another model.
    """
    known = shipped(method)
    if editor is None:
        for place in known.values():
            about = read_about(place, method)
            if about.base == base:
                return place, about
        raise EditFileError(
            f"{method} needs a trained network, and none is here for this model.",
            remedy=RETRAIN.format(method=method) + f" Then: --method {method} --set editor=EDITOR.",
        )
    place = known.get(editor, Path(editor).expanduser())
    if not place.is_dir():
        raise EditFileError(
            f"There is no trained editor {editor!r}.",
            remedy=f"Give its folder. {suggestion(editor, known)}",
        )
    about = read_about(place, method)
    if about.base != base:
        raise FingerprintError(
            f"The trained editor {place} is for another model ({about.base[:12]}) than this one "
            f"({base[:12]}).",
            remedy="Use it with the model that it was trained for. "
            + RETRAIN.format(method=method),
        )
    return place, about


def read_about(place: Path, method: str) -> About:
    """What a trained editor says of itself.

    Raises:
        EditFileError: it is no editor of that method, not finished, or broken.
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
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise EditFileError(
            f"{path} has format {found!r}; this version reads {FORMAT}.",
            remedy="Use the version of alphaedit that wrote it, or train anew.",
        )
    about = checked(About, values, str(path), remedy=ANEW)
    if about.method != method:
        raise EditFileError(
            f"{place} is an editor of method {about.method}, not of {method}.",
            remedy=f"Use --method {about.method}.",
        )
    sizes = about.shape.sizes
    if not len(about.shape.layers) == len(sizes) == len(about.matrices) or any(
        len(size) != 2 for size in sizes
    ):
        raise EditFileError(f"{path}: layers, sizes and matrices do not fit.", remedy=ANEW)
    return about


def check_matrices(about: About, handle: ModelHandle, place: Path) -> None:
    """Refuse an editor whose matrices are not the model's.

    Raises:
        FingerprintError: naming the first that is not.
    """
    shape = about.shape
    for layer, name, size in zip(shape.layers, about.matrices, shape.sizes, strict=True):
        here = layer < handle.n_layers and handle.edited_name(layer) == name
        if not here or [handle.d_out(layer), handle.d_in(layer)] != size:
            raise FingerprintError(
                f"The trained editor {place} changes {name} of shape {tuple(size)}, which this "
                "model does not have.",
                remedy=RETRAIN.format(method=about.method),
            )


def load(place: Path, about: About, kind: type[EditorNetwork]) -> EditorNetwork:
    """The network of a trained editor, on the CPU.

    Raises:
        EditFileError: its tensors are broken, or not those that editor.json speaks of.
    """
    path = place / TENSORS
    tensors = read_tensors(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != about.sha256:
        raise EditFileError(f"{path} is not the file that {ABOUT} speaks of.", remedy=ANEW)
    with torch.device("meta"):
        network = kind(about.editor_shape())
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != found:
        wrong = sorted({n for n in wanted | found if wanted.get(n) != found.get(n)})
        raise EditFileError(f"{path}: tensor {wrong[0]!r} is not as it should be.", remedy=ANEW)
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise EditFileError(f"{path}: tensor {name!r} holds NaN or infinity.", remedy=ANEW)
    network.load_state_dict({n: t.float() for n, t in tensors.items()}, assign=True)
    return network
