"""Rows that wait in front of a block and go on through the next ones as their matrices change.

What leaves the blocks before the first edited one does not change while a batch is edited: it is
computed once. From then on only the blocks whose result changed are run again, and what rows share
at their front is run once, as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from alphaedit.core.errors import ConfigError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import (
    StopForward,
    hidden_of,
    on_output,
    stoppable,
    with_hidden,
)
from alphaedit.model.keys import Keys, Plain, on_keys, places_of
from alphaedit.model.passes.prefix_cache import Chunk, PrefixCaches, StoppingCache, forward_rows
from alphaedit.model.passes.sparse_mlp import sparse_mlp
from alphaedit.model.passes.tail_pass import check_rows, run_block, with_cache

Seen = dict[str, Tensor]


@dataclass(eq=False)
class _Pass:
    """A padded pass of some rows.

    Attributes:
        shared: it runs what other rows begin with: nothing is looked at in it.
        cached: it has keys and values of its own.
        hidden: what enters the block that the walk has come to, [n, length, d_out].
        calls: the other arguments of each block.
    """

    chunk: Chunk
    shared: bool
    cached: bool
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)


class LayerwiseKeys:
    """Keys and hidden states of rows, layer by layer, with the weights as they are at the time.

    Args:
        handle: The model.
        rows: Token ids of each row.
        positions: For each row, the index of the token to look at.
        first: The first block whose weights may change.
        last: The last block to look at.
        hidden: Whether hidden states that leave `last` will be asked for.

    Raises:
        ConfigError: a position outside its row, or a layer that does not exist.
        ModelError: a row is longer than the model can read.
    """

    def __init__(
        self,
        handle: ModelHandle,
        rows: Sequence[Sequence[int]],
        positions: Sequence[int],
        first: int,
        last: int,
        *,
        hidden: bool = False,
    ) -> None:
        check_rows(handle, rows, positions)
        handle.block(first), handle.block(last)
        self.handle = handle
        self.first, self.last, self.hidden = first, last, hidden
        self.at = first
        self._wanted = last + 1 - first
        cut = [list(row[: at + 1]) for row, at in zip(rows, positions, strict=True)]
        self.count = len(cut)
        self._passes: list[_Pass] = []
        self._begun: Seen | None = {}

        end = last if hidden or first == last else None

        @contextmanager
        def around(chunk: Chunk, shared: bool = False) -> Iterator[None]:
            pass_ = _Pass(chunk, shared, chunk.cache is not None)
            with ExitStack() as stack:
                for layer in range(first, last + 1):
                    keep = self._keeper(pass_, layer)
                    block = handle.block(layer)
                    stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
                if not shared:
                    assert self._begun is not None
                    stack.enter_context(self._watching(pass_, first, end, self._begun))
                yield
            self._passes.append(pass_)

        limits = list(positions)
        prefixes = lambda chunk: around(chunk, shared=True)  # noqa: E731
        forward_rows(handle, cut, limits, around, upto=last, around_prefixes=prefixes)
        self._forget()

    def _forget(self) -> None:
        """Let go of keys and values: every run makes its own."""
        for pass_ in self._passes:
            if pass_.chunk.prefixes is not None:
                parts = pass_.chunk.prefixes.parts
                parts[:] = [replace(part, cache=None) for part in parts]
            pass_.chunk = replace(pass_.chunk, cache=None)

    def _keeper(self, pass_: _Pass, layer: int) -> Callable[..., None]:
        def keep(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = hidden_of(args, kwargs)
            assert hidden is not None
            if layer == self.first:
                pass_.hidden = hidden
            args, kwargs = with_hidden(args, kwargs, hidden[:0])
            place = StoppingCache()  # where that of a run goes
            pass_.calls.append((with_cache(args, place), with_cache(kwargs, place)))
            if layer == self.last > self.first and not self.hidden:
                raise StopForward

        return keep

    @contextmanager
    def _watching(self, pass_: _Pass, layer: int, upto: int | None, seen: Seen) -> Iterator[None]:
        """Keep the keys of `layer`, and what leaves `upto` or nothing, of the rows of `pass_`."""
        handle, at = self.handle, pass_.chunk.tokens - 1

        def keep(name: str, keys: Keys) -> None:
            # One place of each row is left where the MLP runs at the positions alone.
            picked = keys.at(places_of(keys, at)).to(handle.device, handle.wide)
            if name not in seen:
                seen[name] = picked.new_empty(self.count, picked.shape[-1])
            seen[name][pass_.chunk.rows] = picked
            if name == "hidden" or (upto is None and len(pass_.calls) == self._wanted):
                raise StopForward

        with stoppable(), ExitStack() as stack:
            stack.enter_context(on_keys(handle, layer, lambda keys: keep("keys", keys)))
            if upto is not None:
                hidden = lambda t: keep("hidden", Plain(t))  # noqa: E731
                stack.enter_context(on_output(handle.block(upto), hidden))
            yield

    @torch.no_grad()
    def keys(self, layer: int, *, hidden: bool = False) -> tuple[Tensor, Tensor | None]:
        """Keys at the rows' positions, with the weights as they are now.

        Weights of the blocks before the one that the last call asked for must be as they were.

        Args:
            layer: not before that of the last call.
            hidden: give the hidden states that leave block `last` as well.

        Returns:
            keys [n, d_in] and hidden states [n, d_out], float32 (float64 in a float64 model).

        Raises:
            ConfigError: the walk is past `layer`, does not go as far, or was not made for hidden
                states.
        """
        if hidden and not self.hidden:
            raise ConfigError("This walk gives keys alone.", remedy="Make it with hidden=True.")
        if not self.at <= layer <= self.last:
            raise ConfigError(
                f"A walk at layer {self.at} of at most {self.last} was asked for layer {layer}.",
                remedy="Ask for layers in ascending order.",
            )
        seen, self._begun = self._begun, None
        if seen is None or layer > self.first:
            seen = self._go(layer, self.last if hidden else None)
        return seen["keys"], seen["hidden"] if hidden else None

    def _go(self, layer: int, upto: int | None) -> Seen:
        """Run all passes to `layer`, where they then wait, and look on."""
        seen: Seen = {}
        grown: dict[int, Cache | None] = {}
        fronts: dict[int, Cache] = {}
        for pass_ in self._passes:
            cache = self._cache(pass_, grown, fronts)
            grown[id(pass_.chunk.rows)] = cache
            with stoppable(), ExitStack() as stack:
                if pass_.shared:
                    assert isinstance(cache, StoppingCache)
                    cache.stop_after = layer if upto is None else upto
                else:
                    stack.enter_context(self._watching(pass_, layer, upto, seen))
                hidden = pass_.hidden
                for index in range(self.at, self.last + 1):
                    if index == layer:
                        pass_.hidden = hidden
                    ends = index == (layer if upto is None else upto) and not pass_.shared
                    hidden = self._block(index, pass_, hidden, cache, ends=ends)
            if isinstance(cache, StoppingCache):
                cache.stop_after = None
        self.at = layer
        return seen

    def _block(
        self, index: int, pass_: _Pass, hidden: Tensor, cache: Cache | None, *, ends: bool
    ) -> Tensor:
        """Run one block; where the pass `ends` with it, its MLP at the rows' positions alone."""
        block = self.handle.block(index)
        reading = sparse_mlp(self.handle, index) if ends else None
        if reading is not None:
            block, only = reading
            only.at = torch.arange(len(hidden)) * hidden.shape[1] + pass_.chunk.tokens - 1
        return run_block(block, pass_.calls[index - self.first], hidden, cache)

    def _cache(
        self, pass_: _Pass, grown: dict[int, Cache | None], fronts: dict[int, Cache]
    ) -> Cache | None:
        """Keys and values in front of a pass, by the passes of this run before it."""
        prefixes: PrefixCaches | None = pass_.chunk.prefixes
        if prefixes is None:
            return StoppingCache() if pass_.cached else None
        if id(prefixes) not in fronts:
            fronts[id(prefixes)] = prefixes.gathered(
                [grown[id(part.rows)] for part in prefixes.parts]
            )
        return pass_.chunk.front(fronts[id(prefixes)])
