"""Run no more of a model than is needed: one pass that stops early, and only the last layers.

The model's own modules are called with the arguments that the model itself gave them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor

from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_output, stoppable
from alphaedit.model.keys import Keys, Plain, on_keys, places_of
from alphaedit.model.passes.prefix_cache import Chunk, forward_rows
from alphaedit.model.passes.tail_pass import TailPass, check_rows

__all__ = ["TailPass", "capture", "hidden_at", "keys_at"]


def capture(
    handle: ModelHandle,
    ids: Sequence[Sequence[int]],
    positions: Sequence[int],
    *,
    key_layers: Sequence[int] = (),
    hidden_layers: Sequence[int] = (),
    max_tokens: int | None = None,
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Keys and hidden states at one position of each row, in passes that stop when all are seen.

    Rows are cut after their position: what follows cannot matter to a causal model. What rows
    share at their front is run once.

    Args:
        handle: The model.
        ids: Token ids of each row.
        positions: For each row, the index of the token to look at.
        key_layers: Layers whose key is wanted: the input of the edited matrix.
        hidden_layers: Layers whose output is wanted: the residual stream that leaves the block.
        max_tokens: Size of one pass; by default what suits the device.

    Returns:
        Keys by layer [n, d_in], and hidden states by layer [n, d_out]; float32 (float64 in a
        float64 model) on the model's device.

    Raises:
        ConfigError: a position outside its row, or a layer that does not exist.
        ModelError: a row is longer than the model can read.
    """
    check_rows(handle, ids, positions)
    rows = [list(row[: at + 1]) for row, at in zip(ids, positions, strict=True)]
    keys = {layer: _Store(handle, rows, layer) for layer in key_layers}
    hidden = {layer: _Store(handle, rows, layer) for layer in hidden_layers}
    if rows and (keys or hidden):
        last = max([*key_layers, *hidden_layers])
        around = partial(_stored, handle, keys, hidden)
        forward_rows(handle, rows, list(positions), around, upto=last, max_tokens=max_tokens)
    return (
        {layer: store.tensor for layer, store in keys.items() if store.tensor is not None},
        {layer: store.tensor for layer, store in hidden.items() if store.tensor is not None},
    )


@contextmanager
def _stored(
    handle: ModelHandle, keys: Mapping[int, _Store], hidden: Mapping[int, _Store], chunk: Chunk
) -> Iterator[None]:
    """Keep what each layer shows of one pass, which ends when all is seen."""
    at, seen, wanted = chunk.tokens - 1, 0, len(keys) + len(hidden)

    def keeper(store: _Store, shown: Keys) -> None:
        nonlocal seen
        store.take(chunk.rows, shown.at(places_of(shown, at)))
        seen += 1
        if seen == wanted:
            raise StopForward

    with stoppable(), ExitStack() as stack:
        for layer, store in keys.items():
            see = lambda k, s=store: keeper(s, k)  # noqa: E731
            stack.enter_context(on_keys(handle, layer, see))
        for layer, store in hidden.items():
            leaves = lambda t, s=store: keeper(s, Plain(t))  # noqa: E731
            stack.enter_context(on_output(handle.block(layer), leaves))
        yield


class _Store:
    """What was seen of each row, [n, size]."""

    def __init__(self, handle: ModelHandle, rows: Sequence[Sequence[int]], layer: int) -> None:
        handle.block(layer)
        self.handle = handle
        self.count = len(rows)
        self.tensor: Tensor | None = None

    def take(self, rows: list[int], picked: Tensor) -> None:
        """Keep `picked` [n, size]."""
        picked = picked.to(self.handle.device, self.handle.wide)
        if self.tensor is None:
            self.tensor = picked.new_empty(self.count, picked.shape[-1])
        self.tensor[rows] = picked


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
