"""What a line of a journal may hold: a right hash says who wrote it, not that it makes sense."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from alphaedit.core.errors import LedgerError
from alphaedit.core.schema import Count, Id, Record, Sha256, checked, shown

FORMAT = 1
"""Of the journal."""
REMEDY = "Take the ledger from a backup, or from where it was pushed."


class _About(Record):
    facts: Count
    method: str
    created: str = ""
    first: str = ""


class _More(Record):
    pruned: list[Id] = Field(default_factory=list)


class _Line(Record):
    number: Count
    op: str
    version: Id
    add: list[Id]
    drop: list[Id]
    start: Count | None = None
    who: str = ""
    when: str = ""
    why: str = ""
    about: dict[Id, _About] = Field(default_factory=dict)
    files: dict[Id, dict[str, Sha256]] = Field(default_factory=dict)
    more: _More = Field(default_factory=_More)


class _Beginning(_More):
    format: int
    base: Sha256
    model: str = ""


class _First(_Line):
    op: Literal["init"]
    more: _Beginning


NAMES = tuple(_Line.model_fields)


def entry_values(values: Any, number: int, where: str) -> dict[str, Any]:
    """The fields of an entry, all of the right types; those of newer versions are left out.

    Args:
        values: JSON.
        number: which entry it should be.
        where: file and line, for messages.

    Raises:
        LedgerError: a field is missing or of a wrong type, or the journal is of another format.
    """
    if number == 0:
        _check_format(values, where)
    checked(_Line if number else _First, values, where, remedy=REMEDY, error=LedgerError)
    if values["number"] != number:
        raise LedgerError(
            f"{where}: field 'number' is {values['number']}, and should be {number}.",
            remedy=REMEDY,
        )
    known = {name: values[name] for name in NAMES if name in values}
    return {**known, "add": tuple(values["add"]), "drop": tuple(values["drop"])}


def _check_format(values: Any, where: str) -> None:
    more = values.get("more") if isinstance(values, dict) else None
    format_number = more.get("format") if isinstance(more, dict) else None
    if (
        not isinstance(format_number, int)
        or isinstance(format_number, bool)
        or format_number == FORMAT
    ):
        return
    raise LedgerError(
        f"{where}: this is a ledger of format {shown(format_number)}, this version reads {FORMAT}.",
        remedy="Install a newer version of alphaedit." if format_number > FORMAT else REMEDY,
    )
