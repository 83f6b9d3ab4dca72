"""Take single facts out of the edits of a ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.ledger.journal import Entry
from alphaedit.ledger.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class ForgetRequest:
    """Facts to take out.

    Attributes:
        ledger: of whose edits.
        prompts: of facts, with the subject in them.
        subjects: all facts about these.
        why: message for the ledger's log.
        sign: private ssh key to sign the entry with.

    Raises:
        ConfigError: no fact is named.
    """

    ledger: Path
    prompts: Sequence[str] = ()
    subjects: Sequence[str] = ()
    why: str = ""
    sign: Path | None = None

    def __post_init__(self) -> None:
        """Refuse a request that names no fact."""
        if not self.prompts and not self.subjects:
            raise ConfigError("No facts are named.", remedy="Give prompts of facts, or subjects.")


@dataclass(frozen=True, kw_only=True)
class ForgetResult:
    """What was taken out.

    Attributes:
        request: what was asked for.
        ledger: as it is now.
        forgotten: the facts.
        replaced: what stands in the place of each edit that held one, by id; None if nothing does.
        left: ids of the edits in force.
        entry: of the log.
    """

    request: ForgetRequest
    ledger: Ledger
    forgotten: Sequence[Fact]
    replaced: Mapping[str, str | None]
    left: Sequence[str]
    entry: Entry

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "forgotten": [
                {"prompt": fact.text, "subject": fact.subject, "target": fact.target}
                for fact in self.forgotten
            ],
            "replaced": dict(self.replaced),
            "left": list(self.left),
            "entry": self.entry.number,
            "ledger": str(self.request.ledger),
        }


def run(
    request: ForgetRequest, *, progress: Progress = silent, cancel: Cancel | None = None
) -> ForgetResult:
    """Take single facts out of the edits in force, all or none.

    That can be done where facts own what was changed (hooks, memories); what is left is, bit for
    bit, as if they had never been edited. The model is not needed for it.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; nothing is taken out then.

    Raises:
        Cancelled: `cancel` was set.
        EditFileError: no edit in force holds such a fact, or one does that changes weights, which
            it does for all its facts together.
        LedgerError: there is no such ledger, or it has changed meanwhile.
    """
    from alphaedit.editor.parts import forgotten

    report = watched(progress, cancel)
    ledger = Ledger(request.ledger, signer=request.sign)
    before = ledger.head
    edits = []
    for number, edit in enumerate(before.edits):
        report("edits", number, before.size)
        edits.append(ledger.read(edit))
    report("edits", before.size, before.size)
    outcome = forgotten(edits, request.prompts, request.subjects)
    remaining = [edit.id for edit, _ in outcome.left]
    same = 0
    while same < len(remaining) and remaining[same] == before.edits[same]:
        same += 1
    entry = ledger.commit(
        "forget",
        add=outcome.left[same:],
        drop=before.edits[same:],
        why=request.why,
        more={"forgotten": [fact.text for fact in outcome.facts]},
        expect=before.id,
    )
    return ForgetResult(
        request=request,
        ledger=ledger,
        forgotten=outcome.facts,
        replaced={edit.id: rest.id if rest else None for edit, rest in outcome.changed},
        left=remaining,
        entry=entry,
    )
