"""How a model rates given continuations: one batched pass, the head only where it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alphaedit.core.errors import ModelError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_output, stoppable

BATCH_TOKENS = 8192


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
    handle: ModelHandle, pairs: Sequence[tuple[str, str]], *, batch_tokens: int = BATCH_TOKENS
) -> list[Score]:
    """Score (prompt, continuation) pairs, in their order.

    Rows are sorted by length and padded on the right; log-probabilities are float32.

    Raises:
        ModelError: a text is longer than the model reads.
    """
    encoded = [handle.tokens.encode_continuation(prompt, target) for prompt, target in pairs]
    limit = handle.max_positions
    for (prompt, _), (ids, target) in zip(pairs, encoded, strict=True):
        if limit is not None and len(ids) + len(target) > limit:
            raise ModelError(
                f"A prompt of {len(ids)} tokens and its answer of {len(target)} are longer than "
                f"the model reads ({limit}): {prompt[:60]!r}...",
                remedy="Shorten the prompt.",
            )
    # Continuations of one token after the same prompt are read from the same row.
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (ids, target) in enumerate(encoded):
        groups.setdefault((*ids, *target[:-1]), []).append(index)
    inputs = sorted(groups, key=len)
    found: dict[int, Score] = {}
    at = 0
    while at < len(inputs):
        end = at + 1
        while end < len(inputs) and (end - at + 1) * len(inputs[end]) <= batch_tokens:
            end += 1
        chunk = [(row, i) for row, key in enumerate(inputs[at:end]) for i in groups[key]]
        wanted = [(row, len(encoded[i][0]), encoded[i][1]) for row, i in chunk]
        scores = _score_rows(handle, inputs[at:end], wanted)
        found.update(zip((i for _, i in chunk), scores, strict=True))
        at = end
    return [found[i] for i in range(len(pairs))]


def _score_rows(
    handle: ModelHandle,
    rows: Sequence[Sequence[int]],
    asked: Sequence[tuple[int, int, list[int]]],
) -> list[Score]:
    """Scores of `asked` (row, length of its prompt, target ids)."""
    ids, mask = handle.tokens.pad(rows, "right")
    row = [index for index, _, target in asked for _ in target]
    position = [start + step - 1 for _, start, target in asked for step in range(len(target))]
    wanted = [token for _, _, target in asked for token in target]
    hidden: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> None:
        hidden.append(tensor)
        raise StopForward

    if handle.structure.plain_logits:
        with stoppable(), on_output(handle.block(handle.n_layers - 1), keep):
            handle.forward(ids, mask)
        logits = handle.logits(hidden[0][row, position])
    else:
        logits = handle.forward(ids, mask)[row, position]
    log_p = logits.float().log_softmax(-1)
    target_ids = torch.tensor(wanted, device=log_p.device)
    values = log_p.gather(1, target_ids[:, None])[:, 0].tolist()
    right = (log_p.argmax(-1) == target_ids).tolist()
    scores, at = [], 0
    for _, _, target in asked:
        span = slice(at, at + len(target))
        at += len(target)
        correct = sum(right[span])
        scores.append(
            Score(sum(values[span]) / len(target), correct == len(target), len(target), correct)
        )
    return scores
