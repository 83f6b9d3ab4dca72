"""IKE: edits as text in the context, with demonstrations (Zheng et al., EMNLP 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from alphaedit.core.change import Change
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution
from alphaedit.methods.config import tuned
from alphaedit.methods.steps.demonstrations import SHOWN, check_pool, pool
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


class IkeSettings(NoteSettings):
    """Settings of a memory with demonstrations."""

    demonstrations: int = Field(
        8,
        ge=0,
        description="edits of other facts that are shown before, the nearest last",
        json_schema_extra=tuned(2.0),
    )
    pool: str = Field(
        "package",
        min_length=1,
        description='where they come from: "package" (well-known facts, or the bundled world\'s '
        'for its models), "memory" (the other edits), or a file of facts',
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Put the statement nearest to a prompt in front of it, if there is one in its scope."""
    lookup, options = Lookup(handle, changes), options_of(changes)
    count = options["demonstrations"]
    shown = pool(handle, options["pool"], lookup.notes) if count else None

    def write(question: str, notes: Sequence[Note], chat: bool) -> Iterator[Written]:
        note = notes[0]
        fact = SHOWN.format(note.statement, "")
        before = shown.before(note, question, count) if shown else []
        # The farthest go first where there is no room.
        for first in range(len(before) + 1):
            yield Written("".join([*before[first:], fact]), question)

    def find(asked: Sequence[str]) -> list[list[Note]]:
        return lookup.find(asked, 1)

    return install_notes(handle, find, write, options["place"])


@dataclass(frozen=True)
class Ike(Method):
    """Statements are kept with the keys of their prompts, and found by what a prompt names."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return NO_WEIGHTS

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer and the distance that part paraphrases from neighbors best."""
        return suggest(handle, over)

    def solve(self, problem: Problem[IkeSettings]) -> Solution:
        """See Method."""
        hp = problem.hyperparameters
        source = check_pool(hp.pool) if hp.demonstrations else "package"
        options = {"place": hp.place, "demonstrations": hp.demonstrations, "pool": source}
        return remembered(problem, "ike", hp.found_by, options)


METHOD = Ike(
    name="ike",
    title="IKE",
    paper="https://arxiv.org/abs/2305.12740",
    summary="Statements in a memory, put in front of prompts behind edits that show what to do.",
    config=IkeSettings,
    installs={"ike": install},
)
