"""Run no more of a model than is needed: one pass that stops early, and only the last layers.

The model's own modules are called with the arguments that the model itself gave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_input, on_output, stoppable
from alphaedit.model.suffix import Suffix, check_rows

__all__ = ["MAX_TOKENS", "Suffix", "capture", "hidden_at", "keys_at"]

MAX_TOKENS = 16384
"""Tokens of one pass of `capture`, padding included; more rows take several passes."""


def capture(
    handle: ModelHandle,
    ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    *,
    key_layers: Sequence[int] = (),
    hidden_layers: Sequence[int] = (),
    max_tokens: int = MAX_TOKENS,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Keys and hidden states at one position of each row, in passes that stop when all are seen.

    Rows are cut after their position: what follows cannot matter to a causal model.

    Args:
        handle: The model.
        ids: Token ids of each row.
        positions: For each row, the index of the token to look at.
        key_layers: Layers whose key is wanted: the input of the edited matrix.
        hidden_layers: Layers whose output is wanted: the residual stream that leaves the block.
        max_tokens: Size of one pass.

    Returns:
        Keys by layer [n, d_in], and hidden states by layer [n, d_out]; float32 (float64 in a
        float64 model) on the model's device.

    Raises:
        ConfigError: a position outside its row, or a layer that does not exist.
        ModelError: a row is longer than the model can read.
    """
    check_rows(handle, ids, positions)
    keys: dict[int, list[Tensor]] = {layer: [] for layer in key_layers}
    hidden: dict[int, list[Tensor]] = {layer: [] for layer in hidden_layers}
    order = sorted(range(len(ids)), key=lambda i: positions[i])
    for chunk in _chunks(order, [positions[i] + 1 for i in order], max_tokens):
        rows = [list(ids[i][: positions[i] + 1]) for i in chunk]
        at = torch.tensor([positions[i] for i in chunk])
        _capture_once(handle, rows, at, keys, hidden)
    back = torch.tensor(order, dtype=torch.long).argsort().to(handle.device)

    def joined(store: dict[int, list[Tensor]]) -> dict[int, Tensor]:
        return {layer: torch.cat(parts)[back] for layer, parts in store.items() if parts}

    return joined(keys), joined(hidden)


def keys_at(
    handle: ModelHandle,
    ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    layers: Sequence[int],
) -> dict[int, Tensor]:
    """Keys at `positions`, by layer [n, d_in]; see `capture`."""
    return capture(handle, ids, positions, key_layers=layers)[0]


def hidden_at(
    handle: ModelHandle, ids: Sequence[Sequence[int]], positions: Sequence[int], layer: int
) -> Tensor:
    """Hidden states that leave block `layer` at `positions`, [n, d_out]; see `capture`."""
    return capture(handle, ids, positions, hidden_layers=[layer])[1][layer]


def _chunks(order: Sequence[int], lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut `order`, sorted by `lengths`, into runs of at most `budget` padded tokens."""
    chunks: list[list[int]] = []
    for index, length in zip(order, lengths, strict=True):
        if chunks and (len(chunks[-1]) + 1) * length <= budget:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks


@torch.no_grad()
def _capture_once(
    handle: ModelHandle,
    rows: list[list[int]],
    at: Tensor,
    keys: dict[int, list[Tensor]],
    hidden: dict[int, list[Tensor]],
) -> None:
    ids, _ = handle.tokens.pad(rows, "right")
    waiting = len(keys) + len(hidden)

    def keeper(store: list[Tensor], tensor: Tensor) -> None:
        nonlocal waiting
        # Some models flatten rows and positions into one before their MLP.
        tensor = tensor.reshape(len(at), -1, tensor.shape[-1])
        picked = tensor[torch.arange(len(at), device=tensor.device), at.to(tensor.device)]
        store.append(picked.to(handle.device, handle.wide))
        waiting -= 1
        if waiting == 0:
            raise StopForward

    with stoppable(), ExitStack() as stack:
        for layer, store in keys.items():
            see = lambda t, s=store: keeper(s, t)  # noqa: E731
            stack.enter_context(on_input(handle.edited_module(layer), see))
        for layer, store in hidden.items():
            see = lambda t, s=store: keeper(s, t)  # noqa: E731
            stack.enter_context(on_output(handle.block(layer), see))
        if waiting:
            # Padding lies behind every token that is looked at, so nothing needs to be masked.
            handle.forward(ids, torch.ones_like(ids), use_cache=False)
