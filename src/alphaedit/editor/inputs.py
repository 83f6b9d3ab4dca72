"""What callers give: facts in any reasonable form, EasyEdit's keywords, guards, seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alphaedit.core.arguments import as_path, shown
from alphaedit.core.errors import ConfigError, FactError
from alphaedit.core.fact import ALIASES, Fact, load_facts
from alphaedit.editor.guard import Guard

EASYEDIT = {
    "prompts": "prompt",
    "prompt": "prompt",
    "subject": "subject",
    "subjects": "subject",
    "target": "target",
    "targets": "target",
    "truth": "truth",
    "paraphrases": "paraphrases",
    "neighborhood": "neighborhood",
    "rephrase": "paraphrases",
    **{given: name for given, name in ALIASES.items() if name != "id"},
}
"""Keywords that stand for fields of facts, as EasyEdit's `edit` has them, and our names."""
UNSUPPORTED = ("locality_inputs", "portability_inputs", "keep_original_weight", "sequential_edit")
SEEDS = (-(2**63), 2**64 - 1)
SHAPES = (
    "Give a Fact, a mapping with prompt, subject and target, a list of these, or the path of a "
    "facts file."
)


def as_facts(facts: Any) -> list[Fact]:
    """Facts from a Fact, a mapping, (prompt, subject, target), several of these, or a file's path.

    Raises:
        FactError: it is none of these, or one of them cannot be used.
    """
    if isinstance(facts, Fact):
        return [facts]
    if isinstance(facts, (str, Path)):
        return load_facts(as_path("The facts file", facts))
    if isinstance(facts, Mapping):
        return [Fact.from_dict(facts, "fact 1")]
    if _is_triple(facts):
        return [Fact(*facts)]
    if isinstance(facts, bytes) or not isinstance(facts, Iterable):
        raise FactError(f"Facts are given as {shown(facts)}.", remedy=SHAPES)
    return [_as_fact(item, f"fact {number}") for number, item in enumerate(facts, start=1)]


def _as_fact(item: Any, where: str) -> Fact:
    if isinstance(item, Fact):
        return item
    if isinstance(item, Mapping):
        return Fact.from_dict(item, where)
    if _is_triple(item):
        try:
            return Fact(*item)
        except FactError as error:
            raise error.at(where) from None
    raise FactError(f"{shown(item)} is no fact.", remedy=SHAPES).at(where)


def _is_triple(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list))
        and len(value) == 3
        and all(isinstance(part, str) for part in value)
    )


def from_keywords(keywords: dict[str, Any]) -> list[Fact] | None:
    """Facts from keywords such as EasyEdit's `prompts=`, `subject=`, `target_new=`, taken out.

    Raises:
        FactError: they do not fit together.
        ConfigError: one that has no counterpart here.
    """
    for name in UNSUPPORTED:
        if name in keywords:
            raise ConfigError(
                f"{name} is a keyword of EasyEdit that has no counterpart here.",
                remedy="Edits follow one another and are undone by `revert`; measure locality and "
                "portability with `evaluate`.",
            )
    given = {name: keywords.pop(name) for name in list(keywords) if name in EASYEDIT}
    if not given:
        return None
    fields: dict[str, list[Any]] = {}
    for name, value in given.items():
        field = EASYEDIT[name]
        if field in fields:
            raise FactError(f"{name} and another keyword both give {field}.", remedy="Give one.")
        fields[field] = [value] if isinstance(value, str) else _listed(name, value)
    counts = {name: len(values) for name, values in fields.items()}
    if len(set(counts.values())) != 1:
        told = ", ".join(f"{count} of {name}" for name, count in counts.items())
        raise FactError(
            f"The keywords give different numbers of facts: {told}.",
            remedy="Give one value of each for every fact.",
        )
    rows = zip(*fields.values(), strict=True)
    records = [dict(zip(fields, row, strict=True)) for row in rows]
    return [Fact.from_dict(record, f"fact {n}") for n, record in enumerate(records, start=1)]


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise FactError(f"{name} is {shown(value)}.", remedy="Give a text or a list.")
    return list(value)


def as_guard(guard: Any) -> Guard | None:
    """A guard, from one or from a text such as "rollback:max_kl=0.05".

    Raises:
        ConfigError: it is neither.
    """
    if guard is None or isinstance(guard, Guard):
        return guard
    if isinstance(guard, str):
        return Guard.parse(guard)
    raise ConfigError(
        f"The guard is {shown(guard)}.",
        remedy="Give a Guard, or a text such as 'rollback:max_kl=0.05'.",
    )


def as_seed(seed: Any) -> int:
    """A seed that torch's generators take.

    Raises:
        ConfigError: it is no whole number, or out of their range.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not SEEDS[0] <= seed <= SEEDS[1]:
        raise ConfigError(
            f"The seed is {shown(seed)}.", remedy=f"Give a whole number up to {SEEDS[1]}."
        )
    return seed
