"""Run again only what a restored state can change: the blocks after it, the tokens from it on.

Rows of one length are run once, corrupted, and everything they leave is kept. A row with one state
restored then starts from what was kept: earlier tokens are keys and values, earlier blocks are not
run. The model's own blocks are called with the arguments that the model itself gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from alphaedit.core.errors import ArchitectureError
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
from alphaedit.model.passes.prefix_cache import fresh, pass_tokens

LOGITS_AT_ONCE = 2**24
"""Logits computed at a time."""


@dataclass(frozen=True)
class Recorded:
    """What one pass left behind.

    Attributes:
        entering: what enters each block, and what leaves the last, [rows, length, h] each.
        outputs: what the watched modules returned, [rows, length, h] each.
        cache: keys and values of all blocks.
    """

    entering: list[Tensor]
    outputs: list[Tensor]
    cache: Cache


def record(
    handle: ModelHandle, ids: Tensor, watched: Sequence[nn.Module] = (), corrupt: See | None = None
) -> Recorded:
    """Run rows of equal length, [rows, length], up to the last block.

    Args:
        handle: The model.
        ids: Token ids.
        watched: One module of each block, whose outputs are kept.
        corrupt: Applied to the embeddings.
    """
    entering: list[Tensor] = []
    outputs: list[Tensor] = []

    # Copies, because some models add to what a module returned in place.
    def keep_input(tensor: Tensor) -> None:
        entering.append(tensor.clone())

    def keep_output(tensor: Tensor) -> None:
        # Some models flatten rows and positions into one before their MLP.
        outputs.append(tensor.clone().view(*ids.shape, -1))

    def keep_last(tensor: Tensor) -> None:
        entering.append(tensor)
        raise StopForward

    cache = DynamicCache()
    with stoppable(), ExitStack() as stack:
        if corrupt is not None:
            stack.enter_context(on_output(handle.embed, corrupt))
        for block in handle.layers:
            stack.enter_context(on_input(block, keep_input))
        for module in watched:
            stack.enter_context(on_output(module, keep_output))
        stack.enter_context(on_output(handle.block(handle.n_layers - 1), keep_last))
        handle.forward(ids, torch.ones_like(ids), cache=cache, use_cache=True)
    return Recorded(entering, outputs, cache)


def probabilities(handle: ModelHandle, hidden: Tensor, answers: Tensor) -> Tensor:
    """Probability of each row's answer [n] after hidden states [n, h] that left the last block."""
    table = handle.embed.weight
    assert isinstance(table, Tensor)
    rows = max(1, LOGITS_AT_ONCE // table.shape[0])
    parts = []
    for part, wanted in zip(hidden.split(rows), answers.split(rows), strict=True):
        logits = handle.logits(part).to(handle.wide)
        parts.append(logits.softmax(-1).gather(1, wanted.to(logits.device)[:, None])[:, 0])
    return torch.cat(parts)


@dataclass(frozen=True)
class Restoring:
    """What is restored for each layer of a trace.

    Attributes:
        layers: for each layer of the trace, the blocks whose watched output is restored; with
            `modules` empty, the one whose own output, the hidden state, is.
        modules: the watched modules, one of each block.
    """

    layers: tuple[range, ...]
    modules: tuple[nn.Module, ...] = ()

    def joins(self, layer: int) -> int:
        """The first block to run with `layer` restored."""
        return self.layers[layer].start if self.modules else layer + 1


class Rerun:
    """The corrupted rows of some facts, to be run again with states restored.

    Args:
        handle: The model.
        ids: [facts, length] token ids, the facts in order of their first corrupted token.
        clean: A pass over `ids`.
        corrupted: A pass over the same with noise, [facts x samples, length].
        samples: Rows of each fact in `corrupted`.
        answers: [facts] token ids whose probability is asked for.
    """

    def __init__(
        self,
        handle: ModelHandle,
        ids: Tensor,
        clean: Recorded,
        corrupted: Recorded,
        samples: int,
        answers: Tensor,
    ) -> None:
        self.handle = handle
        self.ids = ids
        self.clean = clean
        self.corrupted = corrupted
        self.samples = samples
        self.answers = answers

    def restored(self, what: Restoring, place: int, facts: int) -> Tensor:
        """Mean probability of the answers with clean states at `place`, [layers, facts].

        Args:
            what: What is restored.
            place: Index of the token; what is restored at it is its state only.
            facts: How many facts to run, from the first on.
        """
        tokens = self.ids.shape[1] - place
        at_once = max(1, pass_tokens(self.handle) // (facts * self.samples * tokens))
        tail = _Tail(self, place, facts)
        lots = torch.arange(self.handle.n_layers).split(at_once)
        return torch.cat([tail.run(what, lot.tolist()) for lot in lots])

    def check(self, place: int) -> None:
        """Run the corrupted rows again from `place` on, with nothing restored.

        Raises:
            ArchitectureError: they end elsewhere than in the pass through the whole model.
        """
        tail = _Tail(self, place, len(self.ids))
        again = tail.ending(lambda block: [self.corrupted.entering[0][:, place:]] * (block == 0))
        whole = self.corrupted.entering[-1][:, -1]
        gap = gap_between(self.handle, again, whole)
        if not gap <= allowed(self.handle.dtype):
            raise ArchitectureError(
                f"{type(self.handle.model).__name__} run in parts differs from a plain pass by "
                f"{gap:.1e} of the hidden states.",
                remedy="Looked for blocks that depend on nothing but their arguments and the "
                "key-value cache. Try another attention implementation, such as 'eager'.",
            )


class _Tail:
    """The tokens from `place` on, of the first `facts` facts."""

    def __init__(self, whole: Rerun, place: int, facts: int) -> None:
        self.whole = whole
        self.handle = whole.handle
        self.place = place
        self.facts = facts
        self.rows = facts * whole.samples
        self.front = _front(whole.corrupted.cache, self.rows, place)
        self.calls = self._calls()

    def _calls(self) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """How the model calls its blocks on the tokens of one row."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        ids = self.whole.ids[:1]
        last = self.handle.block(self.handle.n_layers - 1)

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((args, kwargs))
            if module is last:
                raise StopForward

        with stoppable(), ExitStack() as stack:
            for block in self.handle.layers:
                stack.callback(block.register_forward_pre_hook(keep, with_kwargs=True).remove)
            self.handle.forward(
                ids[:, self.place :],
                torch.ones_like(ids),
                positions=torch.arange(self.place, ids.shape[1])[None],
                cache=_front(self.whole.clean.cache, 1, self.place),
                use_cache=True,
            )
        return calls

    def ending(
        self,
        joining: Callable[[int], Sequence[Tensor]],
        around: Callable[[int, Tensor], None] | None = None,
        watched: Sequence[nn.Module] = (),
    ) -> Tensor:
        """What leaves the last block at the last token, [rows, h], of all that joined.

        Args:
            joining: Rows that enter with each block, [a multiple of `rows`, tokens, h] each.
            around: Called with the block's number and its watched module's output, a copy of it
                as [rows, tokens, h], to be changed in place.
            watched: One module of each block.
        """
        hidden: Tensor | None = None
        for block in range(self.handle.n_layers + 1):
            new = list(joining(block))
            if new:
                hidden = torch.cat([*([] if hidden is None else [hidden]), *new])
            if block == self.handle.n_layers or hidden is None:
                continue
            with ExitStack() as stack:
                if around is not None:
                    see = _changed(around, block, hidden.shape[:2])
                    stack.enter_context(on_output(watched[block], see))
                hidden = self._block(block, hidden)
        assert hidden is not None
        return hidden[:, -1]

    def _block(self, block: int, hidden: Tensor) -> Tensor:
        count = len(hidden)
        cache = fresh(self.front)
        times = count // self.rows
        if times > 1:
            _each(cache, lambda tensor: tensor.repeat(times, 1, 1, 1), [block])
        heads = getattr(self.handle.model.config.get_text_config(), "num_attention_heads", 0)
        args, kwargs = (_for_rows(part, count, heads, cache) for part in self.calls[block])
        args, kwargs = with_hidden(args, kwargs, hidden)
        out = output_of(self.handle.block(block)(*args, **kwargs))
        assert out is not None
        return out

    def run(self, what: Restoring, layers: Sequence[int]) -> Tensor:
        """Mean probability of the answers with each of `layers` restored, [layers, facts]."""
        whole, samples = self.whole, self.whole.samples

        def clean(states: list[Tensor], index: int) -> Tensor:
            return states[index][: self.facts, self.place].repeat_interleave(samples, 0)

        def joining(block: int) -> list[Tensor]:
            start = whole.corrupted.entering[block][: self.rows, self.place :]
            count = sum(what.joins(layer) == block for layer in layers)
            if count and not what.modules:
                start = start.clone()
                start[:, 0] = clean(whole.clean.entering, block)
            return [start] * count

        def restore(block: int, output: Tensor) -> None:
            active = [i for i, layer in enumerate(layers) if block in what.layers[layer]]
            if active:
                put = clean(whole.clean.outputs, block).to(output)
                rows = slice(active[0] * self.rows, (active[-1] + 1) * self.rows)
                output[rows, 0] = put.repeat(len(active), 1)

        around = restore if what.modules else None
        ending = self.ending(joining, around, what.modules)
        answers = whole.answers[: self.facts].repeat_interleave(samples).repeat(len(layers))
        p = probabilities(self.handle, ending, answers)
        return p.view(len(layers), self.facts, samples).mean(2)


def _changed(around: Callable[[int, Tensor], None], block: int, shape: torch.Size) -> See:
    def see(tensor: Tensor) -> Tensor:
        copy = tensor.clone()
        around(block, copy.view(*shape, -1))
        return copy

    return see


def _front(cache: Cache, rows: int, width: int) -> Cache:
    """The first `width` columns of the first `rows` rows."""
    new = fresh(cache)
    _each(new, lambda tensor: tensor[:rows, :, :width], range(len(new.layers)))
    return new


def _each(cache: Cache, turned: Callable[[Tensor], Tensor], blocks: Iterable[int]) -> None:
    """Put `turned` keys and values, [rows, heads, width, size], in place of those of `blocks`."""
    for block in blocks:
        layer = cache.layers[block]
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor):
                setattr(layer, name, turned(tensor))


def _for_rows(value: Any, rows: int, heads: int, cache: Cache) -> Any:
    """Arguments of a block that were given for one row, for `rows` rows that are alike.

    Batched is a tensor of two dimensions or more whose first is 1, or the number of heads (biases
    by position).
    """
    if isinstance(value, Cache):
        return cache
    if isinstance(value, dict):
        return {name: _for_rows(item, rows, heads, cache) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_for_rows(item, rows, heads, cache) for item in value)
    if not isinstance(value, Tensor) or value.ndim < 2:
        return value
    if value.shape[0] == 1:
        return value.expand(rows, *value.shape[1:])
    if value.shape[0] == heads:
        return value.repeat(rows, *[1] * (value.ndim - 1))
    return value
