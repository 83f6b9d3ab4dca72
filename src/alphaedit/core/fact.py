"""A fact: what a model should say after a prompt that names a subject."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from alphaedit.core.errors import FactError, SubjectError, suggestion
from alphaedit.core.records import read_records

SLOT = "{}"

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
    a space between prompt and target is added where they are joined.

    Attributes:
        prompt: Template with one ``{}`` for the subject, or text with the subject in it once.
        subject: What the fact is about.
        target: The new object, never empty.
        truth: The old object, if known.
        paraphrases: Other prompts that ask the same.
        neighborhood: Prompts about other subjects, whose answers should stay.
        id: A name given by the user or the data set.

    Raises:
        FactError: A required field is empty, or a field is not text.
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
            value = _text(name, value)
            value = value.rstrip(" \t") if name == "prompt" else value.strip()
            if not value.strip():
                if name in _REQUIRED:
                    raise FactError(
                        f"Field {name!r} is empty.", remedy="Give a non-empty text.", field=name
                    )
                value = None
            object.__setattr__(self, name, value)
        for name in _LISTS:
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise FactError(
                    f"Field {name!r} holds {_kind(value)}, not a list.",
                    remedy="Give a list of texts.",
                    field=name,
                )
            texts = tuple(_text(name, item) for item in value)
            if not all(text.strip() for text in texts):
                raise FactError(
                    f"Field {name!r} holds an empty text.", remedy="Remove it.", field=name
                )
            object.__setattr__(self, name, texts)
        if self.prompt.count(SLOT) > 1:
            raise SubjectError(
                f"Prompt {self.prompt!r} has {self.prompt.count(SLOT)} places for the subject.",
                remedy="Leave one '{}' in it.",
                field="prompt",
            )

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
                    f"Subject {self.subject!r} is not in its prompt {self.prompt!r}.",
                    remedy=_missing_remedy(self.prompt, self.subject),
                    field="subject",
                )
            if self.prompt.find(self.subject, start + 1) >= 0:
                raise SubjectError(
                    f"Subject {self.subject!r} is met twice in its prompt {self.prompt!r}.",
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
    def from_dict(cls, d: Mapping[str, Any], where: str = "fact") -> "Fact":
        """Read a record: own field names, EasyEdit's, or CounterFact's ``requested_rewrite``.

        Args:
            d: The record.
            where: File and line or record, for messages.

        Raises:
            FactError: An unknown, missing, doubled, empty or ill-typed field.
        """
        try:
            values = _known_fields(_flatten(d))
            missing = [name for name in _REQUIRED if values.get(name) is None]
            if missing:
                raise FactError(
                    f"Field {missing[0]!r} is missing.",
                    remedy=f"A fact needs {', '.join(_REQUIRED)}.",
                    field=missing[0],
                )
            return cls(**values)
        except FactError as error:
            raise error.at(where) from None


def check_facts(facts: Iterable[Fact], where: Sequence[str] | None = None) -> list[Fact]:
    """Check facts that are to be edited together.

    Args:
        facts: The facts.
        where: Where each one was read, for messages; ``fact 1``, ``fact 2``, ... if not given.

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
                f"{fact.text!r} -> {fact.target!r} is a duplicate of {first_place}.",
                remedy="Remove one of the two.",
                where=place,
            )
        raise FactError(
            f"{fact.text!r} -> {fact.target!r} contradicts {first_place}, "
            f"which says {first_target!r}.",
            remedy="Keep the one that should hold.",
            field="target",
            where=place,
        )
    return checked


def load_facts(path: str | Path) -> list[Fact]:
    """Read and check the facts of a file.

    ``.jsonl`` holds a record per line; ``.json`` and ``.yaml`` a list of records, or one;
    ``.csv`` and ``.tsv`` a header and a row per fact, with ``|`` between several paraphrases or
    neighbors. Field names are those of `Fact`, of EasyEdit, or of CounterFact.

    Raises:
        FactError: The file or a record cannot be used; the message names file, line or record,
            field and remedy.
    """
    records = read_records(Path(path))
    facts = [Fact.from_dict(record, where) for where, record in records]
    return check_facts(facts, [where for where, _ in records])


def _flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """CounterFact's nested record with the fields of ``requested_rewrite`` at the top."""
    flat = dict(record)
    rewrite = flat.pop("requested_rewrite", None)
    if rewrite is None:
        return flat
    if not isinstance(rewrite, Mapping):
        raise FactError(
            f"Field 'requested_rewrite' holds {_kind(rewrite)}.",
            remedy="CounterFact has an object there.",
            field="requested_rewrite",
        )
    for name, value in rewrite.items():
        if name in ("relation_id", "target_new_id", "target_true_id"):
            continue
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
                f"Unknown field {given!r}.",
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


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise FactError(
            f"Field {name!r} holds {_kind(value)}, not text.",
            remedy="Put quotes around it." if value is not None else "Give a text.",
            field=name,
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise FactError(
            f"Field {name!r} holds half of a character (a lone surrogate): {value!r}.",
            remedy="Write the character itself, in UTF-8.",
            field=name,
        ) from None
    return value


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"a truth value ({value})"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, str):
        return f"text ({value!r})"
    if isinstance(value, Mapping):
        return "an object"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def _missing_remedy(prompt: str, subject: str) -> str:
    if subject.casefold() in prompt.casefold():
        return "It is there in other case: write both the same way, or put '{}' in its place."
    if canonical(subject) in canonical(prompt):
        return "It is there with other spaces or accents encoded otherwise: copy one to the other."
    return "Put '{}' in its place, or write it as the prompt does."


def canonical(text: str) -> str:
    """A text without differences that do not matter: white space and Unicode's ways of writing."""
    return " ".join(unicodedata.normalize("NFC", text).split())
