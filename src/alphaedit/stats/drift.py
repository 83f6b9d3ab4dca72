"""How far a model has moved on text that no edit is about: KL divergence and perplexity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from alphaedit.core.errors import StatsError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import request
from alphaedit.stats.corpus import open_corpus

ROW = 64
TOKENS = 4096
KEPT_FLOATS = 32_000_000
HELD_OUT_SEED = 7919
"""Added to the seed of sampled corpora: other text than second moments are made from."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How a model differs on held-out text from what it was.

    Attributes:
        kl: mean KL(before || now) of next-token distributions, nats a token.
        perplexity: of the text now.
        perplexity_before: of the text when the reference was taken.
        tokens: predictions that the perplexities average over.
    """

    kl: float
    perplexity: float
    perplexity_before: float
    tokens: int

    @property
    def ratio(self) -> float:
        """Perplexity now over perplexity before."""
        return self.perplexity / self.perplexity_before

    def to_json(self) -> dict[str, float]:
        """Plain numbers."""
        return {
            "kl": self.kl,
            "perplexity": self.perplexity,
            "perplexity_before": self.perplexity_before,
            "tokens": self.tokens,
        }


class HeldOut:
    """Text, and what the model predicted on it when this was made.

    Log-probabilities are kept in float32 for as many predictions as fit into 128 MB, evenly spread;
    perplexity uses all.

    Raises:
        StatsError: the texts hold too few tokens.
    """

    def __init__(self, handle: ModelHandle, texts: Iterator[str], *, tokens: int = TOKENS) -> None:
        self.rows = _rows(handle, texts, tokens)
        self._stride = 1
        self._kept: list[Tensor] = []
        loss = 0.0
        for logits, targets in self._predictions(handle):
            if not self._kept:
                most = max(1, KEPT_FLOATS // logits.shape[-1])
                self._stride = -(-self.rows.shape[0] * (self.rows.shape[1] - 1) // most)
            log_p = logits.log_softmax(-1)
            loss -= float(log_p.gather(1, targets[:, None]).double().sum())
            self._kept.append(log_p[:: self._stride].cpu())
        self.tokens = self.rows.shape[0] * (self.rows.shape[1] - 1)
        self.perplexity = _exp(loss / self.tokens)

    def drift(self, handle: ModelHandle) -> Drift:
        """Compare the model as it is now with what it was."""
        loss, moved, counted = 0.0, 0.0, 0
        for before, (logits, targets) in zip(self._kept, self._predictions(handle), strict=True):
            log_p = logits.log_softmax(-1)
            loss -= float(log_p.gather(1, targets[:, None]).double().sum())
            then = before.to(log_p.device)
            now = log_p[:: self._stride]
            moved += float(kl(then, now).double().sum())
            counted += then.shape[0]
        return Drift(moved / counted, _exp(loss / self.tokens), self.perplexity, self.tokens)

    @torch.no_grad()
    def _predictions(self, handle: ModelHandle) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [n, vocabulary] in float32, and the tokens that came, a few rows at a time."""
        for ids in self.rows.split(8):
            # To hooks each row is a request whose prompt is its first half.
            with request(torch.full((len(ids),), ids.shape[1] // 2 - 1)):
                logits = handle.forward(ids, torch.ones_like(ids))[:, :-1].flatten(0, 1)
            yield logits.float(), ids[:, 1:].flatten().to(logits.device)


def held_out(
    handle: ModelHandle, spec: str | None = None, *, seed: int = 0, tokens: int = TOKENS
) -> HeldOut:
    """The unedited model's predictions on held-out text.

    Args:
        spec: a corpus (see `open_corpus`); by default that of the bundled models for them, else
            text that the model itself writes, both by another seed than second moments use.
        tokens: size of the text.
    """
    name = spec or ("bundled" if handle.is_bundled else "self")
    corpus = open_corpus(name, handle, seed=seed + HELD_OUT_SEED)
    return HeldOut(handle, iter(corpus.texts()), tokens=tokens)


def _rows(handle: ModelHandle, texts: Iterator[str], tokens: int) -> Tensor:
    """Texts one after the other, cut into rows of equal length: [rows, length]."""
    length = min(ROW, handle.max_positions or ROW)
    wanted = max(2 * length, tokens)
    stream: list[int] = []
    for text in islice(texts, wanted):
        stream += handle.tokens.encode(text)
        if len(stream) >= wanted:
            break
    if len(stream) < 2:
        raise StatsError("The held-out text has no two tokens.", remedy="Give a longer text.")
    length = min(length, len(stream))
    count = min(len(stream), wanted) // length
    return torch.tensor(stream[: count * length]).view(count, length)


def _exp(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).exp())


def kl(before: Tensor, now: Tensor) -> Tensor:
    """KL(before || now) of rows of log-probabilities [n, vocabulary], in nats: [n]."""
    return (before.exp() * (before - now)).sum(-1)
