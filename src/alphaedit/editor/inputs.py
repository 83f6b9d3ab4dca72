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
_SEVERAL = ("paraphrases", "neighborhood")
_MEASURED = "Measure it with `evaluate`, on records that carry such prompts."
_PREVIEW = "Edits follow one another; `revert` undoes one, and `preview` edits for a block."
UNSUPPORTED = {
    **dict.fromkeys(("locality_inputs", "portability_inputs", "loc_prompts"), _MEASURED),
    **dict.fromkeys(("test_generation", "eval_metric"), _MEASURED),
    **dict.fromkeys(("keep_original_weight", "sequential_edit"), _PREVIEW),
    "requests": "Give the facts as the first argument: mappings with prompt, subject, target_new.",
    "target_neg": "A fact has one target; `truth` is what the model says before.",
    "train_ds": "Methods here train on nothing that is given to `edit`.",
    "verbose": "Editor.from_pretrained(progress=...) shows how far it is, or does not.",
    "hparams": "Give the method as an object or a name, and its settings as keywords.",
    "alg_name": "Give the method as an object or a name: edit(facts, method='alphaedit').",
}
"""Keywords of EasyEdit without a counterpart, and what to do in place of them."""
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


def facts_given(facts: Any, keywords: dict[str, Any]) -> list[Fact]:
    """The facts of a call: its first argument, or keywords as EasyEdit has them, taken out.

    Raises:
        FactError: one cannot be used.
        ConfigError: there are none, or they are given twice, or a keyword is EasyEdit's alone.
    """
    given = from_keywords(keywords)
    if (facts is None) == (given is None):
        raise ConfigError(
            "No facts are given." if facts is None else "Facts are given twice.",
            remedy="Give facts as the first argument, or as keywords (prompts=, subject=, "
            "target_new=).",
        )
    return as_facts(facts) if given is None else given


def from_keywords(keywords: dict[str, Any]) -> list[Fact] | None:
    """Facts from keywords such as EasyEdit's `prompts=`, `subject=`, `target_new=`, taken out.

    What is None counts as not given. Beside one prompt that is a text and not a list, several
    paraphrases are all of that prompt.

    Raises:
        FactError: they do not fit together.
        ConfigError: one that has no counterpart here.
    """
    for name in keywords:
        if name in UNSUPPORTED:
            raise ConfigError(
                f"{name} is a keyword of EasyEdit that has no counterpart here.",
                remedy=UNSUPPORTED[name],
            )
    taken = {name: keywords.pop(name) for name in list(keywords) if name in EASYEDIT}
    given = {name: value for name, value in taken.items() if value is not None}
    if not given:
        return None
    alone = isinstance(given.get("prompts", given.get("prompt")), str)
    fields: dict[str, list[Any]] = {}
    for name, value in given.items():
        field = EASYEDIT[name]
        if field in fields:
            raise FactError(f"{name} and another keyword both give {field}.", remedy="Give one.")
        whole = alone and field in _SEVERAL and _texts(value)
        fields[field] = [value] if whole or isinstance(value, str) else _listed(name, value)
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


def _texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value)


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
