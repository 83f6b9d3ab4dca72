"""Special tokens, such as an end of text, that are spelled out in what should be ordinary text."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from alphaedit.core.errors import AlphaEditWarning
from alphaedit.core.fact import Fact
from alphaedit.core.fact_text import short


def special_in(text: str, tokenizer: Any) -> list[str]:
    """The special tokens that `tokenizer` reads in `text`, as they are written there."""
    names = {name: tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
    names |= {
        str(token): number
        for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if getattr(token, "special", False)
    }
    present = [name for name in names if name and name in text]
    if not present:
        return []
    ids = set(tokenizer(text, add_special_tokens=False)["input_ids"])
    return sorted(name for name in present if names[name] in ids)


def check_special(facts: Iterable[Fact], tokenizer: Any) -> None:
    """Warn of facts whose subject or target is read as a special token, in part or whole.

    Prompts are left out: chat templates put such tokens there on purpose.

    Args:
        facts: the facts, before they are put into a conversation or after.
        tokenizer: the model's Hugging Face tokenizer.
    """
    odd = []
    for fact in facts:
        for name in ("subject", "target"):
            text = getattr(fact, name)
            odd += [f"{token} in the {name} {short(text)}" for token in special_in(text, tokenizer)]
    if odd:
        more = f", and {len(odd) - 1} more" if len(odd) > 1 else ""
        warnings.warn(
            AlphaEditWarning(
                f"The tokenizer reads a special token: {odd[0]}{more}. The model would end or "
                "begin a text there, and never say it."
            ),
            stacklevel=3,
        )
