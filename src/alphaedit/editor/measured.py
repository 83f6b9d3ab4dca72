"""Whether facts hold in a model now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alphaedit.core.edit import Answer
from alphaedit.core.fact import Fact
from alphaedit.core.fact_text import says
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder
from alphaedit.model.scoring import score

__all__ = ["ANSWER_TOKENS", "Asked", "ask_facts", "says"]

ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Asked:
    """A fact, and what the model says to its prompt.

    Attributes:
        fact: the fact.
        answer: what it says.
        holds: whether that begins with the new object.
    """

    fact: Fact
    answer: Answer
    holds: bool


def ask_facts(
    responder: ModelHandle | Responder, facts: Sequence[Fact], *, to_end: bool = True
) -> list[Asked]:
    """Ask for facts, without editing.

    Args:
        responder: who is asked.
        facts: the facts.
        to_end: let the model go on as long as the longest object; else `ANSWER_TOKENS`, and whether
            a longer object is said is known from the one pass that scores it: greedy decoding says
            it if each of its tokens is the most likely one.

    Raises:
        ModelError: a prompt with its object is longer than the model reads.
    """
    if not facts:
        return []
    pairs = [(fact.text, fact.target) for fact in facts]
    known = [(i, (fact.text, fact.truth)) for i, fact in enumerate(facts) if fact.truth]
    scores = score(responder, pairs + [pair for _, pair in known])
    truth = {i: s.p for (i, _), s in zip(known, scores[len(facts) :], strict=True)}
    longest = max(s.tokens for s in scores[: len(facts)])
    length = max(ANSWER_TOKENS, longest + 2) if to_end else ANSWER_TOKENS
    texts = generate(responder, [fact.text for fact in facts], length)
    asked = []
    for i, (fact, text) in enumerate(zip(facts, texts, strict=True)):
        holds = says(text, fact.target) or (scores[i].exact and scores[i].tokens >= length)
        asked.append(Asked(fact, Answer(text, scores[i].p, truth.get(i)), holds))
    return asked
