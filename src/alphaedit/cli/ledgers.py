"""What the commands about ledgers share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete
from alphaedit.cli.output import output_console, shorten
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.core.progress import Progress
    from alphaedit.editor.measured import Asked
    from alphaedit.editor.session import Editor
    from alphaedit.ledger.history import Version
    from alphaedit.ledger.ledger import Ledger

Where = Annotated[
    Path,
    typer.Argument(
        metavar="LEDGER",
        autocompletion=complete.ledgers,
        help="Directory of a ledger (see `alphaedit init`).",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        autocompletion=complete.models,
        help="The unedited model.",
        show_default="as the ledger names it",
    ),
]
Why = Annotated[
    str, typer.Option("--why", metavar="TEXT", help="Message for the log.", show_default=False)
]
Sign = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        metavar="FILE",
        help="Sign the entry with this private ssh key (by ssh-keygen).",
        show_default=False,
    ),
]
NoMeasure = Annotated[
    bool, typer.Option("--no-measure", help="Do not load the model and ask for facts.")
]


def model_of(ledger: Ledger, model: str | None, *, measuring: bool = False) -> str:
    """The model that commands load: the one given, or the ledger's, if the user gave it that.

    Args:
        ledger: of whose model.
        model: named on the command line.
        measuring: the model is only loaded to ask it for facts.

    Raises:
        ConfigError: no model is named, or only by a ledger that somebody else has begun.
    """
    from alphaedit.ledger.known import known_model
    from alphaedit.world.asset import NAMES

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
    ledger: Ledger, model: str | None, version: Version, progress: Progress, **options: Any
) -> Editor:
    """The model with the edits of a version."""
    from alphaedit.cli.prepare import open_editor
    from alphaedit.ledger.known import remember

    editor = open_editor(model_of(ledger, model), progress, **options)
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
    from alphaedit.ledger.facts import in_force

    held = in_force(facts_of(ledger, version)).values()
    return ask_facts(editor.handle, [one.fact for one in held if only is None or one.edit in only])


def asked_json(asked: Sequence[Asked]) -> list[dict[str, Any]]:
    """Facts and answers as JSON values."""
    return [
        {
            "prompt": one.fact.text,
            "target": one.fact.target,
            "answer": one.answer.text,
            "p_target": one.answer.p_target,
            "holds": one.holds,
        }
        for one in asked
    ]


def asked_table(asked: Sequence[Asked], title: str) -> None:
    """Print facts and answers."""
    from rich.table import Table

    from alphaedit.cli.tables import cell, first_answer, probability

    table = Table(title=title, title_justify="left")
    for name in ("prompt", "wanted", "says"):
        table.add_column(name, overflow="fold")
    table.add_column("p(wanted)", justify="right", no_wrap=True)
    for one in asked:
        table.add_row(
            cell(shorten(one.fact.text, 70)),
            cell(one.fact.target),
            cell(first_answer(one.answer.text), style="green" if one.holds else "yellow"),
            probability(one.answer.p_target),
        )
    output_console().print(table)


def plural(count: int, noun: str) -> str:
    """A number with its noun: "1 fact", "2 facts"."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"


def facts_of(ledger: Ledger, version: Version) -> list[tuple[str, Any]]:
    """Ids and facts of the edits of a version."""
    return [(edit, ledger.store.facts(edit, ledger.files_of(edit))) for edit in version.edits]
