"""Bring the edits of another ledger into force beside those of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.ledgers import ask_in_force, editor_at, entry_json, facts_of, model_of
from alphaedit.jobs.opening import Loading
from alphaedit.ledger.facts import Merge, merge
from alphaedit.ledger.journal import Entry
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked


@dataclass(frozen=True, kw_only=True)
class MergeRequest(Loading):
    """Two ledgers of one model, and who is right where both speak of a prompt.

    Attributes:
        ledger: the one that grows.
        other: the other one, or a packed file of it.
        take: "ours" or "theirs".
        resolve: the same for single edits, such as "4f2a=ours".
        why: message for the ledger's log.
        sign: private ssh key to sign the entry with.
        model: the unedited model; by default as the ledger names it.
        measure: ask for all facts that should hold afterwards.
    """

    ledger: Path
    other: Path
    take: str | None = None
    resolve: Sequence[str] = ()
    why: str = ""
    sign: Path | None = None
    model: str | None = None
    measure: bool = True


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """What was merged.

    Attributes:
        request: what was asked for.
        ledger: as it is now.
        merged: edits added, dropped, skipped, and what was left out.
        entry: of the log; None if there was nothing to do.
        asked: all facts in force, if they were asked.
    """

    request: MergeRequest
    ledger: Ledger
    merged: Merge
    entry: Entry | None
    asked: Sequence[Asked]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        merged = self.merged
        ledger: dict[str, Any] = {"ledger": str(self.request.ledger), "entry": None}
        if self.entry is not None:
            ledger = entry_json(self.ledger, self.entry, self.asked)
        return {
            **ledger,
            "added": list(merged.add),
            "dropped": list(merged.drop),
            "skipped": list(merged.skip),
            "left_out": [
                {"edit": h.edit, "prompt": h.fact.text, "target": h.fact.target}
                for h in merged.lost
            ],
        }


def run(
    request: MergeRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> MergeResult:
    """Merge, and ask for what should hold now. Edits are taken or left whole.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; an entry that was made stays.
        wrote: is told of the ledger once the entry is made.

    Raises:
        Cancelled: `cancel` was set.
        ConflictError: both speak of a prompt, and nobody said who is right.
        ConfigError: a choice names no edit, or the model to ask is not known.
        LedgerError: a ledger is broken, or of another model.
    """
    if cancel is not None:
        cancel.check()
    ledger = Ledger(request.ledger, signer=request.sign)
    if request.measure:
        model_of(ledger, request.model, measuring=True)
    merged, entry = _merge(request, ledger)
    asked: list[Asked] = []
    if entry is not None:
        wrote(request.ledger)
        if request.measure:
            report = watched(progress, cancel)
            model = request.model
            editor = editor_at(ledger, model, ledger.head, report, **request.loading())
            asked = ask_in_force(editor, ledger, ledger.head)
    return MergeResult(request=request, ledger=ledger, merged=merged, entry=entry, asked=asked)


def _merge(request: MergeRequest, ledger: Ledger) -> tuple[Merge, Entry | None]:
    """The plan, and its entry, if it changes anything."""
    from alphaedit.ledger.archive import opened

    before = ledger.head
    with opened(request.other) as source:
        source.check_base(ledger.base)
        theirs = facts_of(source, source.head)
        ours = facts_of(ledger, before)
        choices = _choices(request.resolve, ledger, source)
        merged = merge(ours, theirs, take=request.take, resolve=choices)
        if not merged.add and not merged.drop:
            return merged, None
        entry = ledger.commit(
            "merge",
            add=merged.add,
            drop=merged.drop,
            why=request.why,
            more={"from": str(request.other), "skipped": list(merged.skip)},
            expect=before.id,
            source=source,
        )
    return merged, entry


def _choices(pairs: Sequence[str], ours: Ledger, theirs: Ledger) -> dict[str, str]:
    choices: dict[str, str] = {}
    for pair in pairs:
        name, sign, side = (part.strip() for part in pair.partition("="))
        if not sign:
            raise ConfigError(f"--resolve {pair!r} is not EDIT=SIDE.", remedy="Write 4f2a=ours.")
        known = [
            edit for ledger in (ours, theirs) for edit in ledger.head.edits if edit.startswith(name)
        ]
        if len(set(known)) != 1:
            raise ConfigError(
                f"--resolve {pair}: {len(set(known)) or 'no'} edits in force begin with {name!r}.",
                remedy="Give an edit's id as the list of conflicts shows it.",
            )
        choices[known[0]] = side
    return choices
