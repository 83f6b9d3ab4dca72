"""`alphaedit log`, `show`, `status` and `diff`: what a ledger holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, ledgers, options
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, shorten

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.ledger.journal import Entry

LOG_EXAMPLES = examples(
    "alphaedit log my-edits", "alphaedit log my-edits -n 5", "alphaedit log my-edits --json"
)
SHOW_EXAMPLES = examples("alphaedit show my-edits last", "alphaedit show my-edits 4f2a --json")
STATUS_EXAMPLES = examples("alphaedit status my-edits")
DIFF_EXAMPLES = examples(
    "alphaedit diff my-edits head~1 head",
    "alphaedit diff my-edits base head --ask",
    "alphaedit diff my-edits @3 @7 --ask --json",
)
ENTRY = "an entry of the log (@3, head~1, base), or an edit's id."


@options.grouped
def log(
    where: ledgers.Where,
    count: Annotated[
        int | None, typer.Option("-n", "--count", min=1, help="Only so many of the last entries.")
    ] = None,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """List what was done, the last first: who, when, why."""
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    history = ledger.history
    entries = history.entries[::-1][:count]
    rows = [
        {
            **{k: v for k, v in entry.to_json().items() if k not in ("files", "about")},
            "edits_in_force": history.versions[entry.number].size,
            "facts": sum(history.about[e].get("facts", 0) for e in entry.add),
        }
        for entry in entries
    ]
    for row, entry in zip(rows, entries, strict=True):
        _show_entry(common.session, entry, row, history.about)
    return {"ledger": str(where), "model": ledger.model, "base": ledger.base, "entries": rows}


def _show_entry(
    session: Session, entry: Entry, row: Mapping[str, Any], about: Mapping[str, Mapping[str, Any]]
) -> None:
    session.say(f"@{entry.number} {entry.op}", style="bold yellow", end="  ")
    session.say(f"{entry.when}  {entry.who}", style="dim")
    if entry.why:
        session.say(f"    {entry.why}")
    for edit in entry.add:
        known = about[edit]
        facts = known["facts"]
        more = f" and {facts - 1} more" if facts > 1 else ""
        first = shorten(str(known["first"]), 60)
        session.say(f"    + {edit}  {known['method']}: {first}{more}", style="green")
    for edit in entry.drop:
        session.say(f"    - {edit}  {shorten(str(about[edit]['first']), 60)}", style="red")
    session.say(f"    {plural(row['edits_in_force'], 'edit')} in force", style="dim")


@options.grouped
def show(
    where: ledgers.Where,
    edit: Annotated[
        str, typer.Argument(metavar="EDIT", help="An edit's id (or its beginning), or 'last'.")
    ] = ("last"),
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Show one edit: facts, answers before and after, null-space report, norms, seconds."""
    from alphaedit.ledger.ledger import Ledger
    from alphaedit.linalg.lowrank import frobenius

    ledger = Ledger(where)
    loaded, _ = ledger.read(ledger.history.edit(edit))
    norms: dict[str, Any] = {
        name: {"rank": change.rank, "shape": list(change.shape), "norm": frobenius(change)}
        for name, change in loaded.patch.weights.items()
    }
    force = loaded.id in ledger.head.edits
    if not common.json:
        _show_edit(common.session, loaded, norms, force=force)
    return {**loaded.to_dict(), "in_force": force, "matrices": norms}


def _show_edit(
    session: Session, edit: Edit, norms: Mapping[str, Mapping[str, Any]], *, force: bool
) -> None:
    from rich.table import Table

    from alphaedit.cli import tables

    session.say(
        f"{edit.id}  {edit.method}  {edit.created}  "
        f"{'in force' if force else 'not in force'}, after {edit.parent or 'no other edit'}"
    )
    if edit.before and edit.after:
        session.say(*tables.facts_table(edit.facts, edit.before, edit.after, "Facts"))
    else:
        session.say(*(f"{fact.text} → {fact.target}" for fact in edit.facts))
    table = Table(title="Changes of matrices", title_justify="left")
    table.add_column("matrix")
    for name in ("shape", "rank", "norm", "null space", "keys' energy in it"):
        table.add_column(name, justify="right")
    for name, row in norms.items():
        report = edit.null_space.get(name, {})
        table.add_row(
            name,
            f"{row['shape'][0]} x {row['shape'][1]}",
            str(row["rank"]),
            f"{row['norm']:.4g}",
            f"{report['dim']} of {report['d_in']}" if report else "-",
            f"{report['energy_left']:.2%}" if report else "-",
        )
    if norms:
        session.say(table)
    for change in edit.patch.changes:
        rows = f"{len(change)} row{'s' if len(change) != 1 else ''}"
        where = ", ".join(f"{name} {value}" for name, value in sorted(change.options.items()))
        session.say(f"{change.kind.capitalize()} {change.name}: {rows}; {where}")
    session.say(tables.seconds_line(dict(edit.seconds)))


@options.grouped
def status(where: ledgers.Where, *, common: options.Plain) -> dict[str, Any]:
    """Tell what is in force, and how large the ledger is."""
    from alphaedit.ledger.ledger import EDITS, Ledger

    ledger = Ledger(where)
    history = ledger.history
    force = history.head.edits
    folders = [p for p in (where / EDITS).glob("*") if p.is_dir()]
    known = set(history.files) - set(history.pruned)
    facts = sum(history.about[edit]["facts"] for edit in force)
    size = sum(file.stat().st_size for file in where.rglob("*") if file.is_file())
    result = {
        "ledger": str(where),
        "model": ledger.model,
        "base": ledger.base,
        "head": history.entries[-1].number,
        "version": history.head.id,
        "edits": force,
        "facts": facts,
        "idle": sorted(known - set(force)),
        "pruned": sorted(history.pruned),
        "orphans": sorted(p.name for p in folders if p.name not in known),
        "bytes": size,
    }
    last = history.entries[-1]
    common.session.say(
        f"Model {ledger.model or 'not named'}, fingerprint {ledger.base[:16]}",
        f"At @{last.number}: {last.op} by {last.who}, {last.when}",
        f"In force: {plural(len(force), 'edit')} of {plural(facts, 'fact')}",
        f"Not in force: {plural(len(known - set(force)), 'edit')}; "
        f"removed by gc: {len(history.pruned)}",
        f"On disk: {size / 1e6:.2f} MB",
        *(["Left by killed writers: see `alphaedit gc`"] if result["orphans"] else []),
    )
    return result


@options.grouped
def diff(
    where: ledgers.Where,
    a: Annotated[
        str,
        typer.Argument(
            metavar="VERSION", autocompletion=complete.versions, help=f"The first: {ENTRY}"
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(
            metavar="VERSION", autocompletion=complete.versions, help=f"The second: {ENTRY}"
        ),
    ] = "head",
    ask: Annotated[
        bool, typer.Option("--ask", help="Also load the model and ask both versions.")
    ] = False,
    model: ledgers.ModelOption = None,
    *,
    common: options.Seeded,
) -> dict[str, Any]:
    """Show facts in which two versions differ, and with --ask answers that do."""
    from alphaedit.jobs.ledgers import facts_of
    from alphaedit.ledger.facts import difference
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    versions = [ledger.version(name) for name in (a, b)]
    before, after = (facts_of(ledger, version) for version in versions)
    changes = difference(before, after)
    rows: list[dict[str, Any]] = [
        {
            "prompt": change.prompt,
            "a": change.before,
            "b": change.after,
            "edit": change.edit,
        }
        for change in changes
    ]
    answers: list[dict[str, Any]] = []
    session = common.session
    if ask:
        opening = {**vars(common.loading), "seed": common.seed}
        with session.progress() as progress:
            answers = _answers(ledger, versions, model, progress, opening)
    if not session.json:
        _show_diff(session, rows, answers, (a, b), asked=ask)
    return {"ledger": str(where), "a": a, "b": b, "facts": rows, "answers": answers}


def _answers(
    ledger: Any,
    versions: list[Any],
    model: str | None,
    progress: Any,
    opening: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """What two versions say to all prompts of both, where it differs."""
    from alphaedit.editor.measured import ANSWER_TOKENS
    from alphaedit.jobs.ledgers import editor_at, facts_of
    from alphaedit.ledger.facts import in_force
    from alphaedit.model.generate import generate

    by_version = [facts_of(ledger, version) for version in versions]
    prompts = list(
        {statement.fact.text: 0 for facts in by_version for statement in in_force(facts).values()}
    )
    editor = editor_at(ledger, model, versions[0], progress, **opening)
    first = generate(editor.handle, prompts, ANSWER_TOKENS) if prompts else []
    editor.set_edits(ledger.edits(versions[1]))
    second = generate(editor.handle, prompts, ANSWER_TOKENS) if prompts else []
    return [
        {"prompt": prompt, "a": old, "b": new}
        for prompt, old, new in zip(prompts, first, second, strict=True)
        if old != new
    ]


def _show_diff(
    session: Session,
    rows: list[dict[str, Any]],
    answers: list[dict[str, Any]],
    names: tuple[str, str],
    *,
    asked: bool,
) -> None:
    from rich.table import Table

    from alphaedit.cli.tables import cell
    from alphaedit.core.text import first_answer

    if not rows:
        session.say("Both hold the same facts.")
    else:
        table = Table(title="Facts", title_justify="left")
        for name in ("prompt", *names, "edit"):
            table.add_column(name, overflow="fold")
        for row in rows:
            cells = (row["prompt"], row["a"] or "-", row["b"] or "-", row["edit"])
            table.add_row(*(cell(value) for value in cells))
        session.say(table)
    if asked:
        table = Table(title=f"Answers that differ: {len(answers)}", title_justify="left")
        for name in ("prompt", *names):
            table.add_column(name, overflow="fold")
        for row in answers:
            table.add_row(
                cell(shorten(row["prompt"], 70)),
                cell(first_answer(row["a"])),
                cell(first_answer(row["b"])),
            )
        session.say(table)
