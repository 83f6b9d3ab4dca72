"""The edits of a model: which are in force, undoing any of them, and their ledger."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alphaedit.core.arguments import as_path, as_text, each_of, shown
from alphaedit.core.edit import Edit
from alphaedit.core.errors import AlphaEditWarning, ConfigError, EditFileError, FingerprintError
from alphaedit.core.fact import Fact, canonical
from alphaedit.editor.applied import Applied
from alphaedit.editor.checkpoint import refuse_source
from alphaedit.editor.parts import forgotten
from alphaedit.ledger.facts import Held, in_force
from alphaedit.ledger.history import version_of
from alphaedit.ledger.known import remember
from alphaedit.ledger.ledger import Ledger
from alphaedit.methods.registry import installer
from alphaedit.methods.state import Learned, SequentialState
from alphaedit.model.handle import ModelHandle

LOG = logging.getLogger(__name__)


class Versioned:
    """A model with a list of edits in force, which may be recorded in a ledger.

    Attributes:
        handle: the model.
        base: fingerprint of the unedited model.
        edits: edits in force, oldest first.
        state: what the sequential run has learned from them (contexts, past keys).
        ledger: where each change is recorded, if one is tracked.
    """

    def __init__(self, handle: ModelHandle) -> None:
        self.handle = handle
        self.base = handle.fingerprint()
        self.edits: list[Edit] = []
        self.state = SequentialState()
        self.ledger: Ledger | None = None
        self._learned: list[Learned] = []
        self._seen: dict[str, Learned] = {}
        self._in_force: dict[str, Held] = {}
        self._applied = Applied(handle)

    @property
    def _last_id(self) -> str | None:
        """Id of the newest edit in force."""
        return self.edits[-1].id if self.edits else None

    def pairs(self) -> list[tuple[Edit, Learned]]:
        """The edits in force, each with what it taught, as `set_edits` takes them."""
        return list(zip(self.edits, self._learned, strict=True))

    def apply(self, edit: Edit) -> None:
        """Apply an edit that was made before, onto the state it was made on.

        What a sequential run learned from it (its keys, above all) comes back with it; where that
        is not known, as with an edit saved by an older version, a warning says so.

        Raises:
            EditFileError: the edit was made on another model or after another edit.
            ConfigError: it is no Edit.
        """
        if not isinstance(edit, Edit):
            raise ConfigError(
                f"{shown(edit)} is no Edit.",
                remedy="Give what `edit` returned or `Edit.load` read.",
            )
        check_edit(edit, self.base)
        parent = self._last_id
        if edit.parent != parent:
            raise EditFileError(
                f"Edit {edit.id} was made after {edit.parent or 'the unedited model'}, but the "
                f"last edit here is {parent or 'none'}.",
                remedy="Apply its parents first, in order.",
            )
        learned = edit.learned or self._seen.get(edit.id)
        if learned is None:
            warnings.warn(
                AlphaEditWarning(
                    f"It is not known what edit {edit.id} taught a sequential run: later batches "
                    "may undo some of it. Load it from a ledger, or from a folder that this "
                    "version of Edit.save wrote."
                ),
                stacklevel=2,
            )
        self._go([*self.edits, edit], [*self._learned, learned or Learned()], op="apply")

    def revert(self, edit: Edit | str | None = None, *, why: str = "") -> Edit:
        """Take an edit out, and return it: the last one, or the one given (itself or its id).

        What remains has the weights, bit for bit, of a model to which only the other edits were
        applied. Edits made after it were solved with it in place: ask for their facts again.

        Raises:
            EditFileError: there is no such edit.
        """
        if not self.edits:
            raise EditFileError("There is no edit to revert.", remedy="Edit first.")
        return self.forget([self.edits[-1].id if edit is None else edit], why=why)[0]

    def forget(self, ids: Iterable[Edit | str], *, why: str = "") -> list[Edit]:
        """Take edits out, all or none, and return them, the last one first.

        Args:
            ids: edits, their ids, or the first 4 or more characters of them.
            why: message for the ledger's log, if one is tracked.

        Raises:
            EditFileError: there is no such edit.
        """
        if isinstance(ids, (Edit, str)):
            ids = [ids]
        elif not isinstance(ids, Iterable):
            raise ConfigError(f"The edits are {shown(ids)}.", remedy="Give Edits, or their ids.")
        as_text("why", why)
        gone = {self._index(edit.id if isinstance(edit, Edit) else edit) for edit in ids}
        remaining = [i for i in range(len(self.edits)) if i not in gone]
        removed = [self.edits[i] for i in sorted(gone, reverse=True)]
        self._go(
            [self.edits[i] for i in remaining],
            [self._learned[i] for i in remaining],
            op="revert",
            why=why,
        )
        return removed

    def forget_facts(
        self, facts: Fact | str | Iterable[Fact | str], *, why: str = ""
    ) -> list[Edit]:
        """Take single facts out of the edits in force, all or none; what is left of others stays.

        That can be done where rows are owned by facts (hooks, memories), and to the bit: the rest
        is as if these facts had never been edited. A change of weights is one for all its facts.

        Args:
            facts: facts, or their prompts with the subject in them.
            why: message for the ledger's log, if one is tracked.

        Returns:
            The edits that stand in the place of those the facts were in.

        Raises:
            EditFileError: a fact is in no edit, or in one that changes weights for others too.
        """
        as_text("why", why)
        given = [facts] if isinstance(facts, (Fact, str)) else each_of("facts", facts, object)
        texts = [fact.text if isinstance(fact, Fact) else as_text("A fact", fact) for fact in given]
        outcome = forgotten(self.pairs(), texts)
        left, learned = [e for e, _ in outcome.left], [known for _, known in outcome.left]
        self._go(left, learned, op="forget", why=why)
        return [rest for _, rest in outcome.changed if rest is not None]

    def _index(self, name: str) -> int:
        if not isinstance(name, str):
            raise ConfigError(
                f"{shown(name)} names no edit.",
                remedy="Give an Edit, or its id.",
            )
        matches = [i for i, edit in enumerate(self.edits) if edit.id.startswith(name)]
        if len(matches) == 1 and len(name) >= 4:
            return matches[0]
        raise EditFileError(
            f"{len(matches) or 'No'} edits have an id that begins with {name!r}.",
            remedy=f"They are {', '.join(edit.id for edit in self.edits[-5:])}."
            if self.edits
            else "Edit first.",
        )

    def _go(
        self, edits: Sequence[Edit], learned: Sequence[Learned], *, op: str, why: str = ""
    ) -> None:
        """Bring these edits into force and no others."""
        same = 0
        while same < min(len(edits), len(self.edits)) and edits[same].id == self.edits[same].id:
            same += 1
        for edit in edits[same:]:
            check_kind(edit)
        old = [edit.patch for edit in self.edits]
        new = [edit.patch for edit in edits]
        with self._applied.replacing(old, new, same) as keep:
            if self.ledger is not None:
                drop = [edit.id for edit in self.edits[same:]]
                add = list(zip(edits, learned, strict=True))[same:]
                self._record(op, why, add=add, drop=drop)
            keep()
        self.edits, self._learned = list(edits), list(learned)
        self._seen.update({e.id: known for e, known in zip(edits, learned, strict=True)})
        self._in_force = in_force((edit.id, edit.facts) for edit in edits)
        self.state = self._state_for(())
        LOG.info("%s: %d edits in force", op, len(self.edits))

    def _made(self, edit: Edit, learned: Learned, state: SequentialState) -> None:
        """Take note of an edit that is in the weights already."""
        self.edits.append(edit)
        self._learned.append(learned)
        self._seen[edit.id] = learned
        self._in_force.update(in_force([(edit.id, edit.facts)]))
        self.state = state

    def _state_for(self, facts: Sequence[Fact]) -> SequentialState:
        """What the edits in force have taught, without the keys of facts that were edited anew.

        Args:
            facts: facts that are about to be edited: their old keys do not count either.
        """
        later = {canonical(fact.text) for fact in facts}
        gone: dict[int, set[int]] = {}
        for number in range(len(self.edits) - 1, -1, -1):
            texts = [canonical(fact.text) for fact in self.edits[number].facts]
            shapes = {keys.shape[1] for keys in self._learned[number].keys.values()}
            if shapes == {len(texts)}:
                gone[number] = {i for i, text in enumerate(texts) if text in later}
            later.update(texts)
        return SequentialState.of(self._learned, gone)

    def _record(self, op: str, why: str, **change: Any) -> None:
        if self.ledger is not None:
            before = version_of(self.base, [edit.id for edit in self.edits]).id
            self.ledger.commit(op, why=why, expect=before, **change)

    def save(self, folder: str | Path, *, model: str = "", why: str = "") -> Path:
        """Record the edits in the ledger in `folder`, which is begun if there is none.

        Args:
            folder: the ledger, or where it is to be.
            model: where the unedited model is, for a ledger that is begun.
            why: message for its log.

        Raises:
            ConfigError: it would begin where the unedited model was loaded from.
            FingerprintError: the ledger is of another model.
            ResourceError: it cannot be written; it is as before.
        """
        as_text("why", why)
        folder = as_path("The ledger", folder)
        self._check_place(folder)
        ledger = open_ledger(folder, self.base, model=as_text("model", model))
        ledger.sync(self.pairs(), why=why)
        return ledger.path

    def load(self, folder: str | Path | Ledger, version: str = "head") -> None:
        """Apply the edits in force in a ledger and take over their sequential state.

        Args:
            folder: the ledger.
            version: an earlier one, as `alphaedit log` names it: "@3", "head~1", an edit's id.

        Raises:
            EditFileError: the ledger is broken or belongs to another model; nothing is changed.
        """
        if self.edits:
            raise EditFileError(
                "This editor has edits already.", remedy="Load into a fresh editor, or revert."
            )
        ledger = folder if isinstance(folder, Ledger) else Ledger(as_path("The ledger", folder))
        ledger.check_base(self.base)
        self.set_edits(ledger.edits(ledger.version(as_text("version", version))))

    def track(self, folder: str | Path, *, model: str = "", sign: str | Path | None = None) -> None:
        """Record each change in the ledger in `folder` from now on, as soon as it is made.

        What is in force there is applied if this editor has no edits yet; if it has, they are
        brought into force there.

        Args:
            folder: a ledger, or where one is to begin.
            model: where the unedited model is, for a ledger that is begun.
            sign: private ssh key to sign entries with.

        Raises:
            ConfigError: it would begin where the unedited model was loaded from.
            FingerprintError: the ledger is of another model.
            LedgerError: the ledger is broken.
        """
        folder = as_path("The ledger", folder)
        self._check_place(folder)
        key = None if sign is None else as_path("sign", sign)
        ledger = open_ledger(folder, self.base, model=as_text("model", model), signer=key)
        if self.edits:
            ledger.sync(self.pairs())
        else:
            self.set_edits(ledger.edits())
        self.ledger = ledger

    def _check_place(self, folder: str | Path) -> None:
        if not Ledger.at(folder):
            refuse_source(self.handle, as_path("folder", folder))

    def set_edits(self, kept: Sequence[tuple[Edit, Learned]]) -> None:
        """Bring these edits into force and no others, in this order; nothing is recorded.

        Raises:
            EditFileError: one is of another model, or does not fit; nothing is changed.
        """
        kept = each_of("Edits with what they taught", kept, tuple)
        for pair in kept:
            fits = len(pair) == 2 and isinstance(pair[0], Edit) and isinstance(pair[1], Learned)
            if not fits:
                raise ConfigError(
                    f"{shown(pair)} is no edit.", remedy="Give what Ledger.edits does."
                )
            check_edit(pair[0], self.base)
        ledger, self.ledger = self.ledger, None
        try:
            self._go([edit for edit, _ in kept], [learned for _, learned in kept], op="checkout")
        finally:
            self.ledger = ledger


def check_kind(edit: Edit) -> None:
    """Refuse an edit that would be in force and do nothing.

    Raises:
        EditFileError: it changes nothing, or something that nobody here can bring into force.
    """
    if edit.patch.empty:
        raise EditFileError(
            f"Method {edit.method} gave nothing. Nothing was changed or recorded.",
            remedy="Let the method return a change.",
        )
    for change in edit.patch.changes:
        if installer(change.name) is None:
            raise EditFileError(
                f"Edit {edit.id} by {edit.method} has changes called {change.name!r}, which no "
                "method here can bring into force. Nothing was changed or recorded.",
                remedy="Install the package that the method comes from.",
            )


def check_edit(edit: Edit, base: str) -> None:
    """Refuse an edit of another model, or of a kind that cannot be applied.

    Raises:
        FingerprintError: fingerprints differ.
        EditFileError: see `check_kind`.
    """
    check_kind(edit)
    if edit.base != base:
        raise FingerprintError(
            f"Edit {edit.id} was made on a model with fingerprint {edit.base[:12]}, this model has "
            f"{base[:12]}.",
            remedy="Load the unedited model that the edit was made on.",
        )


def open_ledger(
    folder: str | Path, base: str, *, model: str = "", signer: str | Path | None = None
) -> Ledger:
    """The ledger in `folder`, begun if there is none.

    Raises:
        FingerprintError: it is of another model.
    """
    folder = as_path("The ledger", folder)
    if not Ledger.at(folder):
        ledger = Ledger.create(folder, base, model=model, signer=signer)
        remember(ledger, model)
        return ledger
    ledger = Ledger(folder, signer=signer)
    ledger.check_base(base)
    return ledger
