"""Texts put before each prompt, so that keys and targets hold in any context."""

from __future__ import annotations

import torch

from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle

OPENINGS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(handle: ModelHandle, count: int, tokens: int, seed: int) -> tuple[str, ...]:
    """`count` texts of about `tokens` tokens, sampled by the model itself from OPENINGS.

    Each ends in a sentence end and a space ("... . "), ready to be put before a prompt, as in
    MEMIT (Meng et al. 2023, section 4.3.1 and published code). Braces are removed.
    """
    openings = [OPENINGS[index % len(OPENINGS)] for index in range(count)]
    generator = torch.Generator().manual_seed(seed)
    sampled = generate(handle, openings, tokens, top_k=5, generator=generator)
    texts = [opening + text for opening, text in zip(openings, sampled, strict=True)]
    return tuple(text.replace("{", " ").replace("}", " ").strip() + ". " for text in texts)
