"""Requests behind a text of the benchmark's own, such as examples, which is no part of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.local import Local
from alphaedit.model.responder import Responder


def generate_behind(
    responder: ModelHandle | Responder,
    asked: Sequence[tuple[str, str]],
    max_new_tokens: int,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Greedy continuations of requests, each behind a text that memories do not see.

    A memory looks up what is asked, and its notes stand beside the question: names in worked
    examples are not what a user asks about. Hooks look at the prompt's end, as ever.

    Args:
        responder: who answers; what is no model loaded here gets both as one text.
        asked: (text in front, request).
        max_new_tokens: length of each continuation.
        progress: is told how many are done.
    """
    handle = responder.handle if isinstance(responder, Local) else responder
    if not isinstance(handle, ModelHandle) or handle.routed is not None:
        texts = [front + prompt for front, prompt in asked]
        return generate(responder, texts, max_new_tokens, progress=progress)
    put = handle.rendered([prompt for _, prompt in asked])
    prompts = [front + prompt for (front, _), prompt in zip(asked, put, strict=True)]
    with _put_already(handle):
        return generate(handle, prompts, max_new_tokens, progress=progress)


@contextmanager
def _put_already(handle: ModelHandle) -> Iterator[None]:
    """Memories do nothing for the length of a block."""
    memories = list(handle.memories)
    handle.memories.clear()
    try:
        yield
    finally:
        handle.memories[:] = memories
