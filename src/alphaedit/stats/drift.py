"""How far a model has moved on text that no edit is about: KL divergence and perplexity.

Running text has no prompt, and hooks and memories act on requests, at the end of a prompt. So each
row of the text is a request: its first half is the prompt, as a user would send it, and its second
half the answer, of which every token is predicted. Hooks look once, at the end of the first half;
memories may put that half in another way. While such hooks or memories are in force, answers alone
are counted, as a prompt is not the model's to say; changes of weights, and hooks that act token by
token, are counted everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from alphaedit.core.errors import ModelError, StatsError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import is_plain, request
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
        perplexity_before: of the same tokens when the reference was taken.
        tokens: predictions that the perplexities average over: all, or those of answers where
            hooks or memories are in force.
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
        self._prompt = self.rows.shape[1] // 2
        self._stride = 1
        self._kept: list[Tensor] = []
        self._losses = [0.0, 0.0]
        for logits, targets in self._predictions(handle):
            if not self._kept:
                most = max(1, KEPT_FLOATS // logits.shape[-1])
                self._stride = -(-self.rows.shape[0] * (self.rows.shape[1] - 1) // most)
            log_p = logits.log_softmax(-1)
            losses = log_p.gather(1, targets[:, None])[:, 0].double()
            self._losses[0] -= float(losses.sum())
            self._losses[1] -= float(losses[self._of_answers(len(losses), losses)].sum())
            self._kept.append(log_p[:: self._stride].cpu())
        self.tokens = self.rows.shape[0] * (self.rows.shape[1] - 1)
        self.perplexity = _exp(self._losses[0] / self.tokens)

    def drift(self, handle: ModelHandle) -> Drift:
        """Compare the model as it is now with what it was.

        Raises:
            ModelError: what a memory puts in front of a prompt leaves no room for the answer.
        """
        answers = _routed(handle)
        tokens = self._answer_tokens if answers else self.tokens
        before_all = _exp(self._losses[answers] / tokens)
        loss, moved, counted = 0.0, 0.0, 0
        for before, (logits, targets) in zip(self._kept, self._predictions(handle), strict=True):
            log_p = logits.log_softmax(-1)
            losses = log_p.gather(1, targets[:, None]).double()
            then = before.to(log_p.device)
            apart = kl(then, log_p[:: self._stride])
            if answers:
                told = self._of_answers(len(log_p), log_p)
                losses, of_answers = losses[told], told[:: self._stride]
                # Of a huge vocabulary so few are kept that none may be of an answer.
                apart = apart[of_answers] if bool(of_answers.any()) else apart
            loss -= float(losses.sum())
            moved += float(apart.double().sum())
            counted += len(apart)
        return Drift(moved / counted, _exp(loss / tokens), before_all, tokens)

    @property
    def _answer_tokens(self) -> int:
        rows, length = self.rows.shape
        return int(rows * (length - self._prompt))

    def _of_answers(self, count: int, like: Tensor) -> Tensor:
        """Which of the first `count` predictions are of an answer's tokens, [count] bool."""
        place = torch.arange(count, device=like.device) % (self.rows.shape[1] - 1)
        return place >= self._prompt - 1

    @torch.no_grad()
    def _predictions(self, handle: ModelHandle) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits [n, vocabulary] in float32, and the tokens that came, a few rows at a time."""
        for ids in self.rows.split(8):
            with request(torch.full((len(ids),), self._prompt - 1)):
                logits = handle.forward(ids, torch.ones_like(ids))[:, :-1]
            if handle.memories and not is_plain():
                logits = self._as_put(handle, ids, logits)
            logits = logits.flatten(0, 1)
            yield logits.float(), ids[:, 1:].flatten().to(logits.device)

    def _as_put(self, handle: ModelHandle, ids: Tensor, logits: Tensor) -> Tensor:
        """Logits with those of answers behind prompts that a memory puts in another way."""
        prompts = [handle.tokens.decode(row) for row in ids[:, : self._prompt].tolist()]
        adjusted, length = logits.clone(), ids.shape[1] - self._prompt
        for number, (old, new) in enumerate(zip(prompts, handle.rendered(prompts), strict=True)):
            if old == new:
                continue
            front, limit = handle.tokens.encode(new), handle.max_positions
            row = torch.tensor([[*front, *ids[number, self._prompt :].tolist()]])
            if limit is not None and row.shape[1] > limit:
                raise ModelError(
                    f"A memory puts {len(front):,} tokens in the place of a prompt of "
                    f"{self._prompt}, which leaves no room for an answer of {length}: the model "
                    f"reads {limit:,}.",
                    remedy="Let the memory show less, or do without guard and drift.",
                )
            with request([len(front) - 1]):
                now = handle.forward(row, torch.ones_like(row))
            adjusted[number, self._prompt - 1 :] = now[0, len(front) - 1 : -1]
        return adjusted


def _routed(handle: ModelHandle) -> bool:
    """Whether hooks that decide at a prompt's end, or memories, are in force and may act."""
    return not is_plain() and (handle.decided_at_ends or bool(handle.memories))


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
