"""Run the layers after one, on the positions from a row's start on: what target values need.

The model's own blocks are called with the arguments that the model itself gave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from alphaedit.core.errors import ArchitectureError, ConfigError, ModelError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import (
    See,
    StopForward,
    on_input,
    on_output,
    output_of,
    stoppable,
    with_hidden,
)
from alphaedit.model.passes.agree import allowed, gap_between
from alphaedit.model.passes.prefix_cache import keys_and_values_of
from alphaedit.model.passes.sparse_mlp import sparse_mlp
from alphaedit.model.passes.static_cache import static_rows, with_space, without_layers


def check_rows(handle: ModelHandle, ids: Sequence[Sequence[int]], positions: Sequence[int]) -> None:
    """Refuse rows that the model cannot read, and positions outside them.

    Raises:
        ConfigError: a position lies outside its row.
        ModelError: a row is longer than the model can read.
    """
    for row, position in zip(ids, positions, strict=True):
        if not 0 <= position < len(row):
            raise ConfigError(
                f"Position {position} lies outside a row of {len(row)} tokens.",
                remedy="Give the index of a token of the row.",
            )
    longest, limit = max((len(row) for row in ids), default=0), handle.max_positions
    if limit is not None and longest > limit:
        raise ModelError(
            f"A text has {longest} tokens; the model reads at most {limit}.",
            remedy="Shorten the prompt, the target or the contexts.",
        )


class TailPass:
    """The rows of a batch from each row's start on; all before is constant keys and values.

    Made by `build`. Attributes:
        clean: Hidden states that leave `layer`, [B, S, h] in the model's dtype. Index 0 is the
            token at the row's start; places behind a row's end hold padding.
        starts: [B] int64.
        lengths: [B] int64, number of tokens of each row from its start on.
    """

    def __init__(
        self,
        handle: ModelHandle,
        layer: int,
        clean: Tensor,
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
        prefix: Cache | None,
        starts: Tensor,
        lengths: Tensor,
    ) -> None:
        self.handle = handle
        self.layer = layer
        self.clean = clean
        self.starts = starts
        self.lengths = lengths
        self._whole = (calls, None if prefix is None else without_layers(prefix, layer + 1))
        self._selected: tuple[list[int], Any] | None = None
        last = handle.n_layers - 1
        self._reading = sparse_mlp(handle, last) if layer < last else None

    @classmethod
    def build(
        cls,
        handle: ModelHandle,
        rows: Sequence[Sequence[int]],
        starts: Sequence[int],
        layer: int,
        *,
        prefix: Cache | None = None,
        check: bool = True,
    ) -> TailPass:
        """Run the rows once, without gradients, and keep what the layers after `layer` need.

        Keys and values of the tokens before the starts are padded on the left so that the starts
        align; each token keeps the position it has in its row.

        Args:
            handle: The model.
            rows: Token ids of each row.
            starts: For each row, the first token that may change (the subject's last).
            layer: The block whose output may change; -1 for what enters the first block.
            prefix: Keys and values of the tokens before the starts, where they are known; see
                `keys_and_values_of`.
            check: Compare one row with a plain pass through the whole model.

        Raises:
            ConfigError: a start outside its row, or a layer that does not exist.
            ModelError: a row is longer than the model can read.
            ArchitectureError: the model cannot be run in parts: `check` failed.
        """
        check_rows(handle, rows, starts)
        if not rows:
            raise ConfigError("No rows were given.", remedy="Give at least one row.")
        if layer >= 0:
            handle.block(layer)
        with torch.no_grad():
            tail, final = cls._build(handle, rows, starts, layer, prefix, whole=check)
            if final is not None:
                _check_against_plain(tail, rows, starts, final)
        return tail

    @classmethod
    def _build(
        cls,
        handle: ModelHandle,
        rows: Sequence[Sequence[int]],
        starts: Sequence[int],
        layer: int,
        prefix: Cache | None,
        *,
        whole: bool,
    ) -> tuple[TailPass, Tensor | None]:
        """The tail, and if `whole` what leaves the last block of the plain pass."""
        before = [row[:start] for row, start in zip(rows, starts, strict=True)]
        after = [row[start:] for row, start in zip(rows, starts, strict=True)]
        start, count = torch.tensor([len(r) for r in before]), torch.tensor([len(r) for r in after])
        last = handle.block(handle.n_layers - 1)
        final: list[Tensor] = []

        def keep_final(tensor: Tensor) -> None:
            final.append(tensor)
            raise StopForward

        if prefix is None and any(before):
            prefix = keys_and_values_of(handle, before, upto=handle.n_layers - 1)
        ids, _ = handle.tokens.pad(after, "right")
        if prefix is not None:
            prefix = with_space(prefix, ids.shape[1])
        _, seen = handle.tokens.pad(before, "left")
        mask = torch.cat([seen, torch.ones_like(ids)], dim=1)
        places = start[:, None] + torch.arange(ids.shape[1]).minimum(count[:, None] - 1)
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        clean: list[Tensor] = []

        def keep_call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((args, kwargs))
            if not whole and module is last:
                raise StopForward

        with stoppable(), ExitStack() as stack:
            stack.enter_context(leaving(handle, layer, clean.append))
            for index in range(layer + 1, handle.n_layers):
                hook = handle.block(index).register_forward_pre_hook(keep_call, with_kwargs=True)
                stack.callback(hook.remove)
            stack.enter_context(on_output(last, keep_final))
            handle.forward(
                ids,
                mask,
                positions=places,
                cache=prefix,
                use_cache=prefix is not None,
            )
        # The hidden states are given anew in every run: do not keep them alive.
        calls = [with_hidden(args, kwargs, clean[0][:0]) for args, kwargs in calls]
        tail = cls(handle, layer, clean[0], calls, prefix, start, count)
        return tail, final[0] if final else None

    def run(
        self, hidden: Tensor, rows: Tensor | None = None, reads: Tensor | None = None
    ) -> Tensor:
        """Run the layers after `layer` on `hidden`; gradients flow back to it.

        Gradients of one run must be taken before the next begins.

        Args:
            hidden: [B, S, h], what leaves `layer`.
            rows: [B] indices of the rows that `hidden` holds, where it does not hold all.
            reads: [n] places in [B x S] at which the result is looked at, where not at all; at
                others it may be anything.

        Returns:
            What leaves the last block, before the final norm, [B, S, h].
        """
        calls, cache = self._select(rows)
        for index, (args, kwargs) in enumerate(calls, start=self.layer + 1):
            block = self.handle.block(index)
            if reads is not None and self._reading and index == self.handle.n_layers - 1:
                block, only = self._reading
                only.at = reads
            hidden = run_block(block, (args, kwargs), hidden, cache)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states that left the last block: [..., h] to [..., vocabulary]."""
        return self.handle.logits(hidden)

    def _select(self, rows: Tensor | None) -> tuple[Any, Cache | None]:
        batch = self.clean.shape[0]
        if rows is None:
            return self._whole
        wanted = rows.tolist()
        if wanted == list(range(batch)):
            return self._whole
        if self._selected is None or self._selected[0] != wanted:
            calls, prefix = self._whole
            heads = getattr(self.handle.model.config.get_text_config(), "num_attention_heads", 0)
            picked = [_rows_of(call, rows, batch, heads) for call in calls]
            if prefix is not None:
                prefix = static_rows(prefix, rows)
            self._selected = (wanted, (picked, prefix))
        chosen: tuple[Any, Cache | None] = self._selected[1]
        return chosen


def leaving(handle: ModelHandle, layer: int, see: See) -> AbstractContextManager[None]:
    """While the block runs, call `see` with what leaves `layer`, or enters the first block (-1)."""
    if layer < 0:
        return on_input(handle.block(0), see)
    return on_output(handle.block(layer), see)


def run_block(
    block: nn.Module,
    call: tuple[tuple[Any, ...], dict[str, Any]],
    hidden: Tensor,
    cache: Cache | None,
) -> Tensor:
    """What leaves `block`, called as the model called it but with other hidden states and cache."""
    args, kwargs = call
    args, kwargs = with_hidden(with_cache(args, cache), with_cache(kwargs, cache), hidden)
    out = output_of(block(*args, **kwargs))
    assert out is not None
    return out


def with_cache(value: Any, cache: Cache | None) -> Any:
    """Replace every Cache among arguments."""
    if isinstance(value, dict):
        return {name: with_cache(item, cache) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(with_cache(item, cache) for item in value)
    return cache if isinstance(value, Cache) else value


def _rows_of(value: Any, rows: Tensor, batch: int, heads: int) -> Any:
    """The given rows of every batched tensor in `value`.

    Batched is a tensor of two dimensions or more whose first is `batch`, or batch x heads (biases
    by position); all others are shared by the rows.
    """
    if isinstance(value, dict):
        return {name: _rows_of(item, rows, batch, heads) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_rows_of(item, rows, batch, heads) for item in value)
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    index = rows.to(value.device)
    if value.shape[0] == batch:
        return value[index]
    if value.shape[0] == batch * heads:
        return value.unflatten(0, (batch, heads))[index].flatten(0, 1)
    return value


def _check_against_plain(
    tail: TailPass, rows: Sequence[Sequence[int]], starts: Sequence[int], final: Tensor
) -> None:
    """Compare the row with most padding to a plain pass through the model, and to `run`."""
    handle, index = tail.handle, min(range(len(rows)), key=lambda i: (starts[i] == 0, starts[i]))
    seen: dict[str, Tensor] = {}

    def keep_last(tensor: Tensor) -> None:
        seen["final"] = tensor
        raise StopForward

    ids = torch.tensor([list(rows[index])])
    with (
        stoppable(),
        leaving(handle, tail.layer, lambda t: seen.update(clean=t)),
        on_output(handle.block(handle.n_layers - 1), keep_last),
    ):
        handle.forward(ids, torch.ones_like(ids), use_cache=False)
    picked = torch.tensor([index])
    tokens = int(tail.lengths[index])
    mine = tail.clean[picked.to(tail.clean.device)]
    rerun = tail.run(mine, rows=picked)
    read = tail.run(mine, rows=picked, reads=torch.tensor([tokens - 1]))
    pairs = [
        (tail.clean[index, :tokens], seen["clean"][0, starts[index] :]),
        (final[index, :tokens], seen["final"][0, starts[index] :]),
        (rerun[0, :tokens], seen["final"][0, starts[index] :]),
        (read[0, tokens - 1], seen["final"][0, -1]),
    ]
    for ours, plain in pairs:
        gap = gap_between(handle, ours, plain)
        if not gap <= allowed(final.dtype):
            raise ArchitectureError(
                f"{type(handle.model).__name__} run in parts differs from a plain pass by "
                f"{gap:.1e} of the hidden states.",
                remedy="Looked for blocks that depend on nothing but their arguments and the "
                "key-value cache. Try another attention implementation, such as 'eager', or "
                "check the model for NaN.",
            )
