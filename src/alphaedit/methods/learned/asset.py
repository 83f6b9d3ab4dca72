"""Trained editors on disk: networks that propose changes of some matrices."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.errors import EditFileError, FingerprintError, suggestion
from alphaedit.core.schema import Count, Record
from alphaedit.methods.learned.editor import EditorNetwork, EditorShape
from alphaedit.methods.learned.record import (
    ABOUT,
    ANEW,
    RETRAIN,
    TENSORS,
    Trained,
    check_base,
    read_trained,
    trained_tensors,
    write_trained,
)
from alphaedit.methods.steps.gradients import Where
from alphaedit.model.handle import ModelHandle


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
    tokens: Where | None = None


class About(Trained):
    """What editor.json says of a network.

    Attributes:
        matrices: names of the parameters that it changes, layer by layer.
    """

    matrices: list[str]
    shape: ShapeRecord

    def editor_shape(self) -> EditorShape:
        """The networks' sizes."""
        values = self.shape.model_dump()
        sizes = tuple((size[0], size[1]) for size in values.pop("sizes"))
        return EditorShape(layers=tuple(values.pop("layers")), sizes=sizes, **values)


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
    tensors = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
    return write_trained(folder, About, tensors, {**about, "shape": shape.to_json()})


def _stored(tensor: Tensor, half: bool) -> Tensor:
    return tensor.half() if half and tensor.ndim > 1 else tensor


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
    check_base(about, place, base)
    return place, about


def read_about(place: Path, method: str) -> About:
    """What a trained editor says of itself.

    Raises:
        EditFileError: see `read_trained`, or its sizes do not fit together.
    """
    about = read_trained(place, method, About)
    sizes = about.shape.sizes
    if not len(about.shape.layers) == len(sizes) == len(about.matrices) or any(
        len(size) != 2 for size in sizes
    ):
        raise EditFileError(f"{place / ABOUT}: layers, sizes and matrices do not fit.", remedy=ANEW)
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
        EditFileError: see `trained_tensors`, or a tensor has another shape than editor.json says.
    """
    tensors = trained_tensors(place, about)
    with torch.device("meta"):
        network = kind(about.editor_shape())
    wanted = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    stored = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != stored:
        wrong = sorted({n for n in wanted | stored if wanted.get(n) != stored.get(n)})
        raise EditFileError(
            f"{place / TENSORS}: tensor {wrong[0]!r} is not as it should be.", remedy=ANEW
        )
    network.load_state_dict({n: t.float() for n, t in tensors.items()}, assign=True)
    return network
