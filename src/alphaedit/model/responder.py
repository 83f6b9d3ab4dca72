"""Who answers: what scoring, benchmarks and judges ask, whatever stands behind it.

`model.local.Local` is a model loaded here, `Router` two models of which each answers some requests,
`model.remote.Endpoint` one behind an address.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress, silent

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Score:
    """One continuation's score.

    Attributes:
        mean_logprob: mean log-probability of its tokens, natural logarithm.
        exact: whether every token is the most likely one given those before, so that greedy
            decoding gives exactly this continuation.
        tokens: how many tokens it has.
        correct: how many of them are the most likely one given those before.
    """

    mean_logprob: float
    exact: bool
    tokens: int
    correct: int

    @property
    def p(self) -> float:
        """Exp of the mean log-probability."""
        return float(torch.tensor(self.mean_logprob).exp())


class Responder(Protocol):
    """Answers requests, which are texts.

    What a kind of responder cannot do it refuses by a `ConfigError` that names it.
    """

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: Progress = silent
    ) -> list[Score]:
        """How it rates (prompt, continuation) pairs, in their order."""

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str]:
        """Continuations of prompts: greedy, or from the `top_k` likeliest tokens."""

    def next_token(self, prompts: Sequence[str]) -> Tensor:
        """Log-probabilities [prompts, vocabulary] of what follows each, float32 on the CPU."""

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has."""

    @property
    def vocabulary(self) -> str:
        """Two responders of equal ones write the same tokens by the same numbers."""


@dataclass(frozen=True, eq=False)
class Router:
    """Two responders, of which another answers what `choose` sends to it.

    Requests that stay are asked of the base together, as if the others were not there. Nothing is
    remembered from one call to the next, so that threads may ask at the same time.

    Attributes:
        base: answers what is not sent on.
        other: answers what is.
        choose: for each prompt the text that `other` reads in its place, or None: it stays.
    """

    base: Responder
    other: Responder
    choose: Callable[[Sequence[str]], Sequence[str | None]]

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: Progress = silent
    ) -> list[Score]:
        """See Responder."""

        def ask(responder: Responder, rows: list[int], texts: list[str]) -> list[Score]:
            own = [(text, pairs[row][1]) for row, text in zip(rows, texts, strict=True)]
            return responder.score(own, progress=progress)

        return self._asked([prompt for prompt, _ in pairs], ask)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str]:
        """See Responder."""

        def ask(responder: Responder, rows: list[int], texts: list[str]) -> list[str]:
            return responder.generate(
                texts, max_new_tokens, top_k=top_k, generator=generator, progress=progress
            )

        return self._asked(prompts, ask)

    def next_token(self, prompts: Sequence[str]) -> Tensor:
        """See Responder.

        Raises:
            ConfigError: some prompts go to a model of other tokens.
        """

        def ask(responder: Responder, rows: list[int], texts: list[str]) -> list[Tensor]:
            if responder is self.other and self.other.vocabulary != self.base.vocabulary:
                raise ConfigError(
                    "Next tokens of two models with different tokens cannot be compared, and some "
                    "of these prompts are answered by another model.",
                    remedy="Use one with the base model's tokenizer, or compare answers as text.",
                )
            return list(responder.next_token(texts))

        return torch.stack(self._asked(prompts, ask))

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text in the model that needs more: room for it in either."""
        return [
            max(pair)
            for pair in zip(*(responder.lengths(texts) for responder in self._both), strict=True)
        ]

    @property
    def vocabulary(self) -> str:
        """Of the base."""
        return self.base.vocabulary

    @property
    def _both(self) -> tuple[Responder, Responder]:
        return self.base, self.other

    def _asked(
        self,
        prompts: Sequence[str],
        ask: Callable[[Responder, list[int], list[str]], list[Answer]],
    ) -> list[Answer]:
        """Answers in the order of prompts; `ask` has a responder, numbers of rows, their texts."""
        distinct = list(dict.fromkeys(prompts))
        sent = dict(zip(distinct, self.choose(distinct), strict=True)) if distinct else {}
        stay: list[tuple[int, str]] = []
        go: list[tuple[int, str]] = []
        for row, prompt in enumerate(prompts):
            text = sent[prompt]
            if text is None:
                stay.append((row, prompt))
            else:
                go.append((row, text))
        answers: dict[int, Answer] = {}
        for responder, rows in zip(self._both, (stay, go), strict=True):
            if rows:
                numbers, texts = [row for row, _ in rows], [text for _, text in rows]
                answers |= zip(numbers, ask(responder, numbers, texts), strict=True)
        return [answers[row] for row in range(len(prompts))]
