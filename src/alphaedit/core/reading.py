"""Text files of others: what they may be, how much of them is read, and in what encoding."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from alphaedit.core.errors import AlphaEditError, FactError

LIMIT = 512 * 2**20
"""Bytes of a file that are read at most."""
CHUNK = 2**20
TO_FILE = "Write its content into a file, and give that."
PIPED = "Pipe it in and give - in its place, or write its content into a file."

_MAGIC = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"%PDF-", "a PDF"),
    (b"SQLite format 3\x00", "a data base"),
    (b"PAR1\x15", "a Parquet file"),
)
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def read_text(
    path: str | Path,
    *,
    error: type[AlphaEditError],
    what: str = "File",
    limit: int = LIMIT,
    special: str = TO_FILE,
) -> str:
    """The text of a regular file in UTF-8; see `read_bytes` and `decode`."""
    raw = read_bytes(path, error=error, what=what, limit=limit, special=special)
    return decode(raw, str(path), error=error)


def check_regular(
    path: str | Path,
    *,
    error: type[AlphaEditError],
    what: str = "File",
    limit: int = LIMIT,
    special: str = TO_FILE,
) -> None:
    """Refuse what cannot be read as a file, or is too large, without opening it.

    Args:
        error: kind of error to raise.
        what: what the file should be, as in "Facts file".
        limit: most bytes.
        special: remedy for pipes and devices.

    Raises:
        error: it does not exist, is no regular file, or larger than `limit`.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist.", remedy="Check the path.") from None
    except (OSError, ValueError) as failure:
        raise _unreadable(path, what, failure, error) from None
    _check_mode(status.st_mode, path, what, special, error)
    if status.st_size > limit:
        raise _too_large(path, what, limit, error, status.st_size)


def read_bytes(
    path: str | Path,
    *,
    error: type[AlphaEditError],
    what: str = "File",
    limit: int = LIMIT,
    special: str = TO_FILE,
) -> bytes:
    """The bytes of a regular file; what is not one is refused at once, without waiting for it.

    Args:
        error: kind of error to raise.
        what: what the file should be, as in "Facts file".
        limit: most bytes.
        special: remedy for pipes and devices.

    Raises:
        error: it does not exist, is no regular file, larger than `limit`, or cannot be read.
    """
    check_regular(path, error=error, what=what, limit=limit, special=special)
    with _opened(path, what, special, error) as file:
        raw = read_stream(file, limit)
    if raw is None:
        raise _too_large(path, what, limit, error)
    return raw


def read_stream(file: BinaryIO, limit: int = LIMIT) -> bytes | None:
    """All that `file` still holds, without setting aside `limit` bytes for it; None if more."""
    parts: list[bytes] = []
    while chunk := file.read(CHUNK):
        parts.append(chunk)
        limit -= len(chunk)
        if limit < 0:
            return None
    return b"".join(parts)


def decode(raw: bytes, name: str, *, error: type[AlphaEditError]) -> str:
    """The text of `raw`, in UTF-8 with or without a mark in front.

    Raises:
        error: it is an archive or another kind of file known by its first bytes, not UTF-8, or
            holds NUL bytes; the message names the line.
    """
    _check_kind(raw, name, error)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        # The decoder counts from behind the mark.
        at = failure.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        where = f"{name}, line {raw.count(10, 0, at) + 1}"
        what = f"not UTF-8 (byte {at} is 0x{raw[at]:02x})."
        raise placed(error, what, where, "Save the file in UTF-8.") from None
    _check_nul(raw, name, error)
    return text


def _check_kind(raw: bytes, name: str, error: type[AlphaEditError]) -> None:
    for magic, kind in _MAGIC:
        if raw.startswith(magic):
            raise placed(error, f"this is {kind}, not text.", name, "Give the text inside it.")


def _check_nul(raw: bytes, name: str, error: type[AlphaEditError]) -> None:
    at = raw.find(0)
    if at >= 0:
        where = f"{name}, line {raw.count(10, 0, at) + 1}"
        what = f"a NUL byte (byte {at}): no text, or not in UTF-8."
        raise placed(error, what, where, "Give text, in UTF-8.")


def check_text(
    path: str | Path,
    *,
    error: type[AlphaEditError],
    what: str = "File",
    limit: int = LIMIT,
    special: str = TO_FILE,
) -> None:
    """Refuse, by its kind, size and first bytes, what `read_text` would refuse; see there."""
    check_regular(path, error=error, what=what, limit=limit, special=special)
    with _opened(path, what, special, error) as file:
        head = file.read(CHUNK)
    _check_kind(head, str(path), error)
    _check_nul(head, str(path), error)


@contextmanager
def _opened(
    path: str | Path, what: str, special: str, error: type[AlphaEditError]
) -> Iterator[BinaryIO]:
    # Another file may have taken its place meanwhile: opening a pipe must not wait either.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            _check_mode(os.fstat(file.fileno()).st_mode, path, what, special, error)
            yield file
    except OSError as failure:
        raise _unreadable(path, what, failure, error) from None


def placed(
    error: type[AlphaEditError],
    message: str,
    where: str,
    remedy: str | None = None,
    field: str | None = None,
) -> AlphaEditError:
    """An error of the kind `error` that says where first."""
    if issubclass(error, FactError):
        return error(message, remedy=remedy, where=where, field=field)
    return error(f"{where}: {message}", remedy=remedy)


def _check_mode(
    mode: int, path: str | Path, what: str, special: str, error: type[AlphaEditError]
) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise error(f"{what} {path} is a directory.", remedy="Give a file inside it.")
    kind = next((name for test, name in _KINDS if test(mode)), "no regular file")
    raise error(f"{what} {path} is {kind}, not a regular file.", remedy=special)


def _too_large(
    path: str | Path, what: str, limit: int, error: type[AlphaEditError], size: int | None = None
) -> AlphaEditError:
    extent = f"has {megabytes(size)}" if size is not None else "is larger"
    return error(
        f"{what} {path} {extent}; at most {megabytes(limit)} are read.",
        remedy="Split it, or give a part of it.",
    )


def _unreadable(
    path: str | Path, what: str, failure: Exception, error: type[AlphaEditError]
) -> AlphaEditError:
    reason = getattr(failure, "strerror", None) or failure
    return error(f"{what} {path} cannot be read: {reason}.", remedy="Check its permissions.")


def megabytes(size: int) -> str:
    """A size for messages."""
    return f"{size / 2**20:,.0f} MiB"
