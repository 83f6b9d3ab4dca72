"""What stands in front of the tensors of a GGUF file: metadata, and where each tensor lies."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from alphaedit.core.errors import ModelError

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_NUMBERS |= {12: "d"}
_STRING, _ARRAY = 8, 9
_AGAIN = "Fetch or make the file again."


@dataclass(frozen=True)
class Stored:
    """One tensor of a GGUF file.

    Attributes:
        shape: as torch has it, the slowest dimension first: matrices are [d_out, d_in].
        type: number of its ggml type.
        start: where its bytes begin in the file.
        size: how many there are.
        entry: where its type (4 bytes) and offset (8 bytes) are written in the header.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    start: int
    size: int
    entry: int


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file.

    Attributes:
        metadata: numbers and strings by key; of arrays only the length.
        tensors: by name, in the order of the file.
        data: where the tensors begin.
        alignment: of which every tensor's place is a multiple.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]
    data: int
    alignment: int

    @property
    def architecture(self) -> str:
        """The family's name in llama.cpp."""
        return str(self.metadata["general.architecture"])


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        layout = struct.Struct("<" + form)
        try:
            values = layout.unpack_from(self.data, self.at)
        except struct.error:
            raise truncated(self.path) from None
        self.at += layout.size
        return values

    def skip(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise truncated(self.path)
        start, self.at = self.at, end
        return self.data[start:end]

    def text(self) -> str:
        return self.skip(self.numbers("Q")[0]).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self.numbers(_NUMBERS[kind])[0]
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ModelError(f"{self.path}: metadata of unknown type {kind}.", remedy=_AGAIN)
        inner, count = self.numbers("IQ")
        if inner in _NUMBERS:
            self.skip(count * struct.calcsize("<" + _NUMBERS[inner]))
        elif inner != _STRING:
            raise ModelError(f"{self.path}: a list of type {inner}.", remedy=_AGAIN)
        else:
            for _ in range(count):
                self.value(inner)
        return count


def is_gguf(source: str | Path) -> bool:
    """Whether `source` is the name of a GGUF file."""
    return str(source).lower().endswith(SUFFIX)


def truncated(path: Path) -> ModelError:
    """The error for a file that ends too early."""
    return ModelError(
        f"{path} is truncated: it ends before what its header announces.", remedy=_AGAIN
    )


def read_header(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Header:
    """The header of the GGUF file at `path`; no tensor is read.

    Args:
        path: the file.
        sizes: numbers and bytes of a block, by number of the ggml type.

    Raises:
        ModelError: there is no such file, it is no GGUF file, of an unknown version, truncated, or
            one of several parts.
    """
    if not path.is_file():
        raise ModelError(
            f"There is no model at {path}.",
            remedy="Give a .gguf file, a model directory, a hub name (owner/name), or 'bundled'.",
        )
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] != MAGIC:
            raise ModelError(
                f"{path} is no GGUF file: it begins with {start[:4]!r}, not with {MAGIC!r}.",
                remedy="Fetch the file itself; a small text file in its place is often a pointer "
                "of Git LFS or an error page.",
            )
        if len(start) < 8:
            raise truncated(path)
        version = struct.unpack("<I", start[4:])[0]
        if version not in VERSIONS:
            big = version >= 1 << 16
            raise ModelError(
                f"{path} is a GGUF file {'of big-endian machines' if big else f'v{version}'}.",
                remedy="Convert it with a recent llama.cpp, little-endian.",
            )
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(_Reader(path, data), sizes)


def _parse(reader: _Reader, sizes: Mapping[int, tuple[int, int]]) -> Header:
    reader.at = 8
    path = reader.path
    count, keys = reader.numbers("QQ")
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        key = reader.text()
        metadata[key] = reader.value(reader.numbers("I")[0])
    if not isinstance(metadata.get("general.architecture"), str):
        raise ModelError(f"{path} does not say its architecture.", remedy=_AGAIN)
    parts = metadata.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            f"{path} is one of {parts} parts.",
            remedy="Join them with llama-gguf-split --merge, and give the file that it makes.",
        )
    entries = []
    for _ in range(count):
        name = reader.text()
        shape = reader.numbers(f"{min(reader.numbers('I')[0], 8)}Q")
        entry = reader.at
        kind, offset = reader.numbers("IQ")
        if kind not in sizes:
            raise ModelError(
                f"{path}: tensor {name} is of type {kind}, which the gguf package does not know.",
                remedy="pip install --upgrade gguf, or use a file of another quantisation.",
            )
        numbers, length = sizes[kind]
        entries.append((name, shape[::-1], kind, offset, prod(shape) // numbers * length, entry))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ModelError(f"{path}: an alignment of {alignment!r}.", remedy=_AGAIN)
    data = -(-reader.at // alignment) * alignment
    tensors = {
        name: Stored(name, shape, kind, data + offset, size, entry)
        for name, shape, kind, offset, size, entry in entries
    }
    end = max((t.start + t.size for t in tensors.values()), default=data)
    if end > len(reader.data):
        raise truncated(path)
    return Header(path, metadata, tensors, data, alignment)
