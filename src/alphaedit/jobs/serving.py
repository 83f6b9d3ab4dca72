"""The models that a service has by name: one base model, and the edits of ledgers in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from alphaedit.core.errors import AlphaEditError, unknown_name
from alphaedit.ledger.history import version_of
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.editor.session import Editor
    from alphaedit.methods.state import Learned


@dataclass
class Known:
    """What is known of a served model.

    Attributes:
        ledger: where its edits are; None for the base model.
        version: of its edits, as a ledger names versions.
        edits: they, with what they taught.
        problem: why a later version of the ledger is not served, if so.
    """

    ledger: Ledger | None
    version: str
    edits: list[tuple[Edit, Learned]] = field(default_factory=list)
    problem: str | None = None


class ServedModels:
    """Brings the edits of one ledger after the other into force, in one thread.

    A ledger is followed: what other processes record there is in force from the next batch on. A
    version that cannot be read or brought into force leaves the one before it in its place.

    Attributes:
        names: of the models, the base model's first.
        switches: how often other edits were brought into force.
        switch_seconds: how long that took in all.
    """

    def __init__(self, editor: Editor, base: str, ledgers: Mapping[str, Path]) -> None:
        """Read all ledgers, and bring each into force once.

        Args:
            editor: the model, without edits.
            base: name of the unedited model.
            ledgers: directories by the names that their models are to have.

        Raises:
            FingerprintError: a ledger is of another model.
            LedgerError: it is broken.
        """
        self._editor = editor
        self._lock = threading.Lock()
        self._known = {base: Known(None, version_of(editor.base, []).id)}
        self.switches, self.switch_seconds = 0, 0.0
        for name, path in ledgers.items():
            ledger = Ledger(path)
            ledger.check_base(editor.base)
            self._known[name] = Known(ledger, ledger.head.id, ledger.edits())
        for name in self._known:
            editor.set_edits(self._known[name].edits)
        editor.set_edits([])
        self._now = self._known[base].version

    @property
    def names(self) -> list[str]:
        """Of the models."""
        return list(self._known)

    def in_force(self, name: str) -> bool:
        """Whether a model's edits, as they were last read, are in force now."""
        known = self._known.get(name)
        return known is not None and known.version == self._now

    def check(self, name: str) -> None:
        """Refuse a name that no model has.

        Raises:
            UnknownNameError: naming those there are.
        """
        if name not in self._known:
            raise unknown_name("model", name, self.names)

    def follow(self, name: str, path: Path) -> None:
        """From now on, a model has the edits of a ledger that has begun meanwhile.

        Raises:
            FingerprintError: the ledger is of another model.
        """
        known = self._known.get(name)
        if known is not None and known.ledger is not None:
            return
        ledger = Ledger(path)
        ledger.check_base(self._editor.base)
        self._known[name] = Known(ledger, version_of(self._editor.base, []).id)

    def give(self, name: str, edits: Sequence[tuple[Edit, Learned]]) -> None:
        """A model with these edits, which are in no ledger."""
        version = version_of(self._editor.base, (edit.id for edit, _ in edits)).id
        self._known[name] = Known(None, version, list(edits))

    def take(self, name: str) -> None:
        """There is no such model any more."""
        self._known.pop(name, None)

    def edits(self, name: str) -> list[tuple[Edit, Learned]]:
        """The edits of a model, with what they taught, as they were last brought into force."""
        return list(self._known[name].edits)

    @contextmanager
    def lent(self, edits: Sequence[tuple[Edit, Learned]]) -> Iterator[None]:
        """Bring other edits into force for the length of a block."""
        before = self._editor.pairs()
        try:
            self._editor.set_edits(edits)
            yield
        finally:
            self._editor.set_edits(before)

    def bring(self, name: str) -> str:
        """Bring a model's edits into force; their version.

        Raises:
            UnknownNameError: there is no such model.
        """
        self.check(name)
        known = self._known[name]
        began = time.perf_counter()
        self._follow(known)
        if known.version != self._now:
            self._editor.set_edits(known.edits)
            self._now = known.version
            with self._lock:
                self.switches += 1
                self.switch_seconds += time.perf_counter() - began
        return known.version

    def _follow(self, known: Known) -> None:
        """Take over what was recorded meanwhile, if it can be in force."""
        if known.ledger is None:
            return
        try:
            head = known.ledger.head
            if head.id == known.version:
                known.problem = None
                return
            there = {edit.id: (edit, learned) for edit, learned in known.edits}
            edits = [there.get(edit) or known.ledger.read(edit) for edit in head.edits]
            self._editor.set_edits(edits)
        except (AlphaEditError, OSError) as error:
            known.problem = str(error)
            return
        known.version, known.edits, known.problem = head.id, edits, None
        self._now = head.id
        with self._lock:
            self.switches += 1

    def status(self) -> dict[str, dict[str, object]]:
        """Of each model the version of its edits, how many they are, and what is the matter."""
        return {
            name: {
                "version": known.version,
                "edits": len(known.edits),
                "ledger": str(known.ledger.path) if known.ledger else None,
                "problem": known.problem,
            }
            for name, known in list(self._known.items())
        }
