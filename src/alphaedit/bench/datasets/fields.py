"""Fields of published records, with errors that name file, record and field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alphaedit.bench.data import Probe
from alphaedit.core.errors import DataError

REMEDY = "Give the file in its published schema; see docs/datasets.md."


class Unlocatable(Exception):
    """A record whose subject is not in its prompt; it is set aside, and counted."""


def obj(value: Any, where: str, field: str = "") -> Mapping[str, Any]:
    """`value` as an object."""
    if not isinstance(value, Mapping):
        raise DataError(f"{_place(where, field)} is not an object.", remedy=REMEDY)
    return value


def text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A text that must be there."""
    value = row.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        what = "is missing" if value is None else "is not a non-empty text"
        raise DataError(f"{_place(where, name)} {what}.", remedy=REMEDY)
    return value.strip()


def maybe(row: Mapping[str, Any], name: str, where: str) -> str | None:
    """A text that may be missing or empty."""
    value = row.get(name)
    if value is None or value == "":
        return None
    return text(row, name, where)


def texts(row: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """A list of texts, or one; empty if missing."""
    value = row.get(name)
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(v, str) for v in items):
        raise DataError(f"{_place(where, name)} is not a list of texts.", remedy=REMEDY)
    return tuple(v.strip() for v in items if v.strip())


def listed(row: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """A list of anything; empty if missing."""
    value = row.get(name) or []
    if not isinstance(value, list):
        raise DataError(f"{_place(where, name)} is not a list.", remedy=REMEDY)
    return value


def answers(value: Any, where: str, field: str) -> tuple[str, ...]:
    """Accepted answers: a text, a list of texts, or a list of lists of them."""
    accepted: list[str] = []
    stack = [value]  # the next one last
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            accepted.append(item.strip())
        elif isinstance(item, (int, float)) and not isinstance(item, bool):
            accepted.append(str(item))
        elif isinstance(item, Sequence):
            stack += reversed(item)
        elif isinstance(item, Mapping) and "value" in item:
            stack += [item.get("aliases", []), item["value"]]
        else:
            raise DataError(f"{_place(where, field)} is not an answer.", remedy=REMEDY)
    distinct = tuple(dict.fromkeys(a for a in accepted if a))
    if not distinct:
        raise DataError(f"{_place(where, field)} has no answer.", remedy=REMEDY)
    return distinct


def probes(value: Any, kind: str, where: str, field: str) -> tuple[Probe, ...]:
    """Probes of KnowEdit's form: an object from the probes' name to a list of them, or a list."""
    if value is None:
        return ()
    groups = value if isinstance(value, Mapping) else {kind: value}
    parsed: list[Probe] = []
    for name, items in groups.items():
        if items is None:
            continue
        path = f"{field}.{name}" if isinstance(value, Mapping) else field
        if not isinstance(items, list):
            items = [items]
        for item in items:
            row = obj(item, where, path)
            asked = next((row[k] for k in ("prompt", "question", "loc") if k in row), None)
            truth = next((row[k] for k in ("ground_truth", "answer", "loc_ans") if k in row), None)
            if not isinstance(asked, str) or not asked.strip():
                raise DataError(f"{_place(where, path)}: field 'prompt' is missing.", remedy=REMEDY)
            if truth in (None, "", []):
                continue  # published records have probes without an answer: nothing to compare
            given = answers(truth, where, f"{path}.ground_truth")
            parsed.append(Probe(kind, str(name), asked.strip(), given))
    return tuple(parsed)


def located(prompt: str, subject: str) -> str:
    """`prompt` with "{}" for its subject, at the last place where it stands, whatever its case.

    Raises:
        Unlocatable: the subject is not there.
    """
    if "{}" in prompt:
        return prompt
    at = prompt.rfind(subject)
    if at < 0:
        at = prompt.casefold().rfind(subject.casefold())
        if at < 0 or len(prompt.casefold()) != len(prompt):
            raise Unlocatable(f"subject {subject!r} is not in {prompt[:80]!r}")
    return prompt[:at] + "{}" + prompt[at + len(subject) :]


def spelled(prompt: str, template: str, subject: str) -> str:
    """The subject as `prompt` spells it, where `template` has its place."""
    if "{}" in prompt:
        return subject
    start = template.index("{}")
    return prompt[start : start + len(subject)]


def _place(where: str, field: str) -> str:
    return f"{where}: field {field!r}" if field else where
