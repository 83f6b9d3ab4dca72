"""RAG: the statements nearest to a prompt stand in front of it, and nothing else is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from alphaedit.core.change import Change
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution
from alphaedit.methods.steps.lookup import Lookup
from alphaedit.methods.steps.notes import (
    Note,
    NoteSettings,
    Written,
    install_notes,
    options_of,
    remembered,
    suggest,
)
from alphaedit.model.handle import ModelHandle

NOTES, PROMPT = "{notes}", "{prompt}"


class RagSettings(NoteSettings):
    """Settings of retrieval."""

    count: int = Field(1, ge=1, description="most statements in front of a prompt, nearest last")
    template: str = Field(
        "New Fact: {notes}\nPrompt: {prompt}",
        description="what a text is put into; it must end with {prompt}",
    )
    chat_template: str = Field(
        "Answer by these facts, even if you know otherwise:\n{notes}\n\n{prompt}",
        description="what a user's turn is put into; as a system message what is before {prompt}",
    )

    @model_validator(mode="after")
    def _places(self) -> Self:
        for name in ("template", "chat_template"):
            text = getattr(self, name)
            if text.count(NOTES) != 1 or text.count(PROMPT) != 1:
                raise ValueError(f"{name} needs {NOTES} and {PROMPT}, each once")
            if text.index(NOTES) > text.index(PROMPT):
                raise ValueError(f"{name} must have {NOTES} before {PROMPT}")
        if not self.template.endswith(PROMPT):
            raise ValueError(f"template must end with {PROMPT}: a text goes on from there")
        return self


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Put the nearest statements in the scope of a prompt in front of it."""
    lookup, options = Lookup(handle, changes), options_of(changes)

    def write(question: str, notes: Sequence[Note], chat: bool) -> Iterator[Written]:
        before, after = options["chat_template" if chat else "template"].split(PROMPT)
        # The farthest go first where there is no room.
        for count in range(len(notes), 0, -1):
            told = "\n".join(f"{note.statement}." for note in notes[count - 1 :: -1])
            yield Written(before.replace(NOTES, told), f"{question}{after}")

    def find(asked: Sequence[str]) -> list[list[Note]]:
        return lookup.find(asked, options["count"])

    return install_notes(handle, find, write, options["place"])


@dataclass(frozen=True)
class Rag(Method):
    """Statements are kept with the keys of their prompts, and found by what a prompt names."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return NO_WEIGHTS

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer and the distance that part paraphrases from neighbors best."""
        return suggest(handle, over)

    def solve(self, problem: Problem[RagSettings]) -> Solution:
        """See Method."""
        hp = problem.hyperparameters
        options = hp.model_dump(include={"place", "count", "template", "chat_template"})
        return remembered(problem, "rag", hp.found_by, options)


METHOD = Rag(
    name="rag",
    title="RAG",
    paper="https://arxiv.org/abs/2005.11401",
    summary="The statements nearest to a prompt are put in front of it: retrieval, as practised.",
    config=RagSettings,
    installs={"rag": install},
)
