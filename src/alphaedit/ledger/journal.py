"""The journal: one line for each change of a ledger, each bound to all lines before it."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from alphaedit.core.errors import LedgerError, ResourceError

_START = '{"hash":"'
_BODY = '","entry":'


@dataclass(frozen=True)
class Entry:
    """One change of a ledger.

    The list of edits in force after it is the one before it (or the one after entry `start`)
    without `drop` and with `add` at its end.

    Attributes:
        number: 0, 1, 2, ...
        op: what was done: init, edit, apply, revert, checkout, squash, merge, gc.
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
    """
    body = json.dumps(dict(entry), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    digest = sha256((previous + body).encode()).hexdigest()
    return f"{_START}{digest}{_BODY}{body}}}\n", digest


def read(path: Path, after: Entry | None = None, start: int = 0) -> tuple[list[Entry], int]:
    """The entries of a journal, and the length in bytes of what is whole.

    A last line without its end is what a killed writer left; it is not counted.

    Args:
        path: the file.
        after: read only what follows this entry...
        start: ... whose line ends at this byte.

    Raises:
        LedgerError: the file is missing, or a line was changed, moved or taken out.
    """
    try:
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        raise LedgerError(
            f"{path.parent} is not a ledger: it has no {path.name}.",
            remedy="Give a directory that `alphaedit init` or `alphaedit edit -o` wrote.",
        ) from None
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check that you may read it."
        ) from error
    whole = data.rfind(b"\n") + 1
    entries: list[Entry] = []
    previous = after.hash if after else ""
    first = after.number + 1 if after else 0
    for number, raw in enumerate(data[:whole].split(b"\n")[:-1], start=first):
        entry = _parse(raw, previous, number)
        if entry is None:
            raise LedgerError(
                f"{path}, line {number + 1}, is not what was written there: the journal was "
                "changed or is damaged.",
                remedy="Take the ledger from a backup, or from where it was pushed.",
            )
        entries.append(entry)
        previous = entry.hash
    return entries, start + whole


def _parse(raw: bytes, previous: str, number: int) -> Entry | None:
    try:
        line = raw.decode()
        digest = line[len(_START) : len(_START) + 64]
        body = line[len(_START) + 64 + len(_BODY) : -1]
        if line != f"{_START}{digest}{_BODY}{body}}}":
            return None
        if sha256((previous + body).encode()).hexdigest() != digest:
            return None
        values = json.loads(body)
        values["add"], values["drop"] = tuple(values["add"]), tuple(values["drop"])
        entry = Entry(**values, hash=digest)
    except (ValueError, KeyError, TypeError):
        return None
    return entry if entry.number == number else None


def append(path: Path, lines: Sequence[bytes], whole: int) -> None:
    """Write lines after the first `whole` bytes, down to the disk, all or nothing.

    Raises:
        ResourceError: that failed; the journal is as it was.
    """
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
