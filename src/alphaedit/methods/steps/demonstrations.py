"""Edits that are shown to a model before it is asked, so that it sees what a note changes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from alphaedit.core.errors import ConfigError, FactError
from alphaedit.core.fact import Fact, load_facts
from alphaedit.methods.steps.encoder import pieces
from alphaedit.methods.steps.notes import Note
from alphaedit.methods.steps.subjects import Subjects
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.phrasings import well_known
from alphaedit.world.facts import World
from alphaedit.world.records import records

POOL = 64
"""Most demonstrations that are kept with an edit, or made of the bundled world."""
KINDS = ("retain", "update", "retain", "update", "retain", "copy", "update", "retain")
"""Of the nearest demonstrations: one copy to three updates to four that retain, as published."""
SHOWN = "New Fact: {}.\nPrompt: {}"


@dataclass(frozen=True)
class Example:
    """An edit to be shown: its fact, another way to ask it, and a neighbor with its own answer."""

    subject: str
    prompt: str
    target: str
    paraphrase: str | None = None
    neighbor: str | None = None
    neighbor_answer: str | None = None

    def shown(self, kind: str) -> str:
        """As it stands before a question, as one of `KINDS` or the nearest to it that it has."""
        asked, answer = self.prompt, self.target
        if kind == "retain" and self.neighbor and self.neighbor_answer:
            asked, answer = self.neighbor, self.neighbor_answer
        elif kind != "copy" and self.paraphrase:
            asked = self.paraphrase
        return SHOWN.format(f"{self.prompt} {self.target}", f"{asked} {answer}.\n\n")


def of_package(handle: ModelHandle) -> list[Example]:
    """Well-known facts with another object, or facts of the bundled world for its models."""
    rng = random.Random(0)
    if handle.is_bundled:
        rows = records(World.load(), POOL, seed=0)
        return [_of_record(row, rng) for row in rows]
    examples = []
    for relation in well_known():
        objects = list(dict.fromkeys(relation["pairs"].values()))
        for subject, truth in relation["pairs"].items():
            near = rng.choice([other for other in relation["pairs"] if other != subject])
            examples.append(
                Example(
                    subject,
                    relation["prompt"].format(subject),
                    rng.choice([thing for thing in objects if thing != truth]),
                    rng.choice(relation["paraphrases"]).format(subject),
                    relation["prompt"].format(near),
                    relation["pairs"][near],
                )
            )
    return examples


def _of_record(row: Mapping[str, Any], rng: random.Random) -> Example:
    rewrite = row["requested_rewrite"]
    near = row["neighborhood_prompts"]
    return Example(
        rewrite["subject"],
        rewrite["prompt"].format(rewrite["subject"]),
        rewrite["target_new"]["str"],
        rng.choice(row["paraphrase_prompts"]) if row["paraphrase_prompts"] else None,
        rng.choice(near) if near else None,
        rewrite["target_true"]["str"],
    )


def of_file(path: str | Path) -> list[dict[str, Any]]:
    """Demonstrations out of a file of facts, as JSON values that an edit keeps.

    A fact's neighbors are taken to have its old object (`truth`), as CounterFact's have.

    Raises:
        ConfigError: the file cannot be read as facts, or holds none.
    """
    try:
        facts = load_facts(path)
    except (FactError, OSError) as error:
        raise ConfigError(
            f"Demonstrations cannot be read from {str(path)!r}: {error}",
            remedy="Give a file of facts, 'package' or 'memory'.",
        ) from error
    return [_plain(fact) for fact in facts[:POOL]]


def _plain(fact: Fact) -> dict[str, Any]:
    near = fact.neighborhood[0] if fact.neighborhood and fact.truth else None
    other = fact.paraphrases[0] if fact.paraphrases else None
    example = Example(
        fact.subject, fact.text, fact.target, other, near, fact.truth if near else None
    )
    return asdict(example)


def of_notes(notes: Sequence[Note]) -> list[Example]:
    """The other facts of a memory; they can only be copied."""
    return [Example(note.subject, note.prompt, note.target) for note in notes]


class Demonstrations:
    """Examples by how near their prompts are to a fact's, in pieces of words."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = list(examples)
        self._keys: Tensor | None = None

    def before(self, note: Note, question: str, count: int) -> list[str]:
        """The nearest to a note as they are shown, the nearest last.

        None that is about the note's own subject, or about one that the question names: what is
        shown of it would be an answer.
        """
        if not count or not self._examples:
            return []
        if self._keys is None:
            self._keys = pieces([example.prompt for example in self._examples])
        near = (self._keys @ pieces([note.prompt])[0]).sort(descending=True, stable=True).indices
        asked = f"{question}\n{note.subject}"
        chosen = list(_others(self._examples, near, asked, count))
        kinds = (KINDS[i % len(KINDS)] for i in range(len(chosen)))
        return [example.shown(kind) for example, kind in zip(chosen, kinds, strict=True)][::-1]


def _others(
    examples: Sequence[Example], order: Tensor, asked: str, count: int
) -> Iterator[Example]:
    for number in order.tolist():
        example = examples[number]
        mentioned = Subjects([example.subject]).named_in(asked)
        if mentioned or (example.neighbor and example.neighbor in asked):
            continue
        yield example
        count -= 1
        if not count:
            return


def pool(
    handle: ModelHandle, source: str | Sequence[Mapping[str, Any]], notes: Sequence[Note]
) -> Demonstrations:
    """Demonstrations of a memory, from what its edits say of them."""
    if not isinstance(source, str):
        return Demonstrations([Example(**row) for row in source])
    return Demonstrations(of_package(handle) if source == "package" else of_notes(notes))


def check_pool(name: str) -> str | list[dict[str, Any]]:
    """What an edit keeps of its demonstrations; see `of_file`."""
    return name if name in ("package", "memory") else of_file(name)
