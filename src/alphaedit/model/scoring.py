"""How a model rates given continuations: one batched pass, the head only where it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from alphaedit.core.errors import ModelError
from alphaedit.core.fact_text import short
from alphaedit.core.progress import Progress, silent
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_output, stoppable
from alphaedit.model.passes.prefix_cache import Chunk, forward_rows
from alphaedit.model.route import request


@dataclass(frozen=True, slots=True)
class Score:
    """One continuation's score.

    Attributes:
        mean_logprob: mean log-probability of its tokens, natural logarithm.
        exact: whether every token is the most likely one given those before, so that greedy
            decoding gives exactly this continuation.
        tokens: how many tokens it has.
    """

    mean_logprob: float
    exact: bool
    tokens: int
    correct: int

    @property
    def p(self) -> float:
        """Exp of the mean log-probability."""
        return float(torch.tensor(self.mean_logprob).exp())


@torch.no_grad()
def score(
    handle: ModelHandle,
    pairs: Sequence[tuple[str, str]],
    *,
    batch_tokens: int | None = None,
    progress: Progress = silent,
) -> list[Score]:
    """Score (prompt, continuation) pairs, in their order.

    What prompts share is run once (see `prefix_cache`); log-probabilities are float32.

    Args:
        batch_tokens: size of one pass, padding included; by default what suits the device.

    Raises:
        ModelError: a text is longer than the model reads.
    """
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
    found: dict[int, Score] = {}

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
        found.update(zip(indices, _scores(seen[0], targets), strict=True))
        progress("prompts", len(found), len(pairs))

    limits = [min(start for start, _ in row) - 1 for row in asked]
    if handle.rewritten:
        limits = [0] * len(rows)
    last = handle.n_layers - 1
    forward_rows(handle, rows, limits, around, upto=last, max_tokens=batch_tokens)
    return [found[i] for i in range(len(pairs))]


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

    def keep_logits(module: object, args: object, output: Any) -> None:
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
