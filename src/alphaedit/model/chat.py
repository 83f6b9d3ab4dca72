"""Prompts as a user's turn of a conversation, by the tokenizer's own chat template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alphaedit.core.errors import ModelError
from alphaedit.core.fact import SLOT, Fact
from alphaedit.model.told import told

_CHAT = "Leave chat mode out, or take an instruct model with its own tokenizer."


def templated(tokenizer: Any, prompt: str) -> str:
    """The conversation in which a user has said `prompt` and the assistant is about to answer.

    BOS is left out where the tokenizer puts it in front of any text itself.

    Raises:
        ModelError: the tokenizer has no chat template, or one that fails or leaves the prompt out.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "The model's tokenizer has no chat template.",
            remedy=_CHAT,
        )
    turns = [{"role": "user", "content": prompt}]
    with told("The model's chat template", _CHAT):
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        adds = tokenizer("a", add_special_tokens=True)["input_ids"]
    if not isinstance(text, str) or prompt.strip() not in text:
        raise ModelError(
            "The model's chat template changes what the user says.",
            remedy="Leave chat mode out, and write prompts as the model wants them.",
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
