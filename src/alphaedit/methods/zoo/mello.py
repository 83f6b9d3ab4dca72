"""MeLLo: questions of several hops, each hop checked against the edits (Zhong et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from alphaedit.core.change import Change
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution
from alphaedit.methods.steps.hops import Hop, answer_in_hops, question_of, told
from alphaedit.methods.steps.lookup import Lookup
from alphaedit.methods.steps.notes import (
    Note,
    NoteSettings,
    Written,
    fitting,
    install_notes,
    options_of,
    remembered,
    suggest,
)
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import plain

TOKENS = 48
"""Of a subquestion with its answer."""


class MelloSettings(NoteSettings):
    """Settings of a memory that is asked hop by hop."""

    hops: int = Field(4, ge=1, description="most subquestions of a question")
    judge: Literal["model", "words"] = Field(
        "model",
        description="who says whether a statement counts: the model, or its words: it counts "
        "unless the model's own answer has its object",
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Put the hops of a question in front of it, if one of them has its answer from an edit."""
    lookup, options = Lookup(handle, changes), options_of(changes)

    def go_on(asked: Sequence[Sequence[str]]) -> list[str]:
        texts = [fitting(handle, ways[-1], iter(ways), TOKENS) for ways in asked]
        with plain():
            return generate(handle, texts, TOKENS)

    def retrieve(questions: Sequence[str]) -> list[Note | None]:
        return [notes[0] if notes else None for notes in lookup.find(questions, 1)]

    def find(asked: Sequence[str]) -> list[list[Hop]]:
        questions = [question_of(prompt) for prompt in asked]
        each = list(dict.fromkeys(questions))
        hops = answer_in_hops(each, go_on, retrieve, most=options["hops"], judge=options["judge"])
        # Where no edit bears on a question, the model answers it as it always did.
        by_question = {
            question: of_one if any(hop.note for hop in of_one) else []
            for question, of_one in zip(each, hops, strict=True)
        }
        return [by_question[question] for question in questions]

    def write(question: str, hops: Sequence[Hop], chat: bool) -> Iterator[Written]:
        statements = list(told(hops))
        for first in range(len(statements)):
            yield Written("".join(f"{statement}\n" for statement in statements[first:]), question)

    return install_notes(handle, find, write, options["place"])


@dataclass(frozen=True)
class Mello(Method):
    """Statements are kept, and looked up for each subquestion that the model itself writes."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return NO_WEIGHTS

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer and the distance that part paraphrases from neighbors best."""
        return suggest(handle, over)

    def solve(self, problem: Problem[MelloSettings]) -> Solution:
        """See Method."""
        hp = problem.hyperparameters
        return remembered(
            problem, "mello", hp.found_by, hp.model_dump(include={"place", "hops", "judge"})
        )


METHOD = Mello(
    name="mello",
    title="MeLLo",
    paper="https://arxiv.org/abs/2305.14795",
    summary="A question is taken apart by the model, and each hop is checked against the edits.",
    config=MelloSettings,
    installs={"mello": install},
)
