"""`alphaedit init`, `apply`, `checkout`, `squash` and `merge`: they write into a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, ledgers, options
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked
    from alphaedit.ledger.journal import Entry
    from alphaedit.ledger.ledger import Ledger

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


@options.loads_model
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
    json: options.Json = False,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Begin a ledger of edits of a model.

    `alphaedit edit -o` does this too.
    """
    from alphaedit.cli.outputs import NEW_LEDGER, Output, check_outputs
    from alphaedit.cli.prepare import open_editor
    from alphaedit.ledger.known import remember
    from alphaedit.ledger.ledger import Ledger

    check_outputs(model, [Output("", where, NEW_LEDGER)])
    out = Session(json=json, quiet=quiet)
    with out.progress() as progress:
        base = open_editor(model, progress, loading=loading).base
        ledger = Ledger.create(where, base, model=model, why=why, signer=sign)
        remember(ledger, model)
    if not json:
        output_console().print(
            f"Began {where} for {model}, fingerprint {base[:16]}.", highlight=False, soft_wrap=True
        )
    return {"ledger": str(where), "model": model, "base": base, "version": ledger.head.id}


@options.loads_model
def apply(
    where: ledgers.Where,
    edits: Annotated[list[str], typer.Argument(metavar="EDIT", help="Ids of edits.")],
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    model: ledgers.ModelOption = None,
    no_measure: ledgers.NoMeasure = False,
    json: options.Json = False,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Bring edits that were reverted into force again, after the others."""
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where, signer=sign)
    if not no_measure:
        ledgers.model_of(ledger, model, measuring=True)
    names = [ledger.history.edit(name) for name in edits]
    for name in names:
        ledger.read(name)
    entry = ledger.commit("apply", add=names, why=why)
    out = Session(json=json, quiet=quiet)
    asked = [] if no_measure else _ask(ledger, model, out, loading)
    return _done(ledger, entry, asked, json=json)


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
    json: options.Json = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Go back (or forth) to what was in force after an entry of the log.

    Nothing is lost: this too is an entry, and head~1 is where you were.
    """
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where, signer=sign)
    number = ledger.history.entry(version)
    for edit in ledger.history.versions[number].edits:
        ledger.read(edit)
    entry = ledger.commit("checkout", start=number, why=why, more={"to": number})
    return _done(ledger, entry, [], json=json)


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
    json: options.Json = False,
    debug: options.Debug = False,
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
    one, learned, report = squashed([ledger.read(edit) for edit in ids], tolerance)
    rows = [{"matrix": r.name, "given": r.given, "rank": r.rank, "error": r.error} for r in report]
    entry = ledger.commit(
        "squash",
        add=[(one, learned)],
        drop=ids,
        why=why,
        more={"matrices": rows, "tolerance": tolerance},
        expect=before.id,
    )
    if not json:
        from rich.table import Table

        table = Table(title=f"{plural(len(ids), 'edit')} as one", title_justify="left")
        table.add_column("matrix")
        for name in ("rank", "of", "relative error"):
            table.add_column(name, justify="right")
        for r in report:
            table.add_row(r.name, str(r.rank), str(r.given), f"{r.error:.1e}")
        output_console().print(table)
    return {**_done(ledger, entry, [], json=json), "edit": one.id, "matrices": rows}


@options.loads_model
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
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    model: ledgers.ModelOption = None,
    no_measure: ledgers.NoMeasure = False,
    json: options.Json = False,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Bring the edits of another ledger into force beside those of this one.

    Prompts of which both speak are listed and must be resolved. Edits are taken or left whole.
    """
    from alphaedit.ledger.archive import opened
    from alphaedit.ledger.facts import merge as plan
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where, signer=sign)
    before = ledger.head
    if not no_measure:
        ledgers.model_of(ledger, model, measuring=True)
    with opened(other) as source:
        source.check_base(ledger.base)
        theirs = ledgers.facts_of(source, source.head)
        ours = ledgers.facts_of(ledger, before)
        choices = _choices(resolve, ledger, source)
        merged = plan(ours, theirs, take=take, resolve=choices)
        if not merged.add and not merged.drop:
            entry = None
        else:
            entry = ledger.commit(
                "merge",
                add=merged.add,
                drop=merged.drop,
                why=why,
                more={"from": str(other), "skipped": list(merged.skip)},
                expect=before.id,
                source=source,
            )
    out = Session(json=json, quiet=quiet)
    asked = [] if no_measure or entry is None else _ask(ledger, model, out, loading)
    console = output_console()
    if not json:
        for clash in merged.clashes:
            console.print(f"Both: {clash}", markup=False, highlight=False, soft_wrap=True)
        for held in merged.lost:
            console.print(
                f"Left out with edit {held.edit}: {held.fact.text!r} → {held.fact.target!r}",
                markup=False,
                highlight=False,
                soft_wrap=True,
                style="yellow",
            )
    result = {
        "added": list(merged.add),
        "dropped": list(merged.drop),
        "skipped": list(merged.skip),
        "left_out": [
            {"edit": h.edit, "prompt": h.fact.text, "target": h.fact.target} for h in merged.lost
        ],
    }
    if entry is None:
        if not json:
            console.print("There is nothing to merge.")
        return {"ledger": str(where), "entry": None, **result}
    return {**_done(ledger, entry, asked, json=json), **result}


def _choices(pairs: list[str] | None, ours: Ledger, theirs: Ledger) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or ():
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
        found[known[0]] = side
    return found


def _ask(ledger: Ledger, model: str | None, out: Session, loading: options.Loading) -> list[Asked]:
    """Ask the model for all facts that should hold now."""
    with out.progress() as progress:
        editor = ledgers.editor_at(ledger, model, ledger.head, progress, loading=loading)
        return ledgers.ask_in_force(editor, ledger, ledger.head)


def _done(ledger: Ledger, entry: Entry, asked: list[Asked], *, json: bool) -> dict[str, Any]:
    """Print and return what an entry did."""
    wrong = [one for one in asked if not one.holds]
    if not json:
        console = output_console()
        console.print(
            f"@{entry.number} {entry.op}: {plural(len(ledger.head.edits), 'edit')} in force.",
            highlight=False,
        )
        if asked:
            console.print(f"{len(asked) - len(wrong)} of {len(asked)} facts hold.")
        if wrong:
            ledgers.asked_table(wrong, "Facts that do not hold now")
    return {
        "ledger": str(ledger.path),
        "entry": entry.number,
        "version": entry.version,
        "edits": ledger.head.edits,
        "asked": ledgers.asked_json(asked),
        "wrong": len(wrong),
    }
