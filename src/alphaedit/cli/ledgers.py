"""What the commands about ledgers share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alphaedit.cli import complete
from alphaedit.cli.output import shorten

if TYPE_CHECKING:
    from rich.table import Table

    from alphaedit.editor.measured import Asked

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


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an entry of the log says besides what it does, and whether the model is asked after."""

    why: Why = ""
    sign: Sign = None
    model: ModelOption = None
    no_measure: NoMeasure = False


def asked_table(asked: Sequence[Asked], title: str) -> Table:
    """Facts and answers, to be said."""
    from rich.table import Table

    from alphaedit.cli.tables import cell, probability
    from alphaedit.core.text import first_answer

    table = Table(title=title, title_justify="left")
    for name in ("prompt", "wanted", "says"):
        table.add_column(name, overflow="fold")
    table.add_column("p(wanted)", justify="right", no_wrap=True)
    for reply in asked:
        table.add_row(
            cell(shorten(reply.fact.text, 70)),
            cell(reply.fact.target),
            cell(first_answer(reply.answer.text), style="green" if reply.holds else "yellow"),
            probability(reply.answer.p_target),
        )
    return table


def plural(count: int, noun: str) -> str:
    """A number with its noun: "1 fact", "2 facts"."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"
