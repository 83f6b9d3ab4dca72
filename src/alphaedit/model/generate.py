"""Text from a model: batched, left-padded, cached, greedy or from an explicit generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from alphaedit.core.errors import ModelError, NonFiniteError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.prefix_cache import keys_and_values_of
from alphaedit.model.responder import Responder
from alphaedit.model.route import Route, going_on

BATCH_ROWS = 128
WORTH_SHARING = 32
BATCH_TOKENS = 32_768
"""Of prompts that run together, padding included."""


def generate(
    asked: ModelHandle | Responder,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Continuations of `prompts` (the new text only).

    Args:
        asked: a model, as the edits in force have it answer, or another responder.
        prompts: texts to go on from.
        max_new_tokens: length of each continuation.
        top_k: sample from the k most likely tokens by `generator` (CPU); greedy if not given.
        generator: of the samples.
        progress: is told how many of how many are done.

    A row ends at the end-of-text token, or where the model's positions end.

    Raises:
        ModelError: a prompt is empty, or leaves no room for an answer.
    """
    how: Any = {"top_k": top_k, "generator": generator, "progress": progress}
    if not isinstance(asked, ModelHandle):
        return asked.generate(prompts, max_new_tokens, **how)
    if asked.routed is not None:
        return asked.routed.generate(prompts, max_new_tokens, **how)
    return generate_directly(asked, prompts, max_new_tokens, **how)


def generate_directly(
    handle: ModelHandle,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """`generate` by the handle's own model."""
    rows = [handle.tokens.encode(prompt) for prompt in handle.rendered(prompts)]
    limit = handle.max_positions
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise ModelError(
                "An empty prompt: the model's tokenizer gives no token for it.",
                remedy="Give some text to go on from.",
            )
        if limit is not None and len(row) >= limit:
            raise ModelError(
                f"A prompt of {len(row)} tokens leaves no room for an answer: the model reads "
                f"{limit} in all. It begins {prompt[:60]!r}.",
                remedy="Shorten the prompt.",
            )
    out = []
    longest = max((len(row) for row in rows), default=1)
    together = max(1, min(BATCH_ROWS, BATCH_TOKENS // longest))
    for at in range(0, len(rows), together):
        progress(at, len(rows))
        out += generate_ids(
            handle, rows[at : at + together], max_new_tokens, top_k=top_k, generator=generator
        )
    progress(len(rows), len(rows))
    return [handle.tokens.decode(ids) for ids in out]


def generate_ids(
    handle: ModelHandle,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """New token ids for each row; see `generate`."""
    if not rows:
        return []
    limit = handle.max_positions
    longest = max(len(row) for row in rows)
    room = max_new_tokens if limit is None else min(max_new_tokens, limit - longest)
    end = getattr(handle.tokenizer, "eos_token_id", None)
    ended = torch.zeros(len(rows), dtype=torch.bool)
    new: list[Tensor] = []
    steps = stream_ids(handle, rows, lambda logits: _pick(logits, top_k, generator))
    for token in islice(steps, max(0, room)):
        new.append(token)
        if end is not None:
            ended |= token == end
            if bool(ended.all()):
                break
    result = []
    for row in range(len(rows)):
        tokens = [int(t[row]) for t in new]
        if end is not None and end in tokens:
            tokens = tokens[: tokens.index(end)]
        result.append(tokens)
    return result


@torch.no_grad()
def stream_ids(
    handle: ModelHandle, rows: Sequence[Sequence[int]], pick: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """New tokens of rows that go on together, as they are made: [rows] int64 of each step.

    There is no end: whoever reads knows when the rows have ended, and that the longest of them must
    stay within the model's positions. What hooks decide at the prompts' ends holds until then.

    Args:
        handle: the model; memories have been asked already.
        rows: token ids of each prompt, none empty.
        pick: chooses tokens [rows] int64 by logits [rows, vocabulary], float32 on the CPU.
    """
    front = [0] * len(rows) if handle.rewritten else _shared(rows)
    ids, mask = handle.tokens.pad([list(r[f:]) for r, f in zip(rows, front, strict=True)], "left")
    cache: Cache = DynamicCache(config=handle.model.config)
    if any(front):
        # Examples in front of every question, say: run once. Padding lies in front of them, as
        # windows of attention count it.
        begun = [row[:skip] for row, skip in zip(rows, front, strict=True)]
        cache = keys_and_values_of(handle, begun, upto=handle.n_layers - 1)
        cached = torch.tensor(front)[:, None]
        width = int(cached.max())
        mask = torch.cat([(torch.arange(width) >= width - cached).to(mask.dtype), mask], dim=1)
    positions = (mask.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
    step_ids, step_positions = ids, positions
    starts = ids.shape[1] - torch.tensor([len(r) - f for r, f in zip(rows, front, strict=True)])
    route = Route(torch.full((len(rows),), ids.shape[1] - 1), starts=starts)
    while True:
        with going_on(route):
            logits = handle.forward(
                step_ids,
                mask,
                positions=step_positions,
                cache=cache,
                use_cache=True,
                last_only=True,
            )[:, -1]
        route.ends = None
        token = pick(logits.float().cpu())
        yield token
        step_ids = token[:, None]
        step_positions = step_positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)


def _shared(rows: Sequence[Sequence[int]]) -> list[int]:
    """How many tokens of each row are its share of what all begin with; 0 where that is little.

    What is left of each row is of one length, so that no padding is needed between the two.
    """
    same, first = min(len(row) for row in rows) - 1, rows[0]
    for row in rows[1:]:
        same = next((i for i in range(same) if row[i] != first[i]), same)
    left = max(len(row) for row in rows) - same
    front = [len(row) - left for row in rows]
    fits = len(rows) > 1 and same >= WORTH_SHARING and min(front) >= 0
    return front if fits else [0] * len(rows)


def _pick(logits: Tensor, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    if top_k is None:
        return logits.argmax(-1)
    values, index = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            "The model's logits are not finite, so no text can be sampled from it.",
            remedy="Check the model's weights for NaN, or load it in float32.",
        )
    choice = torch.multinomial(values.softmax(-1), 1, generator=generator)
    return index.gather(1, choice)[:, 0]
