"""Targets in parts: the windows of a long target, and where a text ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle


@dataclass(frozen=True)
class Part(Fact):
    """A fact whose target is a window of a longer one, with those windows behind it that count too.

    Attributes:
        windows: characters of the target up to the end of each window; empty for one window.
        weights: weight of each window's tokens in the loss.
        last: whether the longer target ends with it.
    """

    windows: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    last: bool = True


def targets_of(
    handle: ModelHandle, fact: Fact, prompt: str, *, end_of_text: bool
) -> tuple[list[int], list[int], list[float]]:
    """Ids of `prompt`, ids of the target after it, and the weight of each of these in the loss.

    Args:
        end_of_text: the end-of-text token stands behind the target, with the weight of the last.

    Raises:
        ConfigError: the tokenizer has no such token.
    """
    prompt_ids, target_ids = handle.tokens.encode_continuation(prompt, fact.target)
    part = fact if isinstance(fact, Part) else None
    weights = [1.0] * len(target_ids)
    if part is not None and part.windows:
        ends = [_tokens(handle, prompt, fact.target[:end]) for end in part.windows[:-1]]
        lengths = _lengths([*ends, len(target_ids)])
        weights = [w for w, n in zip(part.weights, lengths, strict=True) for _ in range(n)]
    if end_of_text and (part is None or part.last):
        target_ids, weights = [*target_ids, end_of(handle)], [*weights, weights[-1]]
    return prompt_ids, target_ids, weights


def end_of(handle: ModelHandle) -> int:
    """The end-of-text token.

    Raises:
        ConfigError: the tokenizer has none.
    """
    end = getattr(handle.tokenizer, "eos_token_id", None)
    if end is None:
        raise ConfigError(
            "The tokenizer has no end-of-text token.", remedy="Leave end_of_text out."
        )
    return int(end)


def _tokens(handle: ModelHandle, prompt: str, text: str) -> int:
    return len(handle.tokens.encode_continuation(prompt, text)[1])


def _lengths(ends: Sequence[int]) -> list[int]:
    """Lengths of windows that end at `ends`; where tokens merge over a border, not below 0."""
    sorted_ends = list(accumulate((min(end, ends[-1]) for end in ends), max))
    return [end - start for start, end in zip([0, *sorted_ends], sorted_ends, strict=False)]
