"""What the jobs about ledgers share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress
from alphaedit.jobs.opening import Opening
from alphaedit.ledger.facts import in_force
from alphaedit.ledger.history import Version
from alphaedit.ledger.journal import Entry
from alphaedit.ledger.known import known_model, remember
from alphaedit.ledger.ledger import Ledger
from alphaedit.world.asset import NAMES

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked
    from alphaedit.editor.session import Editor


def model_of(ledger: Ledger, model: str | None, *, measuring: bool = False) -> str:
    """The model that commands load: the one given, or the ledger's, if the user gave it that.

    Args:
        ledger: of whose model.
        model: named on the command line.
        measuring: the model is only loaded to ask it for facts.

    Raises:
        ConfigError: no model is named, or only by a ledger that somebody else has begun.
    """
    chosen = model or known_model(ledger)
    if chosen:
        return chosen
    if not ledger.model:
        raise ConfigError(f"{ledger.path} does not name its model.", remedy="Give --model.")
    if ledger.model in NAMES:
        return ledger.model
    without = ", or --no-measure to do without it" if measuring else ""
    raise ConfigError(
        f"{ledger.path} asks for the model {ledger.model!r}. It was not begun by you on this "
        "machine, so that this was not loaded.",
        remedy=f"If you trust that model give it by --model, or a copy of your own{without}.",
    )


def editor_at(
    ledger: Ledger, model: str | None, version: Version, progress: Progress, **opening: Any
) -> Editor:
    """The model with the edits of a version; `opening` as for `Opening`."""
    editor = Opening(model=model_of(ledger, model), **opening).open(progress)
    ledger.check_base(editor.base)
    if model:
        remember(ledger, model)
    editor.set_edits(ledger.edits(version))
    return editor


def ask_in_force(
    editor: Editor, ledger: Ledger, version: Version, only: Collection[str] | None = None
) -> list[Asked]:
    """Ask for the facts in force in a version, or for those that some of its edits brought."""
    from alphaedit.editor.measured import ask_facts

    statements = in_force(facts_of(ledger, version)).values()
    return ask_facts(
        editor.handle,
        [statement.fact for statement in statements if only is None or statement.edit in only],
    )


def asked_json(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Facts and answers as JSON values."""
    return [
        {
            "prompt": reply.fact.text,
            "target": reply.fact.target,
            "answer": reply.answer.text,
            "p_target": reply.answer.p_target,
            "holds": reply.holds,
        }
        for reply in asked
    ]


def entry_json(ledger: Ledger, entry: Entry, asked: Sequence[Asked]) -> dict[str, Any]:
    """What an entry did, and the facts that were asked after it, as JSON values."""
    return {
        "ledger": str(ledger.path),
        "entry": entry.number,
        "version": entry.version,
        "edits": ledger.head.edits,
        "asked": asked_json(asked),
        "wrong": sum(not reply.holds for reply in asked),
    }


def facts_of(ledger: Ledger, version: Version) -> list[tuple[str, Any]]:
    """Ids and facts of the edits of a version."""
    return [(edit, ledger.store.facts(edit, ledger.files_of(edit))) for edit in version.edits]


def checkout(ledger: Ledger, version: str, *, why: str = "") -> Entry:
    """Bring what was in force after an entry into force again, as an entry of its own.

    Raises:
        LedgerError: there is no such entry, or an edit of it is no longer there.
    """
    number = ledger.history.entry(version)
    in_force = set(ledger.head.edits)
    for edit in ledger.history.versions[number].edits:
        if edit not in in_force:  # those in force were read when they came there
            ledger.read(edit)
    return ledger.commit("checkout", start=number, why=why, more={"to": number})
