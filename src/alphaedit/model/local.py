"""A model loaded here as a responder, with the edits in force."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.progress import Progress, silent
from alphaedit.model.generate import generate_directly
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder, Score
from alphaedit.model.scoring import next_token_directly, score_directly


@dataclass(frozen=True)
class Local:
    """The model of a handle; hooks and memories act, what answers in its place does not."""

    handle: ModelHandle

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: Progress = silent
    ) -> list[Score]:
        """See Responder."""
        return score_directly(self.handle, pairs, progress=progress)

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
        return generate_directly(
            self.handle,
            prompts,
            max_new_tokens,
            top_k=top_k,
            generator=generator,
            progress=progress,
        )

    def next_token(self, prompts: Sequence[str]) -> Tensor:
        """See Responder."""
        return next_token_directly(self.handle, prompts)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """See Responder."""
        return [len(self.handle.tokens.encode(text)) for text in texts]

    @property
    def vocabulary(self) -> str:
        """See Responder."""
        known = sorted(self.handle.tokenizer.get_vocab().items())
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def responder_of(asked: ModelHandle | Responder) -> Responder:
    """Who answers for a handle now: its model, or what a change in force has put in its place."""
    if not isinstance(asked, ModelHandle):
        return asked
    return asked.routed or Local(asked)


def companion(handle: ModelHandle, source: str) -> ModelHandle:
    """Another model that answers requests for one, loaded once, where that one lies.

    Raises:
        ModelError: it cannot be loaded.
    """
    if source not in handle.companions:
        handle.companions[source] = ModelHandle.load(source, device=handle.device)
    return handle.companions[source]
