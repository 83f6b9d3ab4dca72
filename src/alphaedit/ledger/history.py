"""What a journal means: the lists of edits that were in force, and their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from alphaedit.core.errors import LedgerError
from alphaedit.ledger.journal import Entry

ID = re.compile(r"[0-9a-f]{16}")
BASE = "base"
_BACK = re.compile(r"head(?:~([0-9]{0,9}))?")
_NUMBER = re.compile(r"-?[0-9]{1,9}")


@dataclass(frozen=True, eq=False, slots=True)
class Version:
    """A list of edits in force, as its last edit after a shorter list.

    Attributes:
        id: hash of base and edits in order; equal ids mean equal weights.
        before: the list without its last edit.
        edit: id of the last edit.
        size: how many edits.
    """

    id: str
    before: Version | None = None
    edit: str | None = None
    size: int = 0

    def then(self, edit: str) -> Version:
        """The list with one more edit."""
        return Version(_hash(self.id, edit), self, edit, self.size + 1)

    @property
    def edits(self) -> list[str]:
        """Ids of the edits in force, oldest first."""
        ids: list[str] = []
        at: Version | None = self
        while at is not None and at.edit is not None:
            ids.append(at.edit)
            at = at.before
        return ids[::-1]

    def without(self, dropped: Iterable[str]) -> Version:
        """The list without some edits.

        Raises:
            LedgerError: one is not in it.
        """
        left, retained = set(dropped), []
        at: Version = self
        while left and at.before is not None and at.edit is not None:
            if at.edit in left:
                left.discard(at.edit)
            else:
                retained.append(at.edit)
            at = at.before
        if left:
            raise LedgerError(
                f"Edit {sorted(left)[0]} is not in force.", remedy="See `alphaedit log`."
            )
        for edit in reversed(retained):
            at = at.then(edit)
        return at


def root(base: str) -> Version:
    """The unedited model with that fingerprint."""
    return Version(_hash("", base))


def version_of(base: str, edits: Iterable[str]) -> Version:
    """The version with these edits in force."""
    version = root(base)
    for edit in edits:
        version = version.then(edit)
    return version


def _hash(before: str, what: str) -> str:
    return sha256(f"{before} {what}".encode()).hexdigest()[:16]


class History:
    """All versions that a journal tells of.

    Attributes:
        entries: the journal.
        versions: the version after each entry.
        files: SHA-256 of each edit's files, by edit id and name.
        about: what is worth a look about each edit.
        pruned: edits that `gc` has removed.
        where: the journal's file, for messages.

    Raises:
        LedgerError: the journal contradicts itself.
    """

    def __init__(self, entries: Sequence[Entry], base: str, where: str = "The journal") -> None:
        self.entries: list[Entry] = []
        self.base = base
        self.where = where
        self.versions: list[Version] = []
        self.files: dict[str, Mapping[str, str]] = {}
        self.about: dict[str, Mapping[str, Any]] = {}
        self.pruned: dict[str, int] = {}
        self._made: dict[str, int] = {}
        self._force: set[str] = set()
        self.extend(entries)

    def extend(self, entries: Iterable[Entry]) -> None:
        """Go on with entries that follow.

        Raises:
            LedgerError: they contradict what is known.
        """
        for entry in entries:
            self._follow(entry)
            self.entries.append(entry)

    def _follow(self, entry: Entry) -> None:
        for edit in (*entry.add, *entry.drop, *entry.files):
            if not ID.fullmatch(edit):
                raise self._wrong(entry, f"names an edit {edit!r}, which is no id")
        self.files.update(entry.files)
        self.about.update(entry.about)
        pruned = entry.more.get("pruned", ())
        for edit in (*entry.add, *entry.files, *pruned):
            if edit not in self.files or edit not in self.about:
                raise self._wrong(entry, f"speaks of edit {edit}, which no entry brought")
        for edit in entry.files:
            self.pruned.pop(edit, None)
        for edit in pruned:
            self.pruned[edit] = entry.number
        try:
            version = self.after(entry.drop, entry.add, entry.start)
        except LedgerError as error:
            raise self._wrong(entry, f"cannot be: {error.message.rstrip('.')}") from None
        if version.id != entry.version:
            raise self._wrong(entry, "does not follow from the entries before it")
        for edit in entry.add:
            self._made.setdefault(edit, entry.number)
        self.versions.append(version)
        if entry.start is not None:
            self._force = set(version.edits)
        else:
            self._force.difference_update(entry.drop)
            self._force.update(entry.add)

    def _wrong(self, entry: Entry, what: str) -> LedgerError:
        return LedgerError(
            f"{self.where}, line {entry.number + 1}: Entry {entry.number} {what}.",
            remedy="The ledger was tampered with: take it from a backup.",
        )

    @property
    def head(self) -> Version:
        """The edits in force now."""
        return self.versions[-1] if self.versions else root(self.base)

    def after(
        self, drop: Iterable[str] = (), add: Iterable[str] = (), start: int | None = None
    ) -> Version:
        """The version that an entry with these fields would lead to.

        Raises:
            LedgerError: an edit to be dropped is not in force, or one to be added is.
        """
        if start is not None and not 0 <= start < len(self.versions):
            raise LedgerError(f"There is no entry {start}.", remedy="See `alphaedit log`.")
        drop, add = set(drop), list(add)
        in_force = self._force if start is None else set(self.versions[start].edits)
        version = (self.head if start is None else self.versions[start]).without(drop)
        new: set[str] = set()
        for edit in add:
            if edit in new or (edit in in_force and edit not in drop):
                raise LedgerError(f"Edit {edit} is in force already.", remedy="Leave it out.")
            version = version.then(edit)
            new.add(edit)
        return version

    def edit(self, name: str) -> str:
        """The id of an edit, from the beginning of it, "last" or "@N" for one made by entry N.

        Raises:
            LedgerError: there is none, or there are several.
        """
        if name == "last":
            if self.head.edit is None:
                raise LedgerError("No edit is in force.", remedy="Edit first.")
            return self.head.edit
        if name.startswith("@"):
            entry = self.entries[self.entry(name)]
            if len(entry.add) == 1:
                return entry.add[0]
            raise LedgerError(
                f"Entry {name} brought {len(entry.add)} edits.", remedy="Give an edit's id."
            )
        matches = [edit for edit in self.files if edit.startswith(name)] if len(name) >= 4 else []
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise LedgerError(
                f"{name} is the beginning of {len(matches)} edits: "
                f"{', '.join(sorted(matches)[:5])}.",
                remedy="Give more of the id.",
            )
        raise LedgerError(
            f"There is no edit {name!r}.",
            remedy="Give an edit's id from `alphaedit log`, or 4 or more of its first characters.",
        )

    def entry(self, name: str) -> int:
        """The number of an entry, from "@N", "N", "base", "head", "head~N" or an edit's id.

        Raises:
            LedgerError: there is none.
        """
        text = name.lower()
        if text == BASE:
            return 0
        count = len(self.entries)
        back = _BACK.fullmatch(text)
        if back:
            text = str(count - 1 - int(back[1] or 0))
        text = text.removeprefix("@")
        if _NUMBER.fullmatch(text) or name.startswith("@"):
            if _NUMBER.fullmatch(text) and 0 <= int(text) < count:
                return int(text)
            raise LedgerError(f"There is no entry {name}.", remedy=f"They are @0 to @{count - 1}.")
        edit = self.edit(name)
        if edit not in self._made:
            raise LedgerError(f"Edit {edit} was never in force.", remedy="Apply it.")
        return self._made[edit]
