"""How a model rates given continuations: one batched pass, the head only where it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch

from alphaedit.core.errors import ModelError
from alphaedit.core.fact_text import short
from alphaedit.core.progress import Progress, silent
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_output, stoppable
from alphaedit.model.passes.prefix_cache import Chunk, forward_rows
from alphaedit.model.responder import Responder, Score
from alphaedit.model.route import request

__all__ = ["Score", "lengths", "next_token", "score"]


def score(
    asked: ModelHandle | Responder,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_tokens: int | None = None,
    progress: Progress = silent,
) -> list[Score]:
    """Score (prompt, continuation) pairs, in their order.

    What prompts share is run once (see `prefix_cache`); log-probabilities are float32.

    Args:
        asked: a model, as the edits in force have it answer, or another responder.
        pairs: what is scored.
        batch_tokens: size of one pass of a model, padding included; by default what suits the
            device.
        progress: is told how many are done.

    Raises:
        ModelError: a text is longer than the model reads.
    """
    if not isinstance(asked, ModelHandle):
        return asked.score(pairs, progress=progress)
    if asked.routed is not None:
        return asked.routed.score(pairs, progress=progress)
    return score_directly(asked, pairs, batch_tokens=batch_tokens, progress=progress)


def next_token(asked: ModelHandle | Responder, prompts: Sequence[str]) -> torch.Tensor:
    """Log-probabilities [prompts, vocabulary] of what follows each prompt, float32 on the CPU."""
    if not isinstance(asked, ModelHandle):
        return asked.next_token(prompts)
    if asked.routed is not None:
        return asked.routed.next_token(prompts)
    return next_token_directly(asked, prompts)


def lengths(asked: ModelHandle | Responder, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has."""
    if isinstance(asked, ModelHandle):
        if asked.routed is None:
            return [len(asked.tokens.encode(text)) for text in texts]
        return asked.routed.lengths(texts)
    return asked.lengths(texts)


@torch.no_grad()
def next_token_directly(
    handle: ModelHandle, prompts: Sequence[str], *, rows: int = 64
) -> torch.Tensor:
    """`next_token` of the handle's own model, `rows` prompts a pass."""
    encoded = [handle.tokens.encode(prompt) for prompt in handle.rendered(prompts)]
    log_probs = []
    for at in range(0, len(encoded), rows):
        ids, mask = handle.tokens.pad(encoded[at : at + rows], "left")
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        with request(torch.full((len(ids),), ids.shape[1] - 1), mask.argmax(1)):
            last = handle.forward(ids, mask, positions=positions)[:, -1]
        log_probs.append(last.float().log_softmax(-1).cpu())
    return torch.cat(log_probs)


@torch.no_grad()
def score_directly(
    handle: ModelHandle,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_tokens: int | None = None,
    progress: Progress = silent,
) -> list[Score]:
    """`score` by the handle's own model."""
    encoded = _encoded(handle, pairs)
    # Continuations of one token after the same prompt are read from the same row. Where hooks look
    # at the ends of prompts, a row has one.
    groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for index, (ids, target) in enumerate(encoded):
        end = len(ids) if handle.hooked else 0
        groups.setdefault((end, (*ids, *target[:-1])), []).append(index)
    named = list(groups)
    rows = [row for _, row in named]
    asked = [[(len(encoded[i][0]), encoded[i][1]) for i in groups[name]] for name in named]
    scores: dict[int, Score] = {}

    @contextmanager
    def around(chunk: Chunk) -> Iterator[None]:
        wanted = [
            (at, start - skipped, target)
            for at, (row, skipped) in enumerate(
                zip(chunk.rows, chunk.skipped.tolist(), strict=True)
            )
            for start, target in asked[row]
        ]
        seen: list[torch.Tensor] = []
        ends = [
            asked[row][0][0] - skipped - 1
            for row, skipped in zip(chunk.rows, chunk.skipped.tolist(), strict=True)
        ]
        with request(ends), _reading(handle, wanted, seen):
            yield
        indices = [i for row in chunk.rows for i in groups[named[row]]]
        targets = [target for _, _, target in wanted]
        scores.update(zip(indices, _scores(seen[0], targets), strict=True))
        progress("prompts", len(scores), len(pairs))

    limits = [min(start for start, _ in row) - 1 for row in asked]
    if handle.rewritten:
        limits = [0] * len(rows)
    last = handle.n_layers - 1
    forward_rows(handle, rows, limits, around, upto=last, max_tokens=batch_tokens)
    return [scores[i] for i in range(len(pairs))]


def _encoded(
    handle: ModelHandle, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """Tokens of prompts, as memories put them, and of targets."""
    if handle.memories:
        prompts = handle.rendered([prompt for prompt, _ in pairs])
        pairs = [(prompt, target) for prompt, (_, target) in zip(prompts, pairs, strict=True)]
    encoded = [handle.tokens.encode_continuation(prompt, target) for prompt, target in pairs]
    limit = handle.max_positions
    for (prompt, _), (ids, target) in zip(pairs, encoded, strict=True):
        if limit is not None and len(ids) + len(target) > limit:
            longer = "target" if len(target) > len(ids) else "prompt"
            raise ModelError(
                f"A prompt of {len(ids):,} tokens and a target of {len(target):,} are longer than "
                f"the model reads ({limit:,}): {short(prompt)}.",
                remedy=f"Shorten the {longer}.",
            )
    return encoded


@contextmanager
def _reading(
    handle: ModelHandle, asked: Sequence[tuple[int, int, list[int]]], seen: list[torch.Tensor]
) -> Iterator[None]:
    """Append the logits of `asked` (row, length of its prompt, target ids) to `seen`, flattened."""
    row = [index for index, _, target in asked for _ in target]
    position = [start + step - 1 for _, start, target in asked for step in range(len(target))]

    def keep_hidden(tensor: torch.Tensor) -> None:
        seen.append(handle.logits(tensor[row, position]))
        raise StopForward

    mine = get_ident()

    def keep_logits(module: object, args: object, output: Any) -> None:
        if get_ident() != mine:
            return
        seen.append(output.logits[row, position])

    if handle.structure.logit_transform is not None:
        with stoppable(), on_output(handle.block(handle.n_layers - 1), keep_hidden):
            yield
        return
    hook = handle.model.register_forward_hook(keep_logits)
    try:
        yield
    finally:
        hook.remove()


def _scores(logits: torch.Tensor, targets: Sequence[list[int]]) -> list[Score]:
    """Scores of `targets`, whose logits [tokens of all, vocabulary] follow each other."""
    log_p = logits.float().log_softmax(-1)
    ids = torch.tensor([token for target in targets for token in target], device=log_p.device)
    values = log_p.gather(1, ids[:, None])[:, 0].tolist()
    right = (log_p.argmax(-1) == ids).tolist()
    scores, at = [], 0
    for target in targets:
        span = slice(at, at + len(target))
        at += len(target)
        correct = sum(right[span])
        mean = sum(values[span]) / len(target)
        scores.append(Score(mean, correct == len(target), len(target), correct))
    return scores
