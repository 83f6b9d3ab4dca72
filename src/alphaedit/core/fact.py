"""A fact: what a model should say after a prompt that names a subject."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alphaedit.core.arguments import shown
from alphaedit.core.errors import AlphaEditWarning, FactError, SubjectError, suggestion
from alphaedit.core.fact_text import (
    SLOT,
    as_text,
    canonical,
    check_readable,
    kind_of,
    missing_remedy,
    short,
    with_subject,
    without_subject,
)
from alphaedit.core.records import Placed, parse_records, read_records

__all__ = ["ALIASES", "SLOT", "UNUSED", "Fact", "canonical"]
__all__ += ["check_facts", "facts_of", "load_facts", "read_facts"]

# EasyEdit's and CounterFact's names for our fields.
ALIASES = {
    "target_new": "target",
    "ground_truth": "truth",
    "target_true": "truth",
    "rephrase_prompt": "paraphrases",
    "rephrase_prompts": "paraphrases",
    "paraphrase_prompts": "paraphrases",
    "locality_prompt": "neighborhood",
    "neighborhood_prompts": "neighborhood",
    "case_id": "id",
}
# Fields that those files carry for evaluation and that a fact has no place for.
UNUSED = frozenset(
    {"locality_ground_truth", "pararel_idx", "attribute_prompts", "generation_prompts"}
)
_REQUIRED = ("prompt", "subject", "target")
_LISTS = ("paraphrases", "neighborhood")


@dataclass(frozen=True, slots=True)
class Fact:
    """What should hold after an edit.

    Outer white space of `subject` and `target`, and blanks at the end of `prompt`, are removed:
    a space between prompt and target is added where they are joined. In a paraphrase, ``{}`` is
    replaced by the subject.

    Attributes:
        prompt: Template with one ``{}`` for the subject, or text with the subject in it once.
        subject: What the fact is about.
        target: The new object, never empty.
        truth: The old object, if known.
        paraphrases: Other prompts that ask the same; each may have one ``{}`` for the subject.
        neighborhood: Prompts about other subjects, whose answers should stay; without ``{}``.
        id: A name given by the user or the data set.

    Raises:
        FactError: A required field is empty, a field is not text, is longer than 100,000
            characters, holds control characters or nothing that can be seen, or a neighborhood
            prompt has ``{}``.
        SubjectError: A prompt or paraphrase has several ``{}``.
    """

    prompt: str
    subject: str
    target: str
    truth: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighborhood: tuple[str, ...] = ()
    id: str | None = None

    def __post_init__(self) -> None:
        """Check and normalise the fields."""
        for name in ("prompt", "subject", "target", "truth", "id"):
            value = getattr(self, name)
            if value is None and name not in _REQUIRED:
                continue
            value = as_text(name, value)
            value = value.rstrip(" \t") if name == "prompt" else value.strip()
            if not value.strip():
                if name in _REQUIRED:
                    raise FactError(
                        f"Field {name!r} is empty.", remedy="Give a non-empty text.", field=name
                    )
                value = None
            else:
                check_readable(name, value)
            object.__setattr__(self, name, value)
        self._one_slot()
        for name in _LISTS:
            object.__setattr__(self, name, self._texts(name, getattr(self, name)))

    def _one_slot(self) -> None:
        if self.prompt.count(SLOT) > 1:
            raise SubjectError(
                f"Prompt {short(self.prompt)} has {self.prompt.count(SLOT)} places for the "
                "subject.",
                remedy="Leave one '{}' in it.",
                field="prompt",
            )

    def _texts(self, name: str, value: object) -> tuple[str, ...]:
        """The texts of a field that holds several."""
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise FactError(
                f"Field {name!r} holds {kind_of(value)}, not a list.",
                remedy="Give a list of texts.",
                field=name,
            )
        place = with_subject if name == "paraphrases" else without_subject
        texts = []
        for item in value:
            text = as_text(name, item)
            if not text.strip():
                raise FactError(
                    f"Field {name!r} holds an empty text.", remedy="Remove it.", field=name
                )
            check_readable(name, text)
            texts.append(place(name, text, self.subject))
        return tuple(texts)

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace(SLOT, self.subject, 1)

    @property
    def subject_span(self) -> tuple[int, int]:
        """Start and end of the subject in `text`, in characters, the end excluded.

        Raises:
            SubjectError: The prompt has no ``{}`` and does not hold the subject exactly once.
        """
        start = self.prompt.find(SLOT)
        if start < 0:
            start = self.prompt.find(self.subject)
            if start < 0:
                raise SubjectError(
                    f"Subject {short(self.subject)} is not in its prompt {short(self.prompt)}.",
                    remedy=missing_remedy(self.prompt, self.subject),
                    field="subject",
                )
            if self.prompt.find(self.subject, start + 1) >= 0:
                raise SubjectError(
                    f"Subject {short(self.subject)} is met twice in its prompt "
                    f"{short(self.prompt)}.",
                    remedy="Put '{}' in the place that is meant.",
                    field="subject",
                )
        return start, start + len(self.subject)

    def to_dict(self) -> dict[str, Any]:
        """The fact as JSON values, without what is not set; `from_dict` reads it back."""
        record: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None or value == ():
                continue
            record[item.name] = list(value) if isinstance(value, tuple) else value
        return record

    @classmethod
    def from_dict(
        cls, d: Mapping[str, Any], where: str = "fact", *, stored: bool = False
    ) -> "Fact":
        """Read a record: own field names, EasyEdit's, or CounterFact's ``requested_rewrite``.

        Args:
            d: The record.
            where: File and line or record, for messages.
            stored: It is what `to_dict` gave, maybe of an older version that took more: texts are
                kept as they are, as the ids of edits are made of them.

        Raises:
            FactError: An unknown, missing, doubled, empty or ill-typed field.
        """
        if not isinstance(d, Mapping):
            raise FactError(
                f"expected an object, found {shown(d)}.",
                remedy="Give a mapping with prompt, subject and target.",
                where=where,
            )
        try:
            values = _known_fields(_flatten(d))
            missing = [name for name in _REQUIRED if values.get(name) is None]
            if missing:
                raise FactError(
                    f"Field {missing[0]!r} is missing.",
                    remedy=f"A fact needs {', '.join(_REQUIRED)}.",
                    field=missing[0],
                )
            return cls._kept(values) if stored else cls(**values)
        except FactError as error:
            raise error.at(where) from None

    @classmethod
    def _kept(cls, values: Mapping[str, Any]) -> "Fact":
        """A fact of just these values, if they are of the right types."""
        fact = object.__new__(cls)
        for item in fields(cls):
            value = values.get(item.name, item.default)
            if item.name in _LISTS:
                if not isinstance(value, (list, tuple)):
                    raise FactError(
                        f"Field {item.name!r} holds {kind_of(value)}, not a list.",
                        remedy="Give a list of texts.",
                        field=item.name,
                    )
                value = tuple(as_text(item.name, text) for text in value)
            elif value is not None:
                value = as_text(item.name, value)
                if not value.strip():
                    raise FactError(
                        f"Field {item.name!r} is empty.",
                        remedy="Give a non-empty text.",
                        field=item.name,
                    )
            object.__setattr__(fact, item.name, value)
        fact._one_slot()
        return fact


def check_facts(
    facts: Iterable[Fact], where: Sequence[str] | None = None, *, warn: bool = True
) -> list[Fact]:
    """Check facts that are to be edited together.

    Args:
        facts: The facts.
        where: Where each one was read, for messages; ``fact 1``, ``fact 2``, ... if not given.
        warn: Warn of facts whose target is their truth.

    Returns:
        The same facts, as a list.

    Raises:
        SubjectError: A subject is missing from its prompt, or met twice.
        FactError: There are none, or one is given twice, or two contradict one another.
    """
    checked = list(facts)
    if not checked:
        raise FactError("No facts are given.", remedy="Give at least one.")
    places = where or [f"fact {number}" for number in range(1, len(checked) + 1)]
    seen: dict[str, tuple[str, str]] = {}
    for fact, place in zip(checked, places, strict=True):
        try:
            _ = fact.subject_span
        except FactError as error:
            raise error.at(place) from None
        key, target = canonical(fact.text), canonical(fact.target)
        if key not in seen:
            seen[key] = place, target
            continue
        first_place, first_target = seen[key]
        if first_target == target:
            raise FactError(
                f"{short(fact.text)} -> {short(fact.target)} is a duplicate of {first_place}.",
                remedy="Remove one of the two.",
                where=place,
            )
        raise FactError(
            f"{short(fact.text)} -> {short(fact.target)} contradicts {first_place}, "
            f"which says {short(first_target)}.",
            remedy="Keep the one that should hold.",
            field="target",
            where=place,
        )
    if warn:
        _warn_of_truths(checked, places)
    return checked


def _warn_of_truths(facts: Sequence[Fact], places: Sequence[str]) -> None:
    same = [
        place
        for fact, place in zip(facts, places, strict=True)
        if fact.truth is not None and canonical(fact.truth) == canonical(fact.target)
    ]
    if same:
        more = f" and {len(same) - 1} more" if len(same) > 1 else ""
        warnings.warn(
            AlphaEditWarning(
                f"The target of {same[0]}{more} is what 'truth' says already: is this what should "
                "change?"
            ),
            stacklevel=3,
        )


def load_facts(path: str | Path) -> list[Fact]:
    """Read and check the facts of a file.

    ``.jsonl`` holds a record per line; ``.json`` and ``.yaml`` a list of records, or one;
    ``.csv`` and ``.tsv`` a header and a row per fact, with ``|`` between several paraphrases or
    neighbors. Field names are those of `Fact`, of EasyEdit, or of CounterFact.

    Raises:
        FactError: The file or a record cannot be used; the message names file, line or record,
            field and remedy.
    """
    return facts_of(read_records(path))


def read_facts(text: str, format: str = "jsonl", *, name: str = "text") -> list[Fact]:
    """Read and check the facts of a text, which is what a file as for `load_facts` would hold.

    Args:
        text: The text.
        format: ``jsonl``, ``json``, ``csv``, ``tsv`` or ``yaml``.
        name: What messages call the text.

    Raises:
        FactError: The text or a record cannot be used.
        UnknownNameError: No such format.
    """
    return facts_of(parse_records(text, format, name))


def facts_of(records: Sequence[Placed]) -> list[Fact]:
    """The facts of placed records, checked; a warning of truths is left to `check_facts`.

    Raises:
        FactError: A record cannot be used; the message names its place.
    """
    facts = [Fact.from_dict(record, where) for where, record in records]
    return check_facts(facts, [where for where, _ in records], warn=False)


def _flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """CounterFact's nested record with the fields of ``requested_rewrite`` at the top."""
    flat = dict(record)
    rewrite = flat.pop("requested_rewrite", None)
    if rewrite is None:
        return flat
    if not isinstance(rewrite, Mapping):
        raise FactError(
            f"Field 'requested_rewrite' holds {kind_of(rewrite)}.",
            remedy="CounterFact has an object there.",
            field="requested_rewrite",
        )
    for name, value in rewrite.items():
        if name in ("relation_id", "target_new_id", "target_true_id"):
            continue
        if name in flat:
            raise FactError(
                f"Field {short(str(name))} is given twice, also in 'requested_rewrite'.",
                remedy="Remove one of the two.",
                field=str(name),
            )
        flat[name] = value.get("str") if isinstance(value, Mapping) else value
    return flat


def _known_fields(record: Mapping[str, Any]) -> dict[str, Any]:
    names = [item.name for item in fields(Fact)]
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    for given, value in record.items():
        if given in UNUSED:
            continue
        name = ALIASES.get(given, given)
        if name not in names:
            raise FactError(
                f"Unknown field {short(str(given))}.",
                remedy=_field_suggestion(str(given), names),
                field=str(given),
            )
        if name in values:
            raise FactError(
                f"Fields {source[name]!r} and {given!r} mean the same.",
                remedy="Give one of them.",
                field=given,
            )
        if value is None:
            continue
        if name in _LISTS and isinstance(value, str):
            value = [value]
        if name == "id" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        values[name], source[name] = value, given
    return values


def _field_suggestion(given: str, names: list[str]) -> str:
    close = suggestion(given, [*names, *ALIASES]).partition("Available:")[0]
    return f"{close}Known fields: {', '.join(names)}."
