"""Whether facts hold in a model now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alphaedit.core.edit import Answer
from alphaedit.core.fact import Fact, canonical
from alphaedit.editor.session import ANSWER_TOKENS, Editor
from alphaedit.model.generate import generate
from alphaedit.model.scoring import score


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


def ask_facts(editor: Editor, facts: Sequence[Fact]) -> list[Asked]:
    """Ask for facts, without editing; long objects are read to their end."""
    if not facts:
        return []
    handle = editor.handle
    longest = max(len(handle.tokens.encode_continuation(f.text, f.target)[1]) for f in facts)
    texts = generate(handle, [f.text for f in facts], max(ANSWER_TOKENS, longest + 2))
    scores = score(handle, [(f.text, f.target) for f in facts])
    return [
        Asked(fact, Answer(text, s.p), says(text, fact.target))
        for fact, text, s in zip(facts, texts, scores, strict=True)
    ]


def says(text: str, target: str) -> bool:
    """Whether a continuation begins with `target`, as a whole word."""
    said, wanted = canonical(text), canonical(target)
    rest = said[len(wanted) :]
    return said.startswith(wanted) and not (wanted[-1:].isalnum() and rest[:1].isalnum())
