"""`alphaedit init`, `apply`, `checkout`, `squash` and `merge`: they write into a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, ledgers, options
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from alphaedit.editor.measured import Asked
    from alphaedit.ledger.journal import Entry
    from alphaedit.ledger.ledger import Ledger
    from alphaedit.ledger.squash import Squashed

INIT_EXAMPLES = examples(
    "alphaedit init my-edits --model bundled",
    "alphaedit init ./my-model-edits --model ./my-model --sign ~/.ssh/id_ed25519",
)
APPLY_EXAMPLES = examples("alphaedit apply my-edits 4f2a", "alphaedit apply my-edits 4f2a 90bc")
CHECKOUT_EXAMPLES = examples(
    "alphaedit checkout my-edits @3",
    "alphaedit checkout my-edits head~2 --why 'before the release'",
    "alphaedit checkout my-edits base",
)
SQUASH_EXAMPLES = examples(
    "alphaedit squash my-edits", "alphaedit squash my-edits --last 10 --tolerance 0.001"
)
MERGE_EXAMPLES = examples(
    "alphaedit merge my-edits ../colleague/edits",
    "alphaedit merge my-edits theirs.tar.gz --take theirs",
    "alphaedit merge my-edits ../other --resolve 4f2a=ours --take theirs",
)


@options.grouped
def init(
    where: ledgers.Where,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="MODEL",
            autocompletion=complete.models,
            help="The unedited model.",
        ),
    ],
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    *,
    common: options.WithModel,
) -> dict[str, Any]:
    """Begin a ledger of edits of a model.

    `alphaedit edit -o` does this too.
    """
    from alphaedit.cli.outputs import NEW_LEDGER, Output, check_outputs
    from alphaedit.cli.prepare import open_editor
    from alphaedit.ledger.known import remember
    from alphaedit.ledger.ledger import Ledger

    check_outputs(model, [Output("", where, NEW_LEDGER)])
    session = common.session
    with session.progress() as progress:
        base = open_editor(model, progress, loading=common.loading).base
        ledger = Ledger.create(where, base, model=model, why=why, signer=sign)
        remember(ledger, model)
    session.say(f"Began {where} for {model}, fingerprint {base[:16]}.")
    return {"ledger": str(where), "model": model, "base": base, "version": ledger.head.id}


@options.grouped
def apply(
    where: ledgers.Where,
    edits: Annotated[list[str], typer.Argument(metavar="EDIT", help="Ids of edits.")],
    *,
    about: ledgers.Entry,
    common: options.WithModel,
) -> dict[str, Any]:
    """Bring edits that were reverted into force again, after the others."""
    from alphaedit.jobs.ledgers import ask_in_force, editor_at, model_of
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where, signer=about.sign)
    if not about.no_measure:
        model_of(ledger, about.model, measuring=True)
    names = [ledger.history.edit(name) for name in edits]
    for name in names:
        ledger.read(name)
    entry = ledger.commit("apply", add=names, why=about.why)
    session = common.session
    asked: list[Asked] = []
    if not about.no_measure:
        with session.progress() as progress:
            editor = editor_at(ledger, about.model, ledger.head, progress, **vars(common.loading))
            asked = ask_in_force(editor, ledger, ledger.head)
    return _done(session, ledger, entry, asked)


@options.grouped
def checkout(
    where: ledgers.Where,
    version: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            autocompletion=complete.versions,
            help="An entry of the log (@3, head~1, base), or an edit's id.",
        ),
    ],
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Go back (or forth) to what was in force after an entry of the log.

    Nothing is lost: this too is an entry, and head~1 is where you were.
    """
    from alphaedit.jobs.ledgers import checkout as checked_out
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where, signer=sign)
    entry = checked_out(ledger, version, why=why)
    return _done(common.session, ledger, entry, [])


@options.grouped
def squash(
    where: ledgers.Where,
    last: Annotated[
        int | None,
        typer.Option("--last", min=2, help="How many edits.", show_default="all in force"),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, max=1, help="Relative error of a matrix allowed."),
    ] = 1e-6,
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Make one edit of the last ones, of least rank within an error bound (by SVD).

    The edits themselves are kept until `alphaedit gc --prune`.
    """
    from alphaedit.ledger.ledger import Ledger
    from alphaedit.ledger.squash import squash as squashed

    ledger = Ledger(where, signer=sign)
    before = ledger.head
    ids = before.edits
    if last is not None and last > len(ids):
        raise ConfigError(
            f"--last {last}: {plural(len(ids), 'edit')} are in force.", remedy="Give fewer."
        )
    ids = ids[-last:] if last else ids
    new, learned, report = squashed([ledger.read(edit) for edit in ids], tolerance)
    rows = [{"matrix": r.name, "given": r.given, "rank": r.rank, "error": r.error} for r in report]
    entry = ledger.commit(
        "squash",
        add=[(new, learned)],
        drop=ids,
        why=why,
        more={"matrices": rows, "tolerance": tolerance},
        expect=before.id,
    )
    session = common.session
    session.say(_ranks(report, f"{plural(len(ids), 'edit')} as one"))
    return {**_done(session, ledger, entry, []), "edit": new.id, "matrices": rows}


def _ranks(report: Sequence[Squashed], title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("matrix")
    for name in ("rank", "of", "relative error"):
        table.add_column(name, justify="right")
    for r in report:
        table.add_row(r.name, str(r.rank), str(r.given), f"{r.error:.1e}")
    return table


@options.grouped
def merge(
    where: ledgers.Where,
    other: Annotated[
        Path,
        typer.Argument(
            metavar="LEDGER|ARCHIVE",
            help="Another ledger of the same model, or a file of `alphaedit pack`.",
        ),
    ],
    take: Annotated[
        str | None,
        typer.Option(
            "--take",
            metavar="SIDE",
            autocompletion=complete.sides,
            help="Who is right where both speak of a prompt: ours or theirs.",
        ),
    ] = None,
    resolve: Annotated[
        list[str] | None,
        typer.Option(
            "--resolve",
            metavar="EDIT=SIDE",
            help="The same for one edit, as in 4f2a=ours. Repeatable.",
            show_default=False,
        ),
    ] = None,
    *,
    about: ledgers.Entry,
    common: options.WithModel,
) -> dict[str, Any]:
    """Bring the edits of another ledger into force beside those of this one.

    Prompts of which both speak are listed and must be resolved. Edits are taken or left whole.
    """
    from alphaedit.jobs import merge as job

    request = job.MergeRequest(
        ledger=where,
        other=other,
        take=take,
        resolve=resolve or (),
        why=about.why,
        sign=about.sign,
        model=about.model,
        measure=not about.no_measure,
        **vars(common.loading),
    )
    session = common.session
    result = session.run(job.run, request)
    session.say(*(f"Both: {clash}" for clash in result.merged.clashes))
    for lost in result.merged.lost:
        fact = lost.fact
        line = f"Left out with edit {lost.edit}: {fact.text!r} → {fact.target!r}"
        session.say(line, style="yellow")
    if result.entry is None:
        session.say("There is nothing to merge.")
    else:
        _done(session, result.ledger, result.entry, result.asked)
    return result.to_json()


def _done(session: Session, ledger: Ledger, entry: Entry, asked: Sequence[Asked]) -> dict[str, Any]:
    """Say what an entry did, and give it as JSON values."""
    from alphaedit.jobs.ledgers import entry_json

    wrong = [reply for reply in asked if not reply.holds]
    in_force = plural(len(ledger.head.edits), "edit")
    session.say(f"@{entry.number} {entry.op}: {in_force} in force.")
    if asked:
        session.say(f"{len(asked) - len(wrong)} of {len(asked)} facts hold.")
    if wrong:
        session.say(ledgers.asked_table(wrong, "Facts that do not hold now"))
    return entry_json(ledger, entry, asked)
