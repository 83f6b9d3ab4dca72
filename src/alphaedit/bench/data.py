"""One record of a benchmark: what is edited, and what tests it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact
from alphaedit.core.fact_text import with_subject, without_subject

_LISTS = ("paraphrase_prompts", "neighborhood_prompts", "attribute_prompts", "generation_prompts")
_OF_SUBJECT = ("paraphrase_prompts", "generation_prompts")


@dataclass(frozen=True, slots=True)
class Probe:
    """A question that an edit must, or must not, change the answer of.

    Attributes:
        kind: "portability" (should follow from the edit), "locality" (should stay), "multi_hop",
            "single_hop" or "long".
        name: its group in the data set, such as "Reasoning" or "Forgetfulness".
        answers: what counts as right, aliases included.
    """

    kind: str
    name: str
    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EditRecord:
    """One edit with the prompts that test it.

    Attributes:
        prompt: rewrite prompt with "{}" for the subject.
        target_new: the counterfactual object.
        target_true: the true object; "" where the data set has none.
        paraphrase_prompts: of the same fact; "{}" in them is replaced by the subject, as in
            generation_prompts.
        neighborhood_prompts: about other subjects for which `target_true` holds.
        attribute_prompts: about other subjects for which `target_new` holds.
        probes: questions beyond these, see `Probe`.
        more: facts that are edited together with this one (MQuAKE).
        schema: the data set's schema, see `bench.datasets`.

    Raises:
        FactError: a prompt has several "{}", or one about other subjects has one.
    """

    case_id: str
    relation_id: str
    prompt: str
    subject: str
    target_new: str
    target_true: str
    paraphrase_prompts: tuple[str, ...] = ()
    neighborhood_prompts: tuple[str, ...] = ()
    attribute_prompts: tuple[str, ...] = ()
    generation_prompts: tuple[str, ...] = ()
    probes: tuple[Probe, ...] = ()
    more: tuple[Fact, ...] = ()
    schema: str = "counterfact"

    def __post_init__(self) -> None:
        """Put the subject in its places."""
        for name in _LISTS:
            place = with_subject if name in _OF_SUBJECT else without_subject
            prompts = (place(name, text, self.subject) for text in getattr(self, name))
            object.__setattr__(self, name, tuple(prompts))

    @property
    def fact(self) -> Fact:
        """The fact to be edited in."""
        return Fact(
            self.prompt,
            self.subject,
            self.target_new,
            truth=self.target_true or None,
            paraphrases=self.paraphrase_prompts,
            neighborhood=self.neighborhood_prompts,
            id=self.case_id,
        )

    @property
    def facts(self) -> tuple[Fact, ...]:
        """All facts to be edited in."""
        return (self.fact, *self.more)

    @property
    def rewrite(self) -> str:
        """The rewrite prompt with its subject."""
        return self.prompt.replace("{}", self.subject, 1)

    @classmethod
    def from_dict(cls, row: Any, where: str) -> EditRecord:
        """Read one record in CounterFact's schema.

        Raises:
            DataError: a field is missing, empty or of another type; `where` names the record.
        """
        if not isinstance(row, Mapping):
            raise DataError(f"{where} is not an object.", remedy=_REMEDY)
        rewrite = row.get("requested_rewrite")
        if not isinstance(rewrite, Mapping):
            raise DataError(f"{where}: field 'requested_rewrite' is missing.", remedy=_REMEDY)

        def text(holder: Mapping[str, Any], name: str, path: str) -> str:
            value = holder.get(name)
            if not isinstance(value, str) or not value.strip():
                what = "is missing" if value is None else "is not a non-empty text"
                raise DataError(f"{where}: field {path!r} {what}.", remedy=_REMEDY)
            return value.strip()

        def target(name: str) -> str:
            holder = rewrite.get(name)
            if not isinstance(holder, Mapping):
                raise DataError(
                    f"{where}: field 'requested_rewrite.{name}' is missing.", remedy=_REMEDY
                )
            return text(holder, "str", f"requested_rewrite.{name}.str")

        prompt = text(rewrite, "prompt", "requested_rewrite.prompt")
        if prompt.count("{}") != 1:
            raise DataError(
                f"{where}: field 'requested_rewrite.prompt' needs one '{{}}' for the subject, "
                f"and is {prompt!r}.",
                remedy=_REMEDY,
            )
        lists: dict[str, Any] = {}
        for name in _LISTS:
            value = row.get(name, [])
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                raise DataError(f"{where}: field {name!r} is not a list of texts.", remedy=_REMEDY)
            lists[name] = tuple(v.strip() for v in value)
        return cls(
            case_id=str(row.get("case_id", where)),
            relation_id=str(rewrite.get("relation_id", "")),
            prompt=prompt,
            subject=text(rewrite, "subject", "requested_rewrite.subject"),
            target_new=target("target_new"),
            target_true=target("target_true"),
            **lists,
        )


_REMEDY = "Records must follow CounterFact's schema; see `alphaedit world records` for samples."
