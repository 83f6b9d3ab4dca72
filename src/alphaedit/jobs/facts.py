"""Facts to edit, and the records that measure them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from alphaedit.bench.data import EditRecord
from alphaedit.core.fact import Fact
from alphaedit.core.text import first_answer

if TYPE_CHECKING:
    from alphaedit.core.edit import Answer
    from alphaedit.model.handle import ModelHandle


@dataclass(frozen=True)
class Source:
    """Facts, and CounterFact's records of them, by number, where the file has that schema."""

    facts: Sequence[Fact]
    rows: Mapping[int, EditRecord] = field(default_factory=dict)


def in_chat(source: Source, handle: ModelHandle) -> Source:
    """The same facts asked in a conversation."""
    from alphaedit.model.chat import in_chat as in_conversation

    return Source([in_conversation(handle.tokenizer, fact) for fact in source.facts], {})


def records_of(source: Source, before: Sequence[Answer]) -> list[EditRecord]:
    """Records that measure the facts of `source`.

    A fact without an old object is measured against what the model said before; one without
    generation prompts, by its own prompt and paraphrases.
    """
    records = []
    for index, (fact, answer) in enumerate(zip(source.facts, before, strict=True)):
        if index in source.rows:
            records.append(source.rows[index])
            continue
        # As long as the new object: the mean over the tokens of a long answer says little.
        former = first_answer(answer.text, len(fact.target.split()))
        records.append(
            EditRecord(
                case_id=fact.id or str(index),
                relation_id="",
                prompt=fact.prompt,
                subject=fact.subject,
                target_new=fact.target,
                target_true=fact.truth or former or fact.target,
                paraphrase_prompts=fact.paraphrases,
                neighborhood_prompts=fact.neighborhood,
                generation_prompts=(fact.text, *fact.paraphrases),
            )
        )
    return records
