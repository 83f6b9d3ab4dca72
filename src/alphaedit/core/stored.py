"""What edits on disk may hold: files of others are checked before anything is made of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from alphaedit.core.errors import EditFileError, FactError
from alphaedit.core.fact import Fact
from alphaedit.core.reading import check_regular
from alphaedit.core.schema import BACKUP, Count, Id, Record, checked, read_json, shown
from alphaedit.core.text import one_line

FORMAT, OLDEST = 2, 1
"""Of edit.json: 1 has changes of weights alone, 2 has others too."""
_DTYPES = frozenset(
    getattr(torch, name)
    for name in "float16 bfloat16 float32 float64 bool uint8 int8 int16 int32 int64".split()
)
_KEYS = re.compile(r"keys\.(0|[1-9][0-9]{0,5})")
_MEMORY = "memory."


class _Answer(Record):
    text: str
    p_target: float
    p_truth: float | None = None


class _NullSpace(Record):
    dim: Count
    d_in: Annotated[int, Field(ge=1, le=2**53)]
    energy_left: float


class _Measured(Record):
    over: dict[str, Any] = Field(default_factory=dict)
    values: dict[str, Any] = Field(default_factory=dict)


class _Edit(Record):
    id: Id
    created: str
    method: str
    hyperparameters: dict[str, Any]
    base: str
    parent: Id | None
    facts: list[dict[str, Any]]
    before: list[_Answer]
    after: list[_Answer]
    null_space: dict[str, _NullSpace]
    seconds: dict[str, float]
    drift: dict[str, float] = Field(default_factory=dict)
    verdict: list[bool] = Field(default_factory=list)
    measured: _Measured = Field(default_factory=_Measured)
    prompt: None = None
    changes: list[dict[str, Any]] = Field(default_factory=list)
    metadata: dict[str, Any]


class _State(Record):
    contexts: list[str] | None
    edits: Count
    kept: list[str]


def read_edit(path: Path) -> dict[str, Any]:
    """The fields of an edit.json, all of the right types; those of newer versions stay in.

    Raises:
        EditFileError: it is broken, or of another format.
    """
    values = read_json(path)
    version = values.get("format") if isinstance(values, dict) else None
    if isinstance(version, int) and version is not True and not OLDEST <= version <= FORMAT:
        raise EditFileError(
            f"{path} has format {shown(version)}, this version reads {OLDEST} to {FORMAT}.",
            remedy="Install a newer version of alphaedit."
            if version > FORMAT
            else "Use the version of alphaedit that wrote it.",
        )
    record = checked(_Edit, values, str(path))
    for name in ("before", "after", "verdict"):
        count = len(getattr(record, name))
        if count not in (0, len(record.facts)):
            raise EditFileError(
                f"{path}: field {name!r} speaks of {count} facts, the edit has "
                f"{len(record.facts)}.",
                remedy=BACKUP,
            )
    if not isinstance(version, int) or version is True:
        raise EditFileError(f"{path}: field 'format' is no number.", remedy=BACKUP)
    return dict(values)


def facts_in(values: Mapping[str, Any], path: Path) -> tuple[Fact, ...]:
    """The facts of an edit.json.

    Raises:
        EditFileError: one is broken.
    """
    try:
        return tuple(
            Fact.from_dict(fact, f"{path}, fact {number}", stored=True)
            for number, fact in enumerate(values["facts"], start=1)
        )
    except FactError as error:
        raise EditFileError(error.message, remedy=BACKUP) from error


def read_state(path: Path) -> dict[str, Any]:
    """The fields of a state.json.

    Raises:
        EditFileError: it is broken.
    """
    values = read_json(path)
    checked(_State, values, str(path))
    return dict(values)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, of dtypes that patches and states have.

    Raises:
        EditFileError: it is no file, broken, or holds a tensor of another dtype.
    """
    check_regular(path, error=EditFileError, limit=sys.maxsize, special=BACKUP)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise EditFileError(f"{path} cannot be read: {one_line(error)}.", remedy=BACKUP) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise EditFileError(
                f"{path}: tensor {one_line(name)!r} has dtype {tensor.dtype}, which no edit has.",
                remedy=BACKUP,
            )
    return tensors


def read_state_tensors(path: Path) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """Keys by layer, [d_in, u], and memory by name, from a state.safetensors.

    Raises:
        EditFileError: it is broken, or a tensor has an unknown name or a wrong shape.
    """
    keys: dict[int, Tensor] = {}
    memory: dict[str, Tensor] = {}
    for name, tensor in read_tensors(path).items():
        layer = _KEYS.fullmatch(name)
        if layer and tensor.ndim == 2 and tensor.is_floating_point():
            keys[int(layer[1])] = tensor
        elif name.startswith(_MEMORY) and len(name) > len(_MEMORY):
            memory[name.removeprefix(_MEMORY)] = tensor
        else:
            raise EditFileError(
                f"{path}: tensor {one_line(name)!r} of shape {tuple(tensor.shape)} and dtype "
                f"{tensor.dtype} has no place in a state.",
                remedy=BACKUP,
            )
    return keys, memory
