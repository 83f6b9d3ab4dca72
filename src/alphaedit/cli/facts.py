"""Facts from a file, standard input or the command line, and the records that measure them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alphaedit.cli import complete
from alphaedit.core.errors import ConfigError, FactError
from alphaedit.core.fact import Fact, check_facts, facts_of
from alphaedit.core.reading import LIMIT, decode, megabytes, read_stream
from alphaedit.core.records import FORMATS, Placed, format_of, parse_records, read_records
from alphaedit.jobs.facts import Source

if TYPE_CHECKING:
    from alphaedit.bench.data import EditRecord

STDIN = "-"
STDIN_NAME = "standard input"
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        autocompletion=complete.fact_formats,
        help=f"Format of FACTS: {', '.join(FORMATS)}.",
        show_default="by the ending; of standard input, by its first line",
    ),
]


def standard_input() -> str:
    """All of standard input, as text.

    Raises:
        ConfigError: it is a terminal, closed, too large, or shared by several processes.
        FactError: it is not text in UTF-8.
    """
    remedy = "Pipe text in, as in `cat facts.jsonl | alphaedit ...`, or give a file."
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "Standard input cannot be read by several processes.", remedy="Give a file."
        )
    if sys.stdin is None or sys.stdin.closed:
        raise ConfigError("Standard input is closed.", remedy=remedy)
    if sys.stdin.isatty():
        raise ConfigError("Standard input is a terminal, and nothing comes from it.", remedy=remedy)
    try:
        raw = read_stream(sys.stdin.buffer)
    except OSError as error:
        raise ConfigError(
            f"Standard input cannot be read: {error.strerror or error}.", remedy=remedy
        ) from None
    if raw is None:
        raise ConfigError(
            f"Standard input has more than {megabytes(LIMIT)}, the most that is read.",
            remedy="Give the facts in several parts.",
        )
    return decode(raw, STDIN_NAME, error=FactError)


def placed_records(path: str | Path, kind: str | None = None) -> list[Placed]:
    """The records of a file, or of standard input if it is called "-".

    Raises:
        ConfigError: see `standard_input`.
        FactError: they cannot be used.
        UnknownNameError: no such format.
    """
    if str(path) != STDIN:
        return read_records(path, kind)
    text = standard_input()
    return parse_records(text, kind or format_of(text), STDIN_NAME)


def name_of(path: str | Path) -> str:
    """What to call a file, or standard input."""
    return STDIN_NAME if str(path) == STDIN else str(path)


def load(path: str | Path, kind: str | None = None) -> list[Fact]:
    """The facts of a file, or of standard input; see `placed_records`."""
    return facts_of(placed_records(path, kind))


def read(
    facts: Path | None,
    prompt: str | None,
    subject: str | None,
    target: str | None,
    truth: str | None = None,
    format: str | None = None,
) -> Source:
    """The facts that a command line names.

    Raises:
        ConfigError: there are none, or two sources.
        FactError: a record cannot be used.
        DataError: a record of CounterFact's schema lacks a field of it.
    """
    given = {"--prompt": prompt, "--subject": subject, "--target": target}
    if facts is not None:
        if any(value is not None for value in (*given.values(), truth)):
            raise ConfigError(
                "Facts are given both in a file and on the command line.",
                remedy="Give one of the two.",
            )
        placed = placed_records(facts, format)
        return Source(facts_of(placed), _counterfact(placed))
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            "No facts are given." if len(missing) == 3 else f"{' and '.join(missing)} missing.",
            remedy="Give a file of facts, - for standard input, or --prompt, --subject and "
            "--target.",
        )
    if format is not None:
        raise ConfigError("--format is for facts of a file.", remedy="Leave it out.")
    fact = Fact(str(prompt), str(subject), str(target), truth=truth)
    return Source(check_facts([fact], ["command line"], warn=False), {})


def _counterfact(placed: Sequence[Placed]) -> dict[int, EditRecord]:
    from alphaedit.bench.data import EditRecord

    records = {}
    for index, (where, record) in enumerate(placed):
        if "requested_rewrite" in record:
            try:
                records[index] = EditRecord.from_dict(record, where)
            except FactError as error:
                raise error.at(where) from None
    return records
