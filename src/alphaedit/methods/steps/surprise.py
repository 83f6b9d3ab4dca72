"""How much each word of a target surprises a model, and chunks that begin where it does."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.model.handle import ModelHandle


def words_of(text: str) -> list[str]:
    """The words of a text, which joined by spaces are that text again; none of them is blank.

    Spaces beside others and line breaks, as code has them, stay with the word before.
    """
    words = re.split(r" (?=\S)", text)
    return words if words[0].strip() or len(words) == 1 else [" ".join(words[:2]), *words[2:]]


@torch.no_grad()
def word_surprise(handle: ModelHandle, fact: Fact) -> list[float]:
    """Negative log-probability of each word of the target after all before it, in nats."""
    read = Continuations.of(handle, [fact])
    logits = handle.forward(read.ids, read.mask)[read.row, read.position].float()
    surprise = F.cross_entropy(logits, read.target.to(logits.device), reduction="none").tolist()
    words = words_of(fact.target)
    encode = handle.tokens.encode_continuation
    sums, start = [], 0
    for i in range(len(words)):
        text = " ".join(words[: i + 1])
        end = len(encode(fact.text, text)[1]) if text.strip() else start
        sums.append(sum(surprise[start:end]))
        start = max(start, end)
    return sums


def at_peaks(surprise: Sequence[float], usual: int) -> list[int]:
    """Lengths of chunks of half to twice the `usual` number of words.

    Each begins, but for the first, at the word that surprises most of those at which it may.
    """
    least, most = max(1, usual // 2), 2 * usual
    lengths, start = [], 0
    while len(surprise) - start > most:
        last = min(start + most, len(surprise) - least)
        begins = range(start + least, last + 1)
        peak = max(begins, key=lambda i: surprise[i])
        lengths.append(peak - start)
        start = peak
    return [*lengths, len(surprise) - start]
