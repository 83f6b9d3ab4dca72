"""AnyEdit: long targets, chunk by chunk (Jiang et al., 2025), solved as AlphaEdit solves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from pydantic import Field

from alphaedit.core.fact import SLOT, Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.locate_then_edit import LocateThenEdit


class InChunks(Hyperparameters):
    """Settings of long targets in chunks."""

    chunk_words: int = Field(8, ge=1, description="words of a chunk of a long target")


def chunks_of(fact: Fact, words: int) -> list[Fact]:
    """One fact for each chunk of the target, in order.

    The first is the fact itself with its target cut. Each of the others continues a text that
    holds all chunks before; its key is that of the text's last token.
    """
    parts = fact.target.split(" ")
    chunks = [" ".join(parts[i : i + words]) for i in range(0, len(parts), words)]
    facts = [replace(fact, target=chunks[0])]
    text = fact.text
    for said, chunk in pairwise(chunks):
        text = f"{text} {said}".rstrip()
        last = text.split()[-1]
        prompt = text[: len(text) - len(last)].replace(SLOT, "") + SLOT
        facts.append(Fact(prompt, last, chunk))
    return facts


def expand(problem: Problem[InChunks]) -> Sequence[Fact]:
    """The chunks of all facts."""
    words = problem.hyperparameters.chunk_words
    return [chunk for fact in problem.facts for chunk in chunks_of(fact, words)]


METHOD = LocateThenEdit(
    name="anyedit",
    title="AnyEdit",
    paper="https://arxiv.org/abs/2502.05628",
    summary="Targets of any length and format: one key-value pair for each chunk, in one system.",
    null_space=True,
    history=True,
    ridge=True,
    expand=expand,
    config=InChunks,
)
