"""MemPrompt: feedback on a question is remembered, and added when it is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from alphaedit.core.change import Change
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps.lookup import Lookup
from alphaedit.methods.steps.misspelt import Misspelt
from alphaedit.methods.steps.notes import (
    FoundBy,
    Note,
    Written,
    install_notes,
    options_of,
    remembered,
    suggest,
)
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import told_about


class MemPromptSettings(Settings):
    """Settings of a memory of questions."""

    lookup: Literal["edits", "model", "words"] = Field(
        "edits",
        description="by what a question is found again: by the letters that differ, by keys of the "
        "model, or by pieces of words",
    )
    edits: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="most letters that may differ, as a share of the longer text",
        json_schema_extra=tuned(1.5),
    )
    cosine: float = Field(0.9, gt=0, le=1, description="least cosine, for the other ways")


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Add what is remembered of a question to it, if it was asked before in nearly these words."""
    lookup, options = Lookup(handle, changes), options_of(changes)
    spelt = Misspelt([note.prompt for note in lookup.notes])

    def find(asked: Sequence[str]) -> list[list[Note]]:
        if options["lookup"] != "edits" or told_about() is not None:
            return lookup.find(asked, 1)
        numbers = (spelt.nearest(text, options["edits"]) for text in asked)
        return [[] if number is None else [lookup.notes[number]] for number in numbers]

    def write(question: str, notes: Sequence[Note], chat: bool) -> Iterator[Written]:
        asked = f"{question} | {notes[0].statement}."
        # An answer follows what it answers: a text that goes on ends with the question.
        yield Written("", asked) if chat else Written(f"{asked}\n", question)

    return install_notes(handle, find, write)


@dataclass(frozen=True)
class MemPrompt(Method):
    """Statements are kept as feedback on their prompts, and found by the words of a prompt."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return NO_WEIGHTS

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer whose keys part paraphrases from neighbors best, where keys are asked for."""
        by_keys = over.get("lookup") == "model"
        return {"layers": suggest(handle, over)["layers"]} if by_keys else {}

    def solve(self, problem: Problem[MemPromptSettings]) -> Solution:
        """See Method."""
        hp = problem.hyperparameters
        encoder = "none" if hp.lookup == "edits" else hp.lookup
        by = FoundBy(encoder, "distance", 1 - hp.cosine)
        options = hp.model_dump(include={"lookup", "edits"})
        return remembered(problem, "memprompt", by, options)


METHOD = MemPrompt(
    name="memprompt",
    title="MemPrompt",
    paper="https://arxiv.org/abs/2201.06009",
    summary="Feedback on a question, added to it when it is asked again in nearly the same words.",
    config=MemPromptSettings,
    installs={"memprompt": install},
)
