"""Prompts of the stricter probes, made of any record's own texts."""

from __future__ import annotations

import re

from alphaedit.bench.data import EditRecord

AUXILIARIES = "is|are|was|were|has|have|had|can|could|will|would|does|do|did|must|may"
_AUXILIARY = re.compile(rf"(?<!\w)(?:{AUXILIARIES})(?!\w)", re.IGNORECASE)
_LAST_SENTENCE = re.compile(r".*[.?!\n]\s+", re.DOTALL)
_ASKS = re.compile(r"(?:\?|Answer:|A:)\s*$", re.IGNORECASE)
LETTERS = ("A", "B", "C")
UNSURE = "I am not sure"


def negated(prompt: str, subject: str) -> str:
    """A prompt whose continuation is what does NOT hold.

    - After a question ("...?", "... Answer:") stands " not".
    - Else "not" stands behind the last auxiliary verb of the last sentence, outside the subject:
      "The capital of France is" becomes "The capital of France is not".
    - Without such a verb the last sentence is put after "It is not true that".

    Args:
        prompt: the text, with its subject.
        subject: which is left as it is, whatever words are in it.
    """
    text = prompt.rstrip()
    if _ASKS.search(text):
        return f"{text} not"
    begin = match.end() if (match := _LAST_SENTENCE.match(text)) else 0
    at = text.rfind(subject)
    inside = range(at, at + len(subject)) if at >= 0 else range(0)
    verbs = [v for v in _AUXILIARY.finditer(text, begin) if v.start() not in inside]
    if verbs:
        end = verbs[-1].end()
        return f"{text[:end]} not{text[end:]}"
    sentence = text[begin:]
    if not sentence.startswith(subject):
        sentence = sentence[:1].lower() + sentence[1:]
    return f"{text[:begin]}It is not true that {sentence}"


def statement(record: EditRecord, answer: str) -> str:
    """The rewrite prompt with an answer, as a sentence of its own."""
    return f"{record.rewrite.rstrip()} {answer.strip().rstrip('.')}."


def judged(record: EditRecord, answer: str) -> str:
    """A statement, and the question whether it is true or false."""
    return (
        f"Statement: {statement(record, answer)}\nQuestion: Is the statement true or false? Answer:"
    )


def choice(record: EditRecord, options: tuple[str, ...]) -> str:
    """The rewrite prompt as a question with lettered answers, up to the letter."""
    lines = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))
    return f"Which is right?\n{record.rewrite.rstrip()} ...\n{lines}\nAnswer:"
