"""The journal: one line for each change of a ledger, each bound to all lines before it."""

from __future__ import annotations

import getpass
import json
import os
import socket
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from alphaedit.core.errors import ConfigError, LedgerError, ResourceError
from alphaedit.core.reading import megabytes
from alphaedit.core.text import one_line
from alphaedit.ledger.schema import REMEDY, entry_values

MAX_JOURNAL, MAX_LINE = 1 << 30, 64 << 20
"""Bytes; a million changes, and one of a hundred thousand edits."""
DIRECTORY = "Give a directory that `alphaedit init` or `alphaedit edit -o` wrote."

_START, _BODY = b'{"hash":"', b'","entry":'


@dataclass(frozen=True)
class Entry:
    """One change of a ledger.

    The list of edits in force after it is the one before it (or the one after entry `start`)
    without `drop` and with `add` at its end.

    Attributes:
        number: 0, 1, 2, ...
        op: what was done: init, edit, apply, revert, forget, checkout, squash,
            merge, gc.
        version: id of the list of edits in force after it.
        add: ids of edits that come into force, in order.
        drop: ids of edits that no longer are.
        start: number of the entry whose list of edits this one starts from; the one before if None.
        who: user and host.
        when: time, ISO 8601, UTC.
        why: message of the user.
        about: what is worth a look without opening the edits, by edit id.
        files: SHA-256 of the files of edits that this entry brings, by edit id and name.
        more: what the operation tells besides.
        hash: SHA-256 over this entry and the hash of the one before.
    """

    number: int
    op: str
    version: str
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    start: int | None = None
    who: str = ""
    when: str = ""
    why: str = ""
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    hash: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON values, `hash` included."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def seal(entry: Mapping[str, Any], previous: str) -> tuple[str, str]:
    """The line of an entry, and its hash.

    Args:
        entry: its fields without `hash`.
        previous: hash of the entry before it, "" for the first.

    Raises:
        ConfigError: a text in it is not Unicode.
    """
    body = json.dumps(dict(entry), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        digest = sha256((previous + body).encode()).hexdigest()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{one_line(str(error.object)[max(0, error.start - 20) : error.end + 20])!r} cannot be "
            "recorded: it is not Unicode.",
            remedy="Write messages and names of files in UTF-8.",
        ) from None
    return f"{_START.decode()}{digest}{_BODY.decode()}{body}}}\n", digest


def read(path: Path, after: Entry | None = None, start: int = 0) -> tuple[list[Entry], int]:
    """The entries of a journal, and the length in bytes of what is whole.

    A last line without its end is what a killed writer left; it is not counted.

    Args:
        path: the file.
        after: read only what follows this entry...
        start: ... whose line ends at this byte.

    Raises:
        LedgerError: the file is missing, no file, or too large; or a line was changed, moved or
            taken out, or holds what no entry holds.
    """
    data = _bytes(path, start)
    whole = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    previous = after.hash if after else ""
    number = after.number + 1 if after else 0
    at = 0
    while at < whole:
        end = data.index(b"\n", at)
        where = f"{path}, line {number + 1}"
        _check_length(end + 1 - at, where)
        entries.append(_parse(data[at:end], previous, number, where))
        previous, number, at = entries[-1].hash, number + 1, end + 1
    return entries, start + whole


def _bytes(path: Path, start: int) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise LedgerError(
                f"{path} is no regular file, but a directory, pipe or device.", remedy=DIRECTORY
            )
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(MAX_JOURNAL - start + 1)
    except FileNotFoundError:
        raise LedgerError(
            f"{path.parent} is not a ledger: it has no {path.name}.", remedy=DIRECTORY
        ) from None
    except (OSError, ValueError) as error:
        raise LedgerError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            remedy="Check that you may read it.",
        ) from error
    if start + len(data) > MAX_JOURNAL:
        raise LedgerError(
            f"{path} is larger than {megabytes(MAX_JOURNAL)}, the limit.",
            remedy="Do not trust it; no ledger that alphaedit wrote grows past that.",
        )
    return data


def _check_length(length: int, where: str) -> None:
    if length > MAX_LINE:
        raise LedgerError(
            f"{where}, is longer than {megabytes(MAX_LINE)}, the limit.",
            remedy="Do not trust it; alphaedit writes no line longer than that.",
        )


def _parse(raw: bytes, previous: str, number: int, where: str) -> Entry:
    digest = raw[len(_START) : len(_START) + 64]
    body = raw[len(_START) + 64 + len(_BODY) : -1]
    if raw != b"".join((_START, digest, _BODY, body, b"}")) or (
        sha256(previous.encode() + body).hexdigest().encode() != digest
    ):
        raise LedgerError(
            f"{where}, is not what was written there: the journal was changed or is damaged.",
            remedy=REMEDY,
        )
    try:
        values = from_json(body)
    except ValueError as error:
        raise LedgerError(f"{where}: {one_line(error)}.", remedy=REMEDY) from error
    return Entry(**entry_values(values, number, where), hash=digest.decode())


def begun(path: Path) -> bool:
    """Whether there is a file with a whole line."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    if b"\n" in block:
                        return True
    except (OSError, ValueError):
        pass
    return False


def check_unbegun(path: Path) -> None:
    """See whether a journal can begin here: there is none, or one killed in its first line.

    Raises:
        LedgerError: there is something else.
    """
    if not os.path.lexists(path):
        return
    with suppress(OSError):
        if stat.S_ISREG(path.stat().st_mode):
            with open(path, "rb") as file:
                head = file.read(len(_START))
            if _START.startswith(head):
                return
    raise LedgerError(
        f"{path} is no journal of a ledger.",
        remedy="Choose another directory, or put that file elsewhere.",
    )


def append(path: Path, lines: Sequence[bytes], whole: int) -> None:
    """Write lines after the first `whole` bytes, down to the disk, all or nothing.

    Raises:
        ResourceError: that failed, or it would grow past what is read; the journal is as it was.
    """
    if whole + sum(map(len, lines)) > MAX_JOURNAL or max(map(len, lines), default=0) > MAX_LINE:
        raise ResourceError(
            f"{path} would grow past {megabytes(MAX_JOURNAL)}, or a line of it past "
            f"{megabytes(MAX_LINE)}, the limits.",
            remedy="Squash the edits in force and begin a new ledger with them, or change fewer at "
            "once. The ledger is as it was.",
        )
    try:
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.truncate(whole)
            file.seek(whole)
            try:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(whole)
                raise
    except OSError as error:
        raise ResourceError(
            f"Cannot write {path}: {error.strerror or error}.",
            remedy="Free some space, or see whether the directory may be written. The ledger is "
            "as it was.",
        ) from error


def stamp(why: str) -> dict[str, str]:
    """Who, when and why."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return {
        "who": f"{user}@{socket.gethostname()}",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "why": why,
    }
