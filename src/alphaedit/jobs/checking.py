"""Facts as they were typed, pasted or sent: each is checked by itself, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import AlphaEditError, FactError
from alphaedit.core.fact import Fact, canonical
from alphaedit.core.progress import Progress, silent
from alphaedit.core.records import format_of, parse_records
from alphaedit.jobs.cancel import Cancel, watched

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor
    from alphaedit.ledger.facts import Held

MOST_FACTS = 50_000
MOST_RAW = 500
"""Characters of a broken line that are shown."""
ERROR, WARNING, NOTE = "error", "warning", "note"
TABLES = ("csv", "tsv")
ASKED_AT_ONCE = 32


@dataclass(frozen=True)
class Problem:
    """What is the matter with a fact.

    Attributes:
        level: "error" (it cannot be edited), "warning" or "note".
        message: what is the matter.
        remedy: what to do.
        field: of the fact, if it is one.
    """

    level: str
    message: str
    remedy: str | None = None
    field: str | None = None


@dataclass
class Row:
    """A record, and what is the matter with it.

    Attributes:
        where: such as "line 3".
        record: its fields as given; empty if it could not be read.
        fact: None if it is none.
        raw: the line, if it could not be read.
        problems: all of them.
    """

    where: str
    record: Mapping[str, Any]
    fact: Fact | None = None
    problems: list[Problem] = field(default_factory=list)
    raw: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it can be edited."""
        return self.fact is not None and all(p.level != ERROR for p in self.problems)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        record = self.fact.to_dict() if self.fact else _shown(self.record)
        return {
            "where": self.where,
            "record": record,
            "ok": self.ok,
            "raw": self.raw,
            "problems": [vars(problem) for problem in self.problems],
        }


def read(text: str, kind: str | None = None) -> list[Row]:
    """The records of a text, broken ones among them.

    Raises:
        FactError: it is empty, or nothing of it can be read.
        UnknownNameError: no such format.
    """
    kind = kind or format_of(text)
    if kind == "jsonl" and text.strip():
        return _many(_line(line, n) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    try:
        return _many(Row(where, record) for where, record in parse_records(text, kind, "text"))
    except FactError as error:
        lines = text.splitlines()
        if kind not in TABLES or len(lines) < 3 or error.where in (None, "text, line 1"):
            raise
        head = lines[0]
        rows = enumerate(lines[1:], start=2)
        return _many(_line(line, n, kind, head) for n, line in rows if line.strip())


def of_records(records: Sequence[Any]) -> list[Row]:
    """Rows of records that a form has filled in.

    Raises:
        FactError: there are too many.
    """
    return _many(
        Row(f"fact {n}", record if isinstance(record, Mapping) else {})
        for n, record in enumerate(records, 1)
    )


def _many(rows: Iterable[Row]) -> list[Row]:
    made: list[Row] = []
    for row in rows:
        made.append(row)
        if len(made) > MOST_FACTS:
            raise FactError(
                f"There are more than {MOST_FACTS:,} facts.",
                remedy="Give fewer at a time, or use `alphaedit edit MODEL FILE --batch-size N`.",
            )
    return made


def _line(line: str, number: int, kind: str = "jsonl", head: str | None = None) -> Row:
    """The record of one line."""
    where = f"line {number}"
    try:
        text = line if head is None else f"{head}\n{line}"
        ((_, record),) = parse_records(text, kind, "text")
    except FactError as error:
        return Row(where, {}, problems=[_problem(error)], raw=line[:MOST_RAW])
    except ValueError:
        problem = Problem(ERROR, "This line holds no record.", "Give one fact on each line.")
        return Row(where, {}, problems=[problem], raw=line[:MOST_RAW])
    return Row(where, record)


def check(rows: Sequence[Row], in_force: Mapping[str, Held]) -> None:
    """Say what is the matter with each row; nothing is asked of a model.

    Args:
        rows: are filled in.
        in_force: facts in force by prompt, see `ledger.facts.in_force`.
    """
    seen: dict[str, tuple[str, Fact]] = {}
    for row in rows:
        if row.problems:
            continue
        try:
            row.fact = Fact.from_dict(_filled(row.record), row.where)
            _ = row.fact.subject_span
        except FactError as error:
            row.problems.append(_problem(error))
            continue
        key = canonical(row.fact.text)
        if key in seen:
            row.problems.append(_twice(row.fact, *seen[key]))
        else:
            seen[key] = row.where, row.fact
        if key in in_force:
            row.problems.append(_standing(row.fact, in_force[key]))
        if row.fact.truth and canonical(row.fact.truth) == canonical(row.fact.target):
            message = "The target is what the truth says already."
            row.problems.append(Problem(WARNING, message, "Is this what should change?", "target"))


def _twice(fact: Fact, where: str, first: Fact) -> Problem:
    if canonical(first.target) == canonical(fact.target):
        return Problem(ERROR, f"The same as {where}.", "Remove one of the two.")
    return Problem(
        ERROR,
        f"Contradicts {where}, which says {first.target!r}.",
        "Keep the one that should hold.",
        "target",
    )


def _standing(fact: Fact, standing: Held) -> Problem:
    if canonical(standing.fact.target) == canonical(fact.target):
        message = f"Edit {standing.edit} says this already; twice, it may be overdone."
        return Problem(WARNING, message, "Leave it out.")
    return Problem(
        WARNING,
        f"Contradicts edit {standing.edit} in force, which says {standing.fact.target!r}.",
        "This one will be in force; revert the earlier edit to be rid of it.",
        "target",
    )


def ask(
    rows: Sequence[Row],
    editor: Editor,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
) -> list[dict[str, Any]]:
    """What the model says to each fact that can be edited, and whether it knows it already.

    Raises:
        Cancelled: `cancel` was set.
        ModelError: a prompt is longer than the model reads.
    """
    progress = watched(progress, cancel)
    numbers = [number for number, row in enumerate(rows) if row.ok]
    answers = []
    for at in range(0, len(numbers), ASKED_AT_ONCE):
        progress("asking", at, len(numbers))
        part = numbers[at : at + ASKED_AT_ONCE]
        facts = [fact for n in part if (fact := rows[n].fact) is not None]
        for number, reply in zip(part, editor.asked(facts), strict=True):
            answers.append(
                {
                    "number": number,
                    "answer": reply.answer.text,
                    "p_target": reply.answer.p_target,
                    "known": reply.holds,
                }
            )
    progress("asking", len(numbers), len(numbers))
    return answers


def _problem(error: AlphaEditError) -> Problem:
    message = getattr(error, "bare", error.message)
    return Problem(ERROR, message, error.remedy, getattr(error, "field", None))


def _filled(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without what a form left empty, but for what every fact needs."""
    needed = ("prompt", "subject", "target")
    return {k: v for k, v in record.items() if v not in ("", [], None) or k in needed}


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record that a form can show."""
    given = record.get("requested_rewrite")
    fields = {**record, **(given if isinstance(given, Mapping) else {})}
    target = fields.get("target", fields.get("target_new", ""))
    values = {
        "prompt": fields.get("prompt", ""),
        "subject": fields.get("subject", ""),
        "target": target.get("str", "") if isinstance(target, Mapping) else target,
    }
    return {name: value if isinstance(value, str) else str(value) for name, value in values.items()}
