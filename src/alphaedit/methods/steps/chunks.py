"""Long targets, chunk by chunk: a key and a value for each, in one system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Literal

from pydantic import Field

from alphaedit.core.fact import SLOT, Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.parts import Part
from alphaedit.methods.steps.surprise import at_peaks, word_surprise, words_of


class InChunks(Hyperparameters):
    """Settings of long targets in chunks."""

    chunks: Literal["words", "surprise"] = Field(
        "words",
        description="chunks of chunk_words each, or of half to twice as many that begin at the "
        "words which surprise the unedited model most (AnyEdit++)",
    )
    chunk_words: int = Field(8, ge=1, description="words of a chunk of a long target")
    nested: bool = Field(
        False,
        description="a chunk's value is searched for that chunk and, with falling weight, for all "
        "behind it (μKE)",
    )


def chunks_of(fact: Fact, lengths: Sequence[int], *, nested: bool) -> list[Fact]:
    """One fact for each chunk of the target, in order.

    The first is the fact itself with its target cut. Each of the others continues a text that
    holds all chunks before; its key is that of the text's last token.

    Args:
        fact: a fact with a long target.
        lengths: words of each chunk.
        nested: the target of each goes on to the end, a chunk k behind its own of n that are left
            with the weight (n - k) / n (Su et al. 2025, equation of the Matryoshka objective).
    """
    words, ends = words_of(fact.target), [0, *accumulate(lengths)]
    chunks = [" ".join(words[a:b]) for a, b in pairwise(ends)]
    text, parts = fact.text, list[Fact]()
    for i, chunk in enumerate(chunks):
        rest = chunks[i:] if nested else [chunk]
        prompt, subject = fact.prompt, fact.subject
        if i:
            subject = text.split()[-1]
            prompt = text[: len(text) - len(subject)].replace(SLOT, "") + SLOT
        part = Part(prompt, subject, " ".join(rest), last=i + len(rest) == len(chunks))
        if nested:
            last = tuple(n - 1 for n in accumulate(len(piece) + 1 for piece in rest))
            weights = tuple((len(rest) - k) / len(rest) for k in range(len(rest)))
            part = replace(part, windows=last, weights=weights)
        parts.append(part)
        text = f"{text} {chunk}".rstrip()
    return parts


def expand(problem: Problem[InChunks]) -> Sequence[Fact]:
    """The chunks of all facts."""
    hp = problem.hyperparameters
    expanded: list[Fact] = []
    for fact in problem.facts:
        count = len(words_of(fact.target))
        if hp.chunks == "surprise" and count > hp.chunk_words:
            lengths = at_peaks(word_surprise(problem.handle, fact), hp.chunk_words)
        else:
            lengths = [min(hp.chunk_words, count - at) for at in range(0, count, hp.chunk_words)]
        expanded += chunks_of(fact, lengths, nested=hp.nested)
    return expanded
