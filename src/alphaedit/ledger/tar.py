"""Reading tar archives of others, front to back, with limits.

A ledger needs plain files only. Python's tarfile knows links, devices, sparse files and headers of
any size, so that what it reads of a hostile archive is hard to bound; here all else is refused.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from alphaedit.core.errors import LedgerError
from alphaedit.core.reading import check_regular
from alphaedit.core.text import one_line

BLOCK = 512
CHUNK = 1 << 16
MAX_HEADER = 1 << 20
"""Bytes of a member's extended header."""
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
_ANOTHER = "Give a ledger's directory, or a file that `alphaedit pack` wrote."


@dataclass(frozen=True)
class Member:
    """What a header announces.

    Attributes:
        name: path in the archive, for messages if it is not plain ASCII.
        size: bytes.
        plain: whether it is a file: no directory, link, device or sparse file.
    """

    name: str
    size: int
    plain: bool


class Archive:
    """The members of a .tar or .tar.gz file: iterate over them, and read each as it comes.

    Args:
        path: the file.
        limit: bytes that it may have when unpacked, headers included.
        raise_limit: what to do if it has more, for the message.

    Raises:
        LedgerError: there is no such file, or it is a directory, pipe or device.
    """

    def __init__(self, path: Path, limit: int, raise_limit: str) -> None:
        check_regular(path, error=LedgerError, what="Archive", limit=sys.maxsize, special=_ANOTHER)
        self.path, self.limit, self.raise_limit = path, limit, raise_limit
        self._count = 0
        self._left = 0
        self._held = b""
        try:
            self._file: BinaryIO = open(path, "rb")
            head = self._file.read(8)
            self._file.seek(0)
        except OSError as error:
            raise self._broken(error.strerror or str(error)) from error
        for magic, name in _OTHERS.items():
            if head.startswith(magic):
                self._file.close()
                raise LedgerError(
                    f"{path} is compressed by {name}.",
                    remedy="Decompress it first: .tar and .tar.gz files are read.",
                )
        self._gzip = zlib.decompressobj(wbits=31) if head.startswith(b"\x1f\x8b") else None

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Member]:
        extended: dict[str, str] = {}
        while True:
            header = self._read(BLOCK)
            if not header or not any(header):
                return
            if len(header) < BLOCK:
                raise self._broken("it ends in the middle of a header")
            member, kind = self._member(header)
            if kind in (b"x", b"g"):
                extended |= self._extended(member.size)
                continue
            member = self._with(member, extended)
            extended = {}
            if member.size > self.limit - self._count:
                raise self._too_large()
            self._left = member.size
            yield member
            for _ in self.chunks():
                pass
            self._padding(member.size)

    def chunks(self) -> Iterator[bytes]:
        """The content of the member that came last, piece by piece."""
        while self._left:
            data = self._read(min(self._left, CHUNK))
            if not data:
                raise self._broken("it ends in the middle of a file")
            self._left -= len(data)
            yield data

    def _member(self, header: bytes) -> tuple[Member, bytes]:
        known = sum(header[:148]) + 8 * 32 + sum(header[156:])
        if self._number(header[148:156]) != known:
            raise self._broken("a header has a wrong checksum, or this is no tar file")
        kind = header[156:157]
        name = header[:100].split(b"\0")[0]
        if header[257:262] == b"ustar":
            prefix = header[345:500].split(b"\0")[0]
            name = prefix + b"/" + name if prefix else name
        text = name.decode("utf-8", "backslashreplace")
        return Member(text, self._number(header[124:136]), kind in (b"0", b"\0")), kind

    def _number(self, field: bytes) -> int:
        """A number of a header: octal digits, or its bytes behind a byte 0x80."""
        if field[:1] == b"\x80":
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if any(digit not in b"01234567" for digit in digits):
            raise self._broken("a header holds no number where one should be")
        return int(digits, 8)

    def _extended(self, size: int) -> dict[str, str]:
        """Fields of a pax header: lines of the length of the line, a name, "=" and a value."""
        if size > MAX_HEADER:
            raise self._broken(f"it has a header of {size} bytes")
        data = self._exactly(size)
        self._padding(size)
        fields: dict[str, str] = {}
        while data:
            digits, _, _ = data.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
            line, data = data[:length], data[length:]
            name, sign, value = line[len(digits) + 1 : -1].partition(b"=")
            if not sign or line[-1:] != b"\n":
                raise self._broken("it has a broken header")
            fields[name.decode("utf-8", "backslashreplace")] = value.decode(
                "utf-8", "backslashreplace"
            )
        return fields

    def _with(self, member: Member, extended: dict[str, str]) -> Member:
        size = extended.get("size", str(member.size))
        if not (size.isascii() and size.isdigit() and len(size) < 30):
            raise self._broken("a header holds no number where one should be")
        sparse = any(name.startswith("GNU.sparse") for name in extended)
        return Member(extended.get("path", member.name), int(size), member.plain and not sparse)

    def _padding(self, size: int) -> None:
        self._exactly(-size % BLOCK)

    def _exactly(self, size: int) -> bytes:
        data = self._read(size)
        if len(data) < size:
            raise self._broken("it ends in the middle")
        return data

    def _read(self, size: int) -> bytes:
        """So many bytes of what is unpacked, fewer at the end.

        Raises:
            LedgerError: that is past the limit, or the file is broken.
        """
        self._count += size
        if self._count > self.limit:
            raise self._too_large()
        parts: list[bytes] = []
        while size:
            if not self._held:
                self._held = self._more()
            if not self._held:
                break
            parts.append(self._held[:size])
            self._held = self._held[size:]
            size -= len(parts[-1])
        return b"".join(parts)

    def _more(self) -> bytes:
        try:
            if self._gzip is None:
                return self._file.read(CHUNK)
            while not self._gzip.eof:
                raw = self._gzip.unconsumed_tail or self._file.read(CHUNK)
                if not raw:
                    raise self._broken("it is cut off")
                if data := self._gzip.decompress(raw, CHUNK):
                    return data
        except (OSError, zlib.error) as error:
            raise self._broken(getattr(error, "strerror", None) or str(error)) from error
        return b""

    def _broken(self, what: str) -> LedgerError:
        return LedgerError(
            f"{self.path} cannot be read as an archive: {one_line(what)}.", remedy=_ANOTHER
        )

    def _too_large(self) -> LedgerError:
        return LedgerError(
            f"{self.path} holds more than {self.limit / 1e6:,.0f} MB when unpacked, the limit. "
            "Nothing was unpacked.",
            remedy=self.raise_limit,
        )
