"""A served model as a responder: an OpenAI-compatible endpoint of completions.

Such endpoints give text, and where they serve ``echo`` with ``logprobs`` (vLLM, llama.cpp's Python
server, text-generation servers) also how they rate a text that they are sent. They give no whole
distribution.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from alphaedit.core.endpoint import post
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact_text import short
from alphaedit.core.progress import Progress, silent
from alphaedit.model.responder import Score

KEY = "ALPHAEDIT_ENDPOINT_KEY"
Found = TypeVar("Found")
ROWS = 16
"""Texts in one request."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind ``URL/completions``.

    Attributes:
        url: up to and without ``/completions``, such as ``http://localhost:8000/v1``.
        model: its name there.
        tries: requests before giving up, each after twice the wait.
        wait: seconds before the second one.
        timeout: seconds that each may take.
        key: sent as a bearer token; from ``$ALPHAEDIT_ENDPOINT_KEY``.
    """

    url: str
    model: str
    tries: int = 4
    wait: float = 1.0
    timeout: float = 600.0
    key: str | None = field(default_factory=lambda: os.environ.get(KEY), repr=False)

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: Progress = silent
    ) -> list[Score]:
        """See Responder.

        A continuation is put behind its prompt with a space, as the endpoint's tokenizer has them.

        Raises:
            ConfigError: the endpoint does not rate texts that it is sent.
            ResourceError: it does not answer.
        """
        fronts = [prompt if prompt.endswith((" ", "\n")) else f"{prompt} " for prompt, _ in pairs]
        texts = [front + target.lstrip() for front, (_, target) in zip(fronts, pairs, strict=True)]
        scores: list[Score] = []
        for choice, text, (prompt, _) in zip(
            self._rated(texts, progress), texts, pairs, strict=True
        ):
            scores.append(_score(choice, len(prompt.rstrip()), text))
        return scores

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        *,
        top_k: int | None = None,
        generator: torch.Generator | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[str]:
        """See Responder.

        Samples are drawn there, by the seed of `generator`; ``top_k`` is no part of the common
        interface, and endpoints that do not know it may refuse.

        Raises:
            ResourceError: it does not answer, or refuses.
        """
        how: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": 0}
        if top_k is not None:
            how |= {"temperature": 1, "top_k": top_k}
            if generator is not None:
                how["seed"] = generator.initial_seed() % 2**31
        texts: list[str] = []
        for at in range(0, len(prompts), ROWS):
            progress(at, len(prompts))
            some = list(prompts[at : at + ROWS])
            texts += [_text(choice) for choice in self._completions(some, how)]
        progress(len(prompts), len(prompts))
        return texts

    def next_token(self, prompts: Sequence[str]) -> Tensor:
        """Refused.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "An endpoint of completions does not give the distribution over all next tokens.",
            remedy="Load the model here for what compares distributions.",
        )

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as the endpoint counts those of a prompt, one request each."""
        known = {text: self._length(text) for text in dict.fromkeys(texts)}
        return [known[text] for text in texts]

    @property
    def vocabulary(self) -> str:
        """Nobody knows but the endpoint."""
        return f"{self.url} {self.model}"

    def _length(self, text: str) -> int:
        def read(reply: Any) -> int:
            return int(reply["usage"]["prompt_tokens"])

        return self._post({"prompt": text, "max_tokens": 1, "temperature": 0}, read)

    def _rated(self, texts: Sequence[str], progress: Progress) -> Iterator[Any]:
        # No new token would do, but some servers insist on one.
        how = {"max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        for at in range(0, len(texts), ROWS):
            progress("prompts", at, len(texts))
            yield from self._completions(list(texts[at : at + ROWS]), how)
        progress("prompts", len(texts), len(texts))

    def _completions(self, prompts: list[str], how: dict[str, Any]) -> list[Any]:
        """One choice for each prompt, in their order."""

        def read(reply: Any) -> list[Any]:
            choices = sorted(reply["choices"], key=lambda choice: int(choice["index"]))
            if len(choices) != len(prompts):
                raise ValueError(f"{len(choices)} answers to {len(prompts)} prompts")
            return choices

        return self._post({"prompt": prompts, **how}, read)

    def _post(self, body: dict[str, Any], read: Callable[[Any], Found]) -> Found:
        return post(
            f"{self.url.rstrip('/')}/completions",
            {"model": self.model, **body},
            read,
            what=f"The model {self.model}",
            remedy=f"Check the address, the model's name, and the key in ${KEY}.",
            key=self.key,
            tries=self.tries,
            wait=self.wait,
            timeout=self.timeout,
        )


def _text(choice: Any) -> str:
    return str(choice["text"])


def _score(choice: Any, start: int, text: str) -> Score:
    """The score of what stands behind character `start` of a text that was echoed."""
    rated = choice.get("logprobs") or {}
    offsets, values = rated.get("text_offset"), rated.get("token_logprobs")
    best = rated.get("top_logprobs")
    if not (offsets and values and best and _text(choice).startswith(text)):
        raise ConfigError(
            "The endpoint does not rate texts that it is sent: it gives no log-probabilities, "
            "likeliest tokens and places with `echo`.",
            remedy="Serve the model by a server that does (vLLM, say), or measure what is "
            "generated only.",
        )
    ends = [*offsets[1:], len(_text(choice))]
    own = [
        i
        for i, (begin, end) in enumerate(zip(offsets, ends, strict=True))
        if end > start and begin < len(text)
    ]
    if not own or any(values[i] is None for i in own) or offsets[own[0]] < start:
        raise ConfigError(
            f"The endpoint's tokens do not part where the continuation begins: {short(text)}.",
            remedy="End the prompt with a whole word.",
        )
    right = [values[i] >= max((best[i] or {"": math.inf}).values()) for i in own]
    mean = sum(values[i] for i in own) / len(own)
    return Score(mean, all(right), len(own), sum(right))
