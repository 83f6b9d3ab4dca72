"""A ledger as a timeline: its entries page by page, single edits, and what versions differ in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alphaedit.core.errors import LedgerError
from alphaedit.core.fact import Fact, canonical
from alphaedit.ledger.facts import Held, in_force
from alphaedit.ledger.history import Version
from alphaedit.ledger.journal import Entry
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit

T = TypeVar("T")
MOST_FACTS = 200
"""Facts of an edit that are told."""
MOST_ENTRIES = 200
MOST_CHANGES = 500


class Timeline:
    """What is told of a ledger that may not have begun yet; safe to ask from any thread.

    Attributes:
        path: the ledger's directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None
        self._facts: dict[str, Sequence[Fact]] = {}
        self._texts: list[str] = []
        self._in_force: tuple[str, frozenset[str]] = ("", frozenset())
        self._standing: tuple[str, dict[str, Held]] = ("", {})

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, if it has begun.

        Raises:
            LedgerError: it is broken.
        """
        with self._lock:
            if self._ledger is None and Ledger.at(self.path):
                self._ledger = Ledger(self.path)
            return self._ledger

    def begun(self) -> Ledger:
        """The ledger.

        Raises:
            LedgerError: it has not begun, or is broken.
        """
        ledger = self.ledger
        if ledger is None:
            raise LedgerError(
                f"{self.path} holds no edits yet.", remedy="Keep the preview of an edit first."
            )
        return ledger

    def write(self, change: Callable[[Ledger], T]) -> T:
        """What a change of the ledger gives; nobody else here reads it meanwhile.

        Raises:
            LedgerError: it has not begun, or is broken.
        """
        with self._lock:
            return change(self.begun())

    def know(self, edits: Iterable[Edit]) -> None:
        """Take note of facts of edits that were read already."""
        with self._lock:
            self._facts.update((edit.id, edit.facts) for edit in edits)

    def head(self) -> Version | None:
        """The version in force; None before the first edit."""
        with self._lock:
            ledger = self.ledger
            return ledger.head if ledger else None

    def edits_in_force(self) -> frozenset[str]:
        """Ids of the edits in force."""
        with self._lock:
            head = self.head()
            if head is None:
                return frozenset()
            if self._in_force[0] != head.id:
                self._in_force = head.id, frozenset(head.edits)
            return self._in_force[1]

    def facts(self, edit: str) -> Sequence[Fact]:
        """The facts of an edit.

        Raises:
            LedgerError: it is not there.
        """
        with self._lock:
            if edit not in self._facts:
                ledger = self.begun()
                self._facts[edit] = tuple(ledger.store.facts(edit, ledger.files_of(edit)))
            return self._facts[edit]

    def standing(self) -> dict[str, Held]:
        """Facts in force by prompt."""
        with self._lock:
            head = self.head()
            if head is None:
                return {}
            if self._standing[0] != head.id:
                facts = in_force((edit, self.facts(edit)) for edit in head.edits)
                self._standing = head.id, facts
            return self._standing[1]

    def page(self, before: int | None = None, count: int = 50, words: str = "") -> dict[str, Any]:
        """Entries, the latest first: JSON values.

        Args:
            before: only those with smaller numbers.
            count: how many.
            words: only those in which this text is found.
        """
        with self._lock:
            ledger = self.ledger
            if ledger is None:
                return {"ledger": str(self.path), "begun": False, "entries": [], "total": 0}
            entries = ledger.history.entries
            last = len(entries) if before is None else max(0, min(before, len(entries)))
            rows: list[dict[str, Any]] = []
            sought = canonical(words).casefold()
            if sought:
                self._texts += [self._words(entry) for entry in entries[len(self._texts) :]]
            number = last
            while number > 0 and len(rows) < min(count, MOST_ENTRIES):
                number -= 1
                if not sought or sought in self._texts[number]:
                    rows.append(self._entry(ledger, entries[number]))
            return {
                "ledger": str(self.path),
                "begun": True,
                "model": ledger.model,
                "total": len(entries),
                "in_force": len(self.edits_in_force()),
                "version": ledger.head.id,
                "entries": rows,
                "more": number if number > 0 else None,
            }

    def _words(self, entry: Entry) -> str:
        ledger = self.begun()
        about = [ledger.history.about[edit].get("first", "") for edit in entry.add]
        text = " ".join([entry.op, entry.why, *entry.add, *entry.drop, *about])
        return canonical(text).casefold()

    def _entry(self, ledger: Ledger, entry: Entry) -> dict[str, Any]:
        """An entry and its edits, JSON values."""
        version = ledger.history.versions[entry.number]
        return {
            "number": entry.number,
            "op": entry.op,
            "when": entry.when,
            "who": entry.who,
            "why": entry.why,
            "version": entry.version,
            "now": version.id == ledger.head.id,
            "edits": version.size,
            "start": entry.start,
            "add": [self._about(ledger, edit) for edit in entry.add[:MOST_FACTS]],
            "drop": [self._about(ledger, edit) for edit in entry.drop[:MOST_FACTS]],
            "wrong": list(entry.more.get("wrong", ()))[:MOST_FACTS],
        }

    def _about(self, ledger: Ledger, edit: str) -> dict[str, Any]:
        about = ledger.history.about.get(edit, {})
        return {
            "id": edit,
            "facts": about.get("facts"),
            "method": about.get("method"),
            "first": about.get("first", ""),
            "in_force": edit in self.edits_in_force(),
            "gone": edit in ledger.history.pruned,
        }

    def edit(self, name: str) -> dict[str, Any]:
        """All about one edit but its tensors: JSON values.

        Raises:
            LedgerError: there is none.
        """
        from alphaedit.linalg.lowrank import frobenius

        with self._lock:
            ledger = self.begun()
            edit, _ = ledger.read(ledger.history.edit(name))
            force = edit.id in self.edits_in_force()
        told = edit.to_dict()
        for field in ("facts", "before", "after", "verdict"):
            told[field] = told[field][:MOST_FACTS]
        texts = [fact.text for fact in edit.facts[:MOST_FACTS]]
        matrices = {
            name: {"rank": change.rank, "shape": list(change.shape), "norm": frobenius(change)}
            for name, change in edit.patch.weights.items()
        }
        return {
            **told,
            "texts": texts,
            "count": len(edit.facts),
            "in_force": force,
            "matrices": matrices,
        }

    def diff(self, a: str, b: str = "head") -> dict[str, Any]:
        """Facts in which two versions differ: JSON values.

        Raises:
            LedgerError: there is no such version.
        """
        from alphaedit.ledger.facts import difference

        with self._lock:
            ledger = self.begun()
            versions = [ledger.version(name) for name in (a, b)]
            before, after = ([(e, self.facts(e)) for e in version.edits] for version in versions)
        changes = difference(before, after)
        return {
            "a": a,
            "b": b,
            "total": len(changes),
            "changes": [asdict(change) for change in changes[:MOST_CHANGES]],
        }
