"""Facts from a file or the command line, and the records that measure them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.cli.tables import first_answer
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact, check_facts, load_facts
from alphaedit.core.records import read_records

if TYPE_CHECKING:
    from alphaedit.bench.data import EditRecord
    from alphaedit.core.edit import Answer
    from alphaedit.model.handle import ModelHandle


@dataclass(frozen=True)
class Source:
    """Facts, and CounterFact's records of them where the file has that schema."""

    facts: list[Fact]
    rows: dict[int, dict[str, Any]]


def read(
    path: Path | None,
    prompt: str | None,
    subject: str | None,
    target: str | None,
    truth: str | None = None,
) -> Source:
    """The facts that a command line names.

    Raises:
        ConfigError: there are none, or two sources.
        FactError: a record cannot be used.
    """
    given = {"--prompt": prompt, "--subject": subject, "--target": target}
    if path is not None:
        if any(value is not None for value in (*given.values(), truth)):
            raise ConfigError(
                "Facts are given both in a file and on the command line.",
                remedy="Give one of the two.",
            )
        facts = load_facts(path)
        rows = [record for _, record in read_records(path)]
        return Source(facts, {i: r for i, r in enumerate(rows) if "requested_rewrite" in r})
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            "No facts are given." if len(missing) == 3 else f"{' and '.join(missing)} missing.",
            remedy="Give a file of facts, or --prompt, --subject and --target.",
        )
    fact = Fact(str(prompt), str(subject), str(target), truth=truth)
    return Source(check_facts([fact], ["command line"]), {})


def in_chat(source: Source, handle: ModelHandle) -> Source:
    """The same facts asked in a conversation."""
    from alphaedit.model.chat import in_chat as asked

    return Source([asked(handle.tokenizer, fact) for fact in source.facts], {})


def records_of(source: Source, before: Sequence[Answer]) -> list[EditRecord]:
    """Records that measure the facts of `source`.

    A fact without an old object is measured against what the model said before; one without
    generation prompts, by its own prompt and paraphrases.
    """
    from alphaedit.bench.data import EditRecord

    records = []
    for index, (fact, answer) in enumerate(zip(source.facts, before, strict=True)):
        if index in source.rows:
            records.append(EditRecord.from_dict(source.rows[index], f"record {index + 1}"))
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
