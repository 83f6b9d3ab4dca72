"""What methods that write notes in front of prompts have in common: keep, look up, write, fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from alphaedit.core.change import Change, MemoryChange
from alphaedit.core.errors import ConfigError, EditFileError, ModelError
from alphaedit.core.fact import Fact
from alphaedit.core.fact_text import short
from alphaedit.core.patch import Patch
from alphaedit.methods.base import Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps.encoder import best_encoder, cosine_distance, embed, mean_key, pieces
from alphaedit.methods.timer import Timer
from alphaedit.model.chat import Turn, templated, users_turn
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.phrasings import border, phrasings, texts_of

MEAN = "mean key/"
ROOM = 32
"""Tokens that notes leave for an answer; in short contexts a quarter."""


class NoteSettings(Settings):
    """Settings of a memory of statements."""

    scope: Literal["subject", "distance", "always"] = Field(
        "subject",
        description="what a statement is put in front of: prompts that name its subject, all that "
        "are near to its prompt, or simply all",
    )
    distance: float | None = Field(
        None,
        gt=0,
        description="largest cosine distance, for that scope; by default measured",
        json_schema_extra=tuned(1.25),
    )
    encoder: Literal["model", "words"] = Field(
        "model",
        description="what distances are of: keys of the model, or pieces of words",
    )
    place: Literal["user", "system"] = Field(
        "user",
        description="where notes stand in a conversation: in the user's turn, or as a system "
        "message in place of the template's own",
    )

    @property
    def found_by(self) -> FoundBy:
        """By what their statements are found."""
        return FoundBy(self.encoder, self.scope, self.distance)


@dataclass(frozen=True)
class Note:
    """A statement of a memory: what is asked, without a chat template, and the new answer."""

    subject: str
    prompt: str
    target: str

    @classmethod
    def of(cls, fact: Fact, turn: Turn | None) -> Self:
        """A fact's statement, as a user would say it; `turn` is what may stand around that."""
        text = turn.said_in(fact.text) if turn else None
        return cls(fact.subject, fact.text if text is None else text.rstrip(), fact.target)

    @classmethod
    def read(cls, text: str) -> Self:
        """A note as it stands in a change.

        Raises:
            EditFileError: it is none.
        """
        try:
            fields = json.loads(text)
            note = cls(**fields)
        except (ValueError, TypeError):
            note = None
        if note is None or not all(isinstance(part, str) for part in fields.values()):
            raise EditFileError(
                f"A memory holds {short(text)}, which is no note.",
                remedy="Make the edit again with this version, or take it from a backup.",
            )
        return note

    @property
    def text(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def statement(self) -> str:
        """As it is told."""
        return f"{self.prompt} {self.target}"


def suggest(handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
    """The layer (of encoders that have one) and the distance that part paraphrases from neighbors.

    Raises:
        ConfigError: see `check_encoder`.
    """
    if over.get("encoder") == "words":
        asked = phrasings(handle)
        limit = border(asked, pieces(texts_of(asked)), cosine_distance)
        return {"distance": limit.distance}
    check_encoder(handle)
    layer, limit = best_encoder(handle, over.get("layers"))
    return {"layers": (layer,), "distance": limit.distance}


def check_encoder(handle: ModelHandle) -> None:
    """Refuse a model that cannot be its own encoder.

    Raises:
        ConfigError: its weights are split, so that no process sees whole keys.
    """
    if handle.sharded:
        raise ConfigError(
            "The model's weights are split over processes, and none sees the keys by which "
            "statements are looked up.",
            remedy="Look up by words (encoder=words), or load the model on one device.",
        )


@dataclass(frozen=True)
class FoundBy:
    """By what notes are found again.

    Attributes:
        encoder: what their keys are of: "model", "words", or "none".
        scope: "subject", "distance" or "always", see `NoteSettings`.
        distance: largest cosine distance, for the scope of that name.
    """

    encoder: str
    scope: str
    distance: float | None


def remembered(
    problem: Problem[Any], name: str, by: FoundBy, options: Mapping[str, Any]
) -> Solution:
    """A memory of the problem's facts, with what they are found by.

    Args:
        problem: whose facts.
        name: of the change.
        by: what they are found by.
        options: what else the change says.

    Raises:
        ConfigError: several layers, or an encoder that cannot be.
        ModelError: notes are to be a system message, and there is no chat template that has one.
    """
    handle, timer = problem.handle, Timer()
    if options.get("place") == "system":
        templated(handle.tokenizer, "What is asked", system="What is known")
    given = problem.hyperparameters.layers
    layer = one_layer(problem, name) if given or by.encoder == "model" else None
    turn = users_turn(handle.tokenizer)
    notes = [Note.of(fact, turn) for fact in problem.facts]
    with timer.phase("keys"):
        rows, shared, memory = _keys(problem, [note.prompt for note in notes], by.encoder, layer)
    change = MemoryChange(
        name,
        torch.arange(len(notes)),
        rows,
        shared,
        tuple(note.text for note in notes),
        {"layer": layer if shared else None, **asdict(by), **options},
    )
    state = replace(problem.state, edits=problem.state.edits + len(notes), memory=memory)
    return Solution(Patch(changes=(change,)), state, timer.seconds)


def _keys(
    problem: Problem[Any], asked: Sequence[str], encoder: str, layer: int | None
) -> tuple[dict[str, Tensor], dict[str, Tensor], Mapping[str, Tensor]]:
    """Keys [n, d] of prompts, the mean that was taken from them, and what the next batch is told.

    The mean is measured for the first edit of a run, and stays.
    """
    memory = problem.state.memory
    if encoder == "words":
        return {"key": pieces(asked)}, {}, memory
    if encoder == "none" or layer is None:
        return {}, {}, memory
    check_encoder(problem.handle)
    name = f"{MEAN}{layer}"
    mean = memory[name] if name in memory else mean_key(problem.handle, layer)
    keys = embed(problem.handle, asked, layer) - mean
    return {"key": keys}, {"mean": mean}, {**memory, name: mean}


@dataclass(frozen=True)
class Written:
    """A prompt with its notes: what stands before the question, and the question.

    In the user's turn they are one text, question last; as a system message the former is alone.
    """

    notes: str
    question: str


Kept = TypeVar("Kept")
"""What a method finds for a prompt: notes, or more; false where there is nothing."""
Find = Callable[[Sequence[str]], Sequence[Kept]]
"""From what is asked, what there is for each."""
Write = Callable[[str, Kept, bool], Iterator[Written]]
"""From what is asked, what there is for it, and whether in a conversation: ways to write it, the
longest first."""


def install_notes(
    handle: ModelHandle, find: Find[Kept], write: Write[Kept], place: str = "user"
) -> Callable[[], None]:
    """Put what `find` finds for prompts in front of them, as `write` has it; undone by the result.

    A prompt that a chat template wrote is looked up by what the user says in it, and notes stand
    inside the conversation. A prompt for which there is nothing stays as it is, to the bit.
    """

    def render(prompts: Sequence[str]) -> list[str]:
        turn = users_turn(handle.tokenizer)
        turns = [turn.said_in(prompt) if turn else None for prompt in prompts]
        asked = [
            p if user_text is None else user_text
            for p, user_text in zip(prompts, turns, strict=True)
        ]
        out = []
        for prompt, user_text, question, known in zip(
            prompts, turns, asked, find(asked), strict=True
        ):
            if known:
                inside = turn if user_text is not None else None
                ways = write(question, known, inside is not None)
                texts = (_placed(handle, way, inside, place) for way in ways)
                out.append(fitting(handle, prompt, texts))
            else:
                out.append(prompt)
        return out

    handle.memories.append(render)
    return lambda: handle.memories.remove(render)


def _placed(handle: ModelHandle, way: Written, turn: Turn | None, place: str) -> str:
    """A prompt with its notes, inside a conversation if it is one."""
    if turn is None:
        return f"{way.notes}{way.question}"
    if place == "system":
        return templated(handle.tokenizer, way.question, system=way.notes.strip())
    return turn.around(f"{way.notes}{way.question}")


def fitting(handle: ModelHandle, prompt: str, texts: Iterator[str], room: int = ROOM) -> str:
    """The first of `texts` that leaves room for an answer, or the last if it leaves any.

    Args:
        handle: whose context it is.
        prompt: what is asked, for messages.
        texts: ways to write it with notes, the longest first.
        room: tokens of an answer; in short contexts a quarter, if that is less.

    Raises:
        ModelError: not even the last is shorter than what the model reads.
    """
    limit = handle.max_positions
    text, length = "", 0
    for text in texts:
        if limit is None:
            return text
        length = len(handle.tokens.encode(text))
        if length <= limit - min(room, limit // 4):
            return text
    if limit is not None and length >= limit:
        raise ModelError(
            f"With its note a prompt has {length:,} tokens, and the model reads {limit:,} in all: "
            f"{short(prompt)}.",
            remedy="Shorten the prompt, or revert the edit that it is about.",
        )
    return text


def options_of(changes: Sequence[Change]) -> Mapping[str, Any]:
    """How a memory is written: what the latest edit says."""
    return changes[-1].options
