"""Prompts as a user's turn of a conversation, by the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alphaedit.core.errors import ModelError
from alphaedit.core.fact import SLOT, Fact
from alphaedit.model.told import told

_CHAT = "Leave chat mode out, or take an instruct model with its own tokenizer."


@dataclass(frozen=True)
class Turn:
    """What a chat template writes around a user's only turn."""

    before: str
    after: str

    def said_in(self, text: str) -> str | None:
        """What the user says in a text that the template wrote; None if it did not write it."""
        room = len(text) - len(self.before) - len(self.after)
        fits = room > 0 and text.startswith(self.before) and text.endswith(self.after)
        return text[len(self.before) :][:room] if fits else None

    def around(self, content: str) -> str:
        """The text in which a user says `content`."""
        return f"{self.before}{content}{self.after}"


_MARK = "What is asked"


def users_turn(tokenizer: Any) -> Turn | None:
    """What the tokenizer's chat template writes around a user's turn.

    None if it has no template, or one that writes nothing around a turn, or what is said twice: a
    conversation cannot be told from other texts then.

    Raises:
        ModelError: the template fails.
    """
    if not getattr(tokenizer, "chat_template", None):
        return None
    parts = templated(tokenizer, _MARK).split(_MARK)
    return Turn(*parts) if len(parts) == 2 and any(parts) else None


def templated(tokenizer: Any, prompt: str, *, system: str | None = None) -> str:
    """The conversation in which a user has said `prompt` and the assistant is about to answer.

    Args:
        tokenizer: whose template it is.
        prompt: what the user says.
        system: a system message before it, in place of the template's own.

    Raises:
        ModelError: see `conversation`.
    """
    turns = [{"role": "user", "content": prompt}]
    if system is not None:
        turns.insert(0, {"role": "system", "content": system})
    return conversation(tokenizer, turns)


def conversation(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> str:
    """A conversation in which the assistant is about to answer.

    BOS is left out where the tokenizer puts it in front of any text itself.

    Args:
        tokenizer: whose template it is.
        turns: each with a `role` ("system", "user", "assistant") and its `content`.

    Raises:
        ModelError: the tokenizer has no chat template, or one that fails or leaves out what a user
            says or a system message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "The model's tokenizer has no chat template.",
            remedy=_CHAT,
        )
    with told("The model's chat template", _CHAT):
        text = tokenizer.apply_chat_template(
            [dict(turn) for turn in turns], tokenize=False, add_generation_prompt=True
        )
        adds = tokenizer("a", add_special_tokens=True)["input_ids"]
    by_role = {
        role: [turn["content"].strip() for turn in turns if turn["role"] == role]
        for role in ("user", "system")
    }
    if not isinstance(text, str) or any(content not in text for content in by_role["user"]):
        raise ModelError(
            "The model's chat template changes what the user says.",
            remedy="Leave chat mode out, and write prompts as the model wants them.",
        )
    if any(content not in text for content in by_role["system"]):
        raise ModelError(
            "The model's chat template leaves the system message out.",
            remedy="Put it into the user's turn.",
        )
    bos = getattr(tokenizer, "bos_token", None)
    if bos and adds and adds[0] == tokenizer.bos_token_id:
        return text.removeprefix(bos)
    return text


def in_chat(tokenizer: Any, fact: Fact) -> Fact:
    """`fact` asked in a conversation: prompts are the user's turn, the target begins the answer.

    Raises:
        SubjectError: the subject is missing from the prompt, or met twice.
        ModelError: see `templated`.
    """
    start, end = fact.subject_span
    prompt = fact.text[:start] + SLOT + fact.text[end:]
    return replace(
        fact,
        prompt=templated(tokenizer, prompt),
        paraphrases=tuple(templated(tokenizer, p) for p in fact.paraphrases),
        neighborhood=tuple(templated(tokenizer, p) for p in fact.neighborhood),
    )
