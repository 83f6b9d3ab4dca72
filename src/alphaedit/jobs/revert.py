"""Take edits of a ledger out of force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import AlphaEditError, ConfigError, EditFileError
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.ledgers import ask_in_force, asked_json, editor_at
from alphaedit.jobs.opening import Loading
from alphaedit.ledger.history import Version
from alphaedit.ledger.journal import Entry
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked


@dataclass(frozen=True, kw_only=True)
class RevertRequest(Loading):
    """Edits to take out, and what is done with the model after it.

    Attributes:
        ledger: whose edits.
        edits: their ids, or beginnings of these.
        count: in their place, how many of the last edits.
        model: the unedited model; by default as the ledger names it.
        measure: ask for the facts of edits that were made after one that is taken out.
        checkpoint: also write the model with what remains, here.
        why: message for the ledger's log.
        sign: private ssh key to sign the entry with.
    """

    ledger: Path
    edits: Sequence[str] = ()
    count: int = 1
    model: str | None = None
    measure: bool = True
    checkpoint: Path | None = None
    why: str = ""
    sign: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RevertResult:
    """What was taken out.

    Attributes:
        request: what was asked for.
        ledger: as it is now.
        reverted: ids of the edits, the last first.
        left: ids of those in force.
        dependants: edits made after one that was taken out, with it in place.
        asked: their facts now, if they were asked.
        entry: of the log.
    """

    request: RevertRequest
    ledger: Ledger
    reverted: Sequence[str]
    left: Sequence[str]
    dependants: Sequence[str]
    asked: Sequence[Asked]
    entry: Entry

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        checkpoint = self.request.checkpoint
        return {
            "reverted": list(self.reverted),
            "left": list(self.left),
            "dependants": list(self.dependants),
            "asked": asked_json(self.asked),
            "entry": self.entry.number,
            "ledger": str(self.request.ledger),
            "checkpoint": str(checkpoint) if checkpoint else None,
        }


def run(
    request: RevertRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
    ledger: Ledger | None = None,
) -> RevertResult:
    """Take edits out of force.

    What remains is, bit for bit, as if only the other edits had been applied.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; nothing is taken out then.
        wrote: is told of each output that is complete.
        ledger: that of the request, if it was read already.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError: both edits and a count are given.
        EditFileError: there are not so many edits.
        LedgerError: there is no such ledger or edit, or it has changed meanwhile.
    """
    ledger = ledger or Ledger(request.ledger, signer=request.sign)
    before = ledger.head
    gone = _chosen(request, ledger, before)
    in_force = before.edits
    after = before.without(gone)
    first = min(in_force.index(edit) for edit in gone)
    dependants = [edit for edit in in_force[first:] if edit not in gone]
    report = watched(progress, cancel)
    asked = _loaded(request, ledger, after, dependants, report, wrote)
    if cancel is not None:
        cancel.check()
    reverted = [edit for edit in reversed(in_force) if edit in gone]
    wrong = [reply.fact.text for reply in asked if not reply.holds]
    try:
        entry = ledger.commit(
            "revert",
            drop=reverted,
            why=request.why,
            more={"dependants": dependants, "wrong": wrong},
            expect=before.id,
        )
    except AlphaEditError as error:
        if request.checkpoint is not None:
            error.add_note(f"The model without these edits was written to {request.checkpoint}.")
        raise
    return RevertResult(
        request=request,
        ledger=ledger,
        reverted=reverted,
        left=after.edits,
        dependants=dependants,
        asked=asked,
        entry=entry,
    )


def _chosen(request: RevertRequest, ledger: Ledger, before: Version) -> set[str]:
    """Ids of the edits that are meant."""
    in_force, count = before.edits, request.count
    if request.edits and count != 1:
        raise ConfigError("Both edits and -n are given.", remedy="Give one of the two.")
    if request.edits:
        return {ledger.history.edit(name) for name in request.edits}
    if count > len(in_force):
        raise EditFileError(
            f"{count} edits cannot be reverted: {request.ledger} has {len(in_force)} in force.",
            remedy=f"Revert between 1 and {len(in_force)}."
            if in_force
            else "There is nothing to do.",
        )
    return set(in_force[-count:])


def _loaded(
    request: RevertRequest,
    ledger: Ledger,
    after: Version,
    dependants: Sequence[str],
    progress: Progress,
    wrote: Wrote,
) -> list[Asked]:
    """Do what needs the model, if anything does: ask, and write it."""
    asks = bool(dependants) and request.measure
    if request.checkpoint is None and not asks:
        return []
    editor = editor_at(ledger, request.model, after, progress, **request.loading())
    asked = ask_in_force(editor, ledger, after, dependants) if asks else []
    if request.checkpoint is not None:
        editor.save_pretrained(request.checkpoint, only_ours=True)
        wrote(request.checkpoint)
    return asked
