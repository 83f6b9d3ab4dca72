"""Edits for engines that read GGUF: the base file with edited tensors, or an adapter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alphaedit.core.edit import Edit
from alphaedit.core.errors import ConfigError, FingerprintError, ModelError, unknown_name
from alphaedit.core.files import whole_file
from alphaedit.core.patch import LowRank
from alphaedit.editor.export import TOLERANCE, Exported, refuse_experts, summed
from alphaedit.linalg.lowrank import concatenate, frobenius
from alphaedit.model.gguf import header_of, origin, require
from alphaedit.model.gguf_file import Header, Stored, is_gguf
from alphaedit.model.gguf_meaning import family_of, tensor_names
from alphaedit.model.handle import ModelHandle

SAME = "same"
TYPES = ("F16", "F32", "BF16", "Q8_0", SAME)
"""What edited tensors can be written as; `same`: as the base has them."""
ADAPTER_TYPES = ("F32", "F16")
ROUNDS = 16
ENOUGH = 0.05
"""Share of a change that may be lost where it acts, before it is rounded again."""


@dataclass(frozen=True)
class Written:
    """One tensor of an exported GGUF file.

    Attributes:
        name: in the file.
        parameter: in the model.
        before: type in the base file; type: in the exported one.
        error: relative error in Frobenius norm that rounding to the type brings.
        kept: share of the change that is left: its projection on what was to be written.
    """

    name: str
    parameter: str
    before: str
    type: str
    error: float
    kept: float


def base_of(model: str) -> Path | None:
    """The GGUF file behind a model as it was named: itself, or what it was converted from."""
    path = Path(model).expanduser()
    if is_gguf(model):
        return path
    return origin(path) if path.is_dir() else None


def save_gguf(
    base: Path, edits: Sequence[Edit], path: str | Path, *, kind: str = "F16"
) -> list[Written]:
    """Write the file `base` with the edited tensors replaced; all else is copied byte for byte.

    Args:
        base: the GGUF file of the unedited model.
        edits: edits in force, all by methods that edit weights.
        path: the file to write.
        kind: type of the edited tensors, one of TYPES.

    Raises:
        ConfigError: the type cannot be written, or `path` is the base itself.
        FingerprintError: the file has no tensor for an edited matrix, or one of another shape.
        EditFileError: there is nothing to export.
        ResourceError: writing failed; nothing is left behind.
    """
    path = Path(path)
    if path.exists() and path.samefile(base):
        raise ConfigError(f"{path} is the base itself.", remedy="Choose another file.")
    header = header_of(base)
    refuse_experts(edits, "GGUF files")
    changes, _ = summed(edits, tolerance=0)
    places = _places(header, changes)
    kinds = {name: _kind(kind, stored) for name, stored in places.items()}
    rows, new = [], {}
    for name, stored in places.items():
        new[stored.name], row = _edited(header, stored, name, changes[name], kinds[name])
        rows.append(row)
    with whole_file(path) as part:
        _copy(header, new, {places[name].name: int(kinds[name]) for name in places}, part)
    return rows


def save_gguf_lora(
    handle: ModelHandle,
    edits: Sequence[Edit],
    path: str | Path,
    *,
    base: str = "",
    gguf: Path | None = None,
    tolerance: float = TOLERANCE,
    max_rank: int | None = None,
    kind: str = "F32",
) -> list[Exported]:
    """Write edits as a LoRA adapter that llama.cpp loads at run time beside the unedited file.

    Args:
        handle: the model that the edits are for; its config names the family.
        edits: edits in force.
        path: the file to write.
        base: name of the unedited model, for the metadata.
        gguf: the GGUF file of the unedited model, where there is one: it names the family.
        tolerance: relative error allowed, to make ranks smaller.
        max_rank: rank at most, whatever the error.
        kind: type of the factors, F32 or F16.

    Raises:
        ConfigError: an unknown type, or the gguf package is not installed.
        ModelError: llama.cpp does not know the family, or has no tensor for an edited matrix.
        EditFileError: nothing to export, or edits that no adapter can hold.
        ResourceError: writing failed; nothing is left behind.
    """
    require()
    if kind not in ADAPTER_TYPES:
        raise unknown_name("type of an adapter", kind, ADAPTER_TYPES)
    refuse_experts(edits, "LoRA adapters of llama.cpp")
    changes, report = summed(edits, tolerance=tolerance, max_rank=max_rank)
    model_type = str(handle.model.config.get_text_config().model_type)
    family = header_of(gguf).architecture if gguf else family_of(model_type)
    if family is None:
        raise ModelError(
            f"llama.cpp has no family for {model_type} models.",
            remedy="Export with --format lora, for PEFT and vLLM.",
        )
    names = _known(tensor_names(family, handle.n_layers, changes), changes, family)
    rank = max([1, *(change.rank for change in changes.values())])
    factors = {name: _factors(change, rank, kind) for name, change in changes.items()}
    with whole_file(Path(path)) as part:
        _write_adapter(part, family, rank, {names[n]: f for n, f in factors.items()}, base)
    return [_with_rounding(row, changes[row.name], *factors[row.name]) for row in report]


def _factors(change: LowRank, rank: int, kind: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """A [rank, d_in] and B [d_out, rank], filled up with zeros."""
    dtype = np.float16 if kind == "F16" else np.float32
    down = np.zeros((rank, change.shape[1]), dtype)
    up = np.zeros((change.shape[0], rank), dtype)
    down[: change.rank] = change.right.numpy()
    up[:, : change.rank] = change.left.numpy()
    return down, up


def _with_rounding(
    row: Exported, change: LowRank, down: NDArray[Any], up: NDArray[Any]
) -> Exported:
    stored = LowRank(torch.from_numpy(-up).float(), torch.from_numpy(down).float())
    size = frobenius(change)
    lost = frobenius(concatenate([change.to(dtype=torch.float32), stored])) / size if size else 0.0
    return replace(row, error=math.hypot(row.error, lost if lost > TOLERANCE else 0.0))


def _write_adapter(
    path: Path,
    family: str,
    rank: int,
    factors: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    base: str,
) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, family)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    # llama.cpp multiplies by alpha over rank: one rank for all, and a factor of 1.
    writer.add_float32("adapter.lora.alpha", float(rank))
    writer.add_description(f"Made by alphaedit for {base or 'a model'}")
    for name, (down, up) in factors.items():
        writer.add_tensor(f"{name}.lora_a", down)
        writer.add_tensor(f"{name}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensor(header: Header, stored: Stored) -> Tensor:
    """A matrix of a GGUF file as numbers, [d_out, d_in] in float32.

    Raises:
        ModelError: the gguf package cannot read its type.
    """
    from gguf.constants import GGMLQuantizationType as Kind
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    kind = Kind(stored.type)
    with header.path.open("rb") as file:
        file.seek(stored.start)
        raw = np.frombuffer(file.read(stored.size), np.uint8)
    plain = {Kind.F32: np.float32, Kind.F16: np.float16, Kind.F64: np.float64}
    if kind in plain:
        numbers = raw.view(plain[kind]).reshape(stored.shape).astype(np.float32)
    else:
        numbers = dequantize(raw.reshape(quant_shape_to_byte_shape(stored.shape, kind)), kind)
    return torch.from_numpy(np.ascontiguousarray(numbers))


def weights_in(path: Path, rows: Iterable[Written]) -> dict[str, Tensor]:
    """The edited matrices as the exported file `path` holds them, by parameter, in float32."""
    header = header_of(path)
    return {row.parameter: read_tensor(header, header.tensors[row.name]) for row in rows}


def _places(header: Header, changes: Mapping[str, LowRank]) -> dict[str, Stored]:
    """Where in the file the edited matrices lie."""
    layers = int(header.metadata.get(f"{header.architecture}.block_count", 0))
    names = _known(tensor_names(header.architecture, layers, changes), changes, header.architecture)
    places = {}
    for parameter, change in changes.items():
        stored = header.tensors.get(names[parameter])
        if stored is None or stored.shape != change.shape:
            has = f"of shape {list(stored.shape)}" if stored else "missing"
            raise FingerprintError(
                f"{header.path}: tensor {names[parameter]} is {has}; the change of {parameter} "
                f"has shape {list(change.shape)}.",
                remedy="Give --model the GGUF file that was edited.",
            )
        places[parameter] = stored
    return dict(sorted(places.items(), key=lambda item: _by_numbers(item[1].name)))


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts blk.9 before blk.10."""
    return [(int(part) if part.isdigit() else -1, part) for part in name.split(".")]


def _known(names: dict[str, str], wanted: Iterable[str], family: str) -> dict[str, str]:
    for parameter in wanted:
        if parameter not in names:
            raise ModelError(
                f"llama.cpp has no tensor for {parameter} in models of the family {family}.",
                remedy="Export with --format lora or checkpoint.",
            )
    return names


def _kind(wanted: str, stored: Stored) -> Any:
    """The type to write a tensor as.

    Raises:
        ConfigError: it is unknown, or the gguf package cannot write it.
    """
    from gguf.constants import GGML_QUANT_SIZES
    from gguf.constants import GGMLQuantizationType as Kind
    from gguf.quants import quantize

    if wanted not in TYPES:
        raise unknown_name("--type", wanted, TYPES)
    kind = Kind(stored.type) if wanted == SAME else Kind[wanted]
    block = GGML_QUANT_SIZES[kind][0]
    try:
        if stored.shape[-1] % block:
            raise NotImplementedError
        quantize(np.zeros((1, block), np.float32), kind)
    except NotImplementedError:
        raise ConfigError(
            f"{stored.name} with rows of {stored.shape[-1]} cannot be written as {kind.name}: the "
            "gguf package reads this type, but does not make it.",
            remedy="Give --type F16: the other tensors stay as they are.",
        ) from None
    return kind


def _edited(
    header: Header, stored: Stored, parameter: str, change: LowRank, kind: Any
) -> tuple[NDArray[Any], Written]:
    from gguf.constants import GGMLQuantizationType as Kind

    before = read_tensor(header, stored).double()
    delta = change.to(dtype=torch.float64).matrix()
    whole = before + delta
    data, after = _rounded(whole, change, kind)
    if not bool(after.isfinite().all()):
        raise ConfigError(
            f"{stored.name} holds numbers too large for {kind.name}.",
            remedy="Give --type F32.",
        )
    size = float(delta.square().sum())
    row = Written(
        name=stored.name,
        parameter=parameter,
        before=Kind(stored.type).name,
        type=kind.name,
        error=float((after - whole).norm() / whole.norm().clamp_min(1e-30)),
        kept=float(((after - before) * delta).sum()) / size if size else 1.0,
    )
    return data, row


def _rounded(whole: Tensor, change: LowRank, kind: Any) -> tuple[NDArray[Any], Tensor]:
    """`whole` in the type, as bytes and as numbers, with what the edit does to its keys kept.

    A change smaller than a step of the grid rounds away. So what is lost along the rows of the
    change's right factor is added to what is rounded, until the rounded matrix does to these
    directions what it should; elsewhere the error is one of rounding.
    """
    from gguf.quants import dequantize, quantize

    keys = torch.linalg.qr(change.right.double().T)[0]
    wanted = whole
    best: tuple[float, NDArray[Any], Tensor] | None = None
    for _ in range(ROUNDS):
        data = quantize(wanted.float().numpy(), kind)
        after = torch.from_numpy(np.ascontiguousarray(dequantize(data, kind))).double()
        lost = (whole - after) @ keys
        size = float(lost.norm())
        if best is None or size < best[0]:
            best = (size, data, after)
        if not size > ENOUGH * frobenius(change):
            break
        wanted = wanted + lost @ keys.T
    assert best is not None
    return best[1], best[2]


def _copy(header: Header, new: Mapping[str, Any], kinds: Mapping[str, int], path: Path) -> None:
    """Copy the file with other tensors in place of some; the rest keeps its bytes and order."""
    ordered = sorted(header.tensors.values(), key=lambda tensor: tensor.start)
    offsets: dict[str, int] = {}
    end = 0
    for tensor in ordered:
        end = -(-end // header.alignment) * header.alignment
        offsets[tensor.name] = end
        end += new[tensor.name].nbytes if tensor.name in new else tensor.size
    with header.path.open("rb") as source, path.open("wb") as target:
        head = bytearray(source.read(header.data))
        head += bytes(header.data - len(head))
        for tensor in ordered:
            number = kinds.get(tensor.name, tensor.type).to_bytes(4, "little")
            place = offsets[tensor.name].to_bytes(8, "little")
            head[tensor.entry : tensor.entry + 12] = number + place
        target.write(head)
        for tensor in ordered:
            target.write(bytes(header.data + offsets[tensor.name] - target.tell()))
            if tensor.name in new:
                target.write(np.ascontiguousarray(new[tensor.name]).data)
            else:
                _pour(source, target, tensor)
        # llama.cpp reads whole pages of alignment, as its own writers make them.
        target.write(bytes(-target.tell() % header.alignment))


def _pour(source: Any, target: Any, tensor: Stored) -> None:
    source.seek(tensor.start)
    left = tensor.size
    while left:
        block = source.read(min(left, 1 << 24))
        if not block:
            raise OSError(f"{tensor.name} ended early")
        target.write(block)
        left -= len(block)
