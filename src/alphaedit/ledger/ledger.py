"""A ledger: edits under version control, in a directory."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.arguments import as_path
from alphaedit.core.errors import FingerprintError, LedgerError
from alphaedit.ledger import journal
from alphaedit.ledger.history import History, Version, root
from alphaedit.ledger.journal import Entry
from alphaedit.ledger.lock import EDITS, JOURNAL, LOCK, SIGNATURES, locked
from alphaedit.ledger.schema import FORMAT
from alphaedit.ledger.signing import sign

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.ledger.store import Store
    from alphaedit.methods.state import Learned

    Kept = tuple[Edit, Learned]

__all__ = ["BEFORE", "EDITS", "JOURNAL", "LOCK", "SIGNATURES", "Ledger"]

BEFORE = {JOURNAL, LOCK, SIGNATURES}
"""All that a ledger can hold whose beginning failed or was killed."""


class Ledger:
    """Edits of one model under version control.

    ``journal.jsonl`` has a line for each change and only grows; ``edits/ID`` are the edits,
    written once. A change is there when its line is: whoever is killed before leaves nothing but
    litter that the next `gc` removes. One process writes at a time.

    Attributes:
        path: the directory.
        signer: private ssh key that new entries are signed with, if any.
    """

    def __init__(self, path: str | Path, *, signer: str | Path | None = None) -> None:
        self.path = as_path("The ledger", path)
        self.signer = Path(signer).expanduser() if signer else None
        self._read: tuple[tuple[int, int], History] | None = None
        self._whole = 0
        _ = self.history

    @classmethod
    def create(
        cls,
        path: str | Path,
        base: str,
        *,
        model: str = "",
        why: str = "",
        signer: str | Path | None = None,
    ) -> Ledger:
        """Begin a ledger.

        Args:
            path: a new directory, or one without a ledger in it.
            base: fingerprint of the unedited model.
            model: where that model is, for commands that load it.
            why: message for the log.
            signer: private ssh key to sign entries with.

        Raises:
            LedgerError: there is one already, or a file in its place.
            ResourceError: it cannot be written.
        """
        path = as_path("The ledger", path)
        with locked(path):
            if journal.begun(path / JOURNAL):
                raise LedgerError(
                    f"{path} holds a ledger already.", remedy="Use it, or choose another directory."
                )
            journal.check_unbegun(path / JOURNAL)
            entry = {
                "number": 0,
                "op": "init",
                "version": root(base).id,
                "more": {"format": FORMAT, "base": base, "model": model},
                **journal.stamp(why),
            }
            key = Path(signer).expanduser() if signer else None
            _append(path, _filled(entry), "", 0, key)
        return cls(path, signer=signer)

    @staticmethod
    def at(path: str | Path) -> bool:
        """Whether there is a ledger."""
        return journal.begun(Path(path) / JOURNAL)

    @property
    def history(self) -> History:
        """What the journal says now.

        Raises:
            LedgerError: it is missing, damaged or was tampered with.
        """
        file = self.path / JOURNAL
        try:
            about = os.stat(file)
            seen = (about.st_size, about.st_mtime_ns)
        except OSError:
            seen = (-1, -1)
        if self._read is not None and self._read[0] == seen:
            return self._read[1]
        if self._read is not None and seen[0] >= self._whole:
            known, self._read = self._read[1], None
            more, self._whole = journal.read(file, known.entries[-1], self._whole)
            known.extend(more)
            self._read = (seen, known)
            return known
        entries, self._whole = journal.read(file)
        if not entries:
            raise LedgerError(f"{file} has no beginning.", remedy="Begin it with `alphaedit init`.")
        self._read = (seen, History(entries, entries[0].more["base"], str(file)))
        return self._read[1]

    @property
    def whole(self) -> int:
        """Length in bytes of what `history` last read of the journal."""
        return self._whole

    @property
    def store(self) -> Store:
        """The edits on disk."""
        from alphaedit.ledger.store import Store

        return Store(self.path / EDITS)

    @property
    def base(self) -> str:
        """Fingerprint of the unedited model."""
        return self.history.base

    @property
    def model(self) -> str:
        """Where the unedited model was when the ledger began."""
        return str(self.history.entries[0].more.get("model", ""))

    @property
    def head(self) -> Version:
        """The edits in force."""
        return self.history.head

    def version(self, name: str) -> Version:
        """The edits in force after an entry, named as in `History.entry`."""
        return self.history.versions[self.history.entry(name)]

    def check_base(self, base: str) -> None:
        """Refuse a model with another fingerprint.

        Raises:
            FingerprintError: it is another model.
        """
        if base != self.base:
            raise FingerprintError(
                f"{self.path} holds edits of a model with fingerprint {self.base[:12]}, this model "
                f"has {base[:12]}.",
                remedy=f"Load the unedited model ({self.model or 'the one it began with'}).",
            )

    def read(self, edit: str) -> Kept:
        """An edit, and what the sequential run learned from it.

        Raises:
            LedgerError: it is not in the ledger, was removed by `gc`, or its files are damaged.
        """
        return self.store.read(edit, self.files_of(edit))

    def files_of(self, edit: str) -> Mapping[str, str]:
        """SHA-256 of an edit's files, by name.

        Raises:
            LedgerError: it is not in the ledger, or was removed by `gc`.
        """
        history = self.history
        if edit in history.pruned:
            raise LedgerError(
                f"Edit {edit} was removed by `gc` (entry @{history.pruned[edit]}).",
                remedy="Take it from a copy of the ledger, or make it again.",
            )
        if edit not in history.files:
            raise LedgerError(f"There is no edit {edit}.", remedy="See `alphaedit log`.")
        return history.files[edit]

    def edits(self, version: Version | None = None) -> list[Kept]:
        """The edits in force, oldest first, or those of another version."""
        return [self.read(edit) for edit in (version or self.head).edits]

    def commit(
        self,
        op: str,
        *,
        add: Sequence[Kept | str] = (),
        drop: Sequence[str] = (),
        start: int | None = None,
        why: str = "",
        more: Mapping[str, Any] | None = None,
        expect: str | None = None,
        source: Ledger | None = None,
    ) -> Entry:
        """Write one change, all or nothing.

        Args:
            op: its name in the log.
            add: edits that come into force: new ones, or ids of edits kept here or in `source`.
            drop: ids of edits that are no longer in force.
            start: number of the entry to start from instead of the last.
            why: message.
            more: JSON values to be kept with the entry.
            expect: id of the version that must be in force now.
            source: another ledger that ids in `add` come from.

        Raises:
            LedgerError: another process changed the ledger meanwhile, or the change is impossible.
            ResourceError: it cannot be written, or is locked; the ledger is as it was.
        """
        with locked(self.path):
            history = self.history
            if expect is not None and history.head.id != expect:
                last = history.entries[-1]
                raise LedgerError(
                    f"{self.path} was changed meanwhile: {last.op} by {last.who} at {last.when}.",
                    remedy="Load it again and repeat what you did. Nothing was written.",
                )
            ids = [given if isinstance(given, str) else given[0].id for given in add]
            version = history.after(drop, ids, start)
            files, about = self._stored(history, ids, add, source)
            entry = {
                "number": len(history.entries),
                "op": op,
                "version": version.id,
                "add": ids,
                "drop": list(drop),
                "start": start,
                "files": files,
                "about": about,
                "more": dict(more or {}),
                **journal.stamp(why),
            }
            previous = history.entries[-1].hash
            _append(self.path, _filled(entry), previous, self._whole, self.signer)
            return self.history.entries[-1]

    def _stored(
        self,
        history: History,
        ids: Sequence[str],
        add: Sequence[Kept | str],
        source: Ledger | None,
    ) -> tuple[dict[str, Mapping[str, str]], dict[str, Mapping[str, Any]]]:
        """Write the edits that are not here yet; their files, and what they are about."""
        files: dict[str, Mapping[str, str]] = {}
        about: dict[str, Mapping[str, Any]] = {}
        for edit, given in zip(ids, add, strict=True):
            recorded = edit in history.files and edit not in history.pruned
            if recorded and self.store.has(edit):
                continue
            if not isinstance(given, str):
                files[edit] = self.store.write(*given)
                about[edit] = _about(given[0])
            elif source is not None:
                files[edit] = source.history.files[edit]
                about[edit] = source.history.about[edit]
                self.store.take(edit, source.store.path, files[edit])
            else:
                self.read(edit)  # says what is the matter
        return files, about

    def sync(self, kept: Sequence[Kept], *, op: str = "edit", why: str = "") -> Entry | None:
        """Bring these edits, in this order, and no others into force; None if they are."""
        head = self.head
        current = head.edits
        wanted = [edit.id for edit, _ in kept]
        same = 0
        while same < min(len(current), len(wanted)) and current[same] == wanted[same]:
            same += 1
        if same == len(current) == len(wanted):
            return None
        if same == len(wanted):
            op = "revert"
        return self.commit(op, add=kept[same:], drop=current[same:], why=why, expect=head.id)

    def locked(self, *, reading: bool = False) -> AbstractContextManager[None]:
        """Keep other writers out for the length of a block; see `lock.locked`."""
        return locked(self.path, reading=reading)


def _about(edit: Edit) -> dict[str, Any]:
    first = edit.facts[0] if edit.facts else None
    return {
        "facts": len(edit.facts),
        "method": edit.method,
        "created": edit.created,
        "first": f"{first.text} → {first.target}" if first else "",
    }


def _filled(entry: Mapping[str, Any]) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "add": [],
        "drop": [],
        "start": None,
        "about": {},
        "files": {},
        "more": {},
    }
    return {**empty, **entry}


def _append(
    path: Path, entry: Mapping[str, Any], previous: str, whole: int, key: Path | None
) -> None:
    line, digest = journal.seal(entry, previous)
    if key is not None:
        sign(digest, path / SIGNATURES / f"{digest}.sig", key)
    journal.append(path / JOURNAL, [line.encode()], whole)
