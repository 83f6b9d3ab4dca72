"""Rows that begin alike: what they share is run once, and its keys and values serve them all.

Prompts of one batch share contexts, subjects and whole questions; only the tokens in which they
differ need a pass of their own. What is shared among the shared parts is found in the same way.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache

from alphaedit.core.errors import ModelError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_output, stoppable

WORTHWHILE = 0.2
"""Sharing that saves a smaller part of the tokens than this is not worth a pass of its own."""


@dataclass(frozen=True)
class Chunk:
    """Some of the rows, in one pass.

    Attributes:
        rows: Their indices.
        skipped: Tokens at the front of each that this pass does not run, [n] int64.
        tokens: Tokens of each that it runs, at the front of a padded batch, [n] int64.
        cache: Keys and values of the tokens in front, grown by those of this pass.
        prefixes: What the tokens in front belong to, if they were run before.
        prefix: For each row, its prefix among these, [n] int64.
    """

    rows: list[int]
    skipped: Tensor
    tokens: Tensor
    cache: Cache | None
    prefixes: PrefixCaches | None = None
    prefix: Tensor | None = None

    @property
    def ends(self) -> Tensor:
        """Column behind each row's last token in the cache's tensors, [n] int64."""
        return int(self.skipped.max()) + self.tokens

    def front(self, cache: Cache) -> Cache:
        """Keys and values of the tokens in front, out of those of the prefixes."""
        assert self.prefix is not None
        return rows_of_cache(cache, self.prefix, int(self.skipped.max()))


@dataclass(frozen=True, eq=False)
class PrefixCaches:
    """Beginnings of rows, as they were run: each is that of a row of `parts`.

    Attributes:
        parts: Passes that ran them.
        owner: For each beginning, the row of the passes.
        surplus: How many tokens that row has behind the beginning's end.
        width: The longest of them.
    """

    parts: list[Chunk]
    owner: list[int]
    surplus: list[int]
    width: int

    def gathered(self, caches: Sequence[Cache | None] | None = None) -> Cache:
        """Keys and values of all, to the right end of `width` columns.

        Args:
            caches: those of `parts` in another run, in their order.
        """
        parts = self.parts
        if caches is not None:
            parts = [replace(p, cache=c) for p, c in zip(parts, caches, strict=True)]
        return _gathered(parts, self.owner, self.surplus, self.width)


class StoppingCache(DynamicCache):
    """Leaves the pass once it holds the keys and values of block `stop_after`."""

    stop_after: int | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """See DynamicCache."""
        grown: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *args, **kwargs
        )
        if layer_idx == self.stop_after:
            raise StopForward
        return grown


Around = Callable[[Chunk], AbstractContextManager[None]]
"""Called before each pass; the pass runs inside the context it returns."""


def pass_tokens(handle: ModelHandle) -> int:
    """Tokens of one pass, padding included: what fits the caches of a CPU, much on a GPU."""
    return 1024 if handle.device.type == "cpu" else 16384


def share(
    rows: Sequence[Sequence[int]], limits: Sequence[int]
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The longest beginning that each row shares with another, of at most `limits` tokens.

    Returns:
        The distinct prefixes, and for each row the index of its own or -1. No prefixes at all where
        they would save too little.
    """
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    length = [0] * len(rows)
    for a, b in itertools.pairwise(order):
        common = _common(rows[a], rows[b])
        length[a], length[b] = max(length[a], common), max(length[b], common)
    length = [min(n, limit) for n, limit in zip(length, limits, strict=True)]
    index: dict[tuple[int, ...], int] = {}
    prefix = [
        index.setdefault(tuple(row[:n]), len(index)) if n else -1
        for row, n in zip(rows, length, strict=True)
    ]
    saved = sum(length) - sum(len(s) for s in index)
    if saved < WORTHWHILE * sum(len(row) for row in rows):
        return [], [-1] * len(rows)
    return list(index), prefix


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    shorter = min(len(a), len(b))
    return next((i for i in range(shorter) if a[i] != b[i]), shorter)


@torch.no_grad()
def forward_rows(
    handle: ModelHandle,
    rows: Sequence[Sequence[int]],
    limits: Sequence[int],
    around: Around,
    *,
    upto: int,
    max_tokens: int | None = None,
    keep: bool = False,
    around_prefixes: Around | None = None,
) -> None:
    """Run all rows, in passes of similar rows padded on the right.

    Args:
        handle: The model.
        rows: Token ids, none empty.
        limits: For each row, how many tokens at its front nobody wants to look at: only these may
            be left out of the passes that `around` sees.
        around: See `Around`; it may leave the pass by raising StopForward in a hook.
        upto: Block after which nothing is needed.
        max_tokens: Size of one pass; by default what suits the device.
        keep: Give every pass a cache, whether or not it has tokens in front.
        around_prefixes: As `around`, for the passes that run what rows share; they come first.

    Raises:
        ModelError: a row is longer than the model reads.
    """
    if not rows:
        return
    longest, most = max(map(len, rows)), handle.max_positions
    if most is not None and longest > most:
        raise ModelError(
            f"A text has {longest} tokens; the model reads at most {most}.",
            remedy="Shorten the prompt, the target or the contexts.",
        )
    budget = max_tokens or pass_tokens(handle)
    prefixes, prefix_of = share(
        rows, [min(m, len(r) - 1) for r, m in zip(rows, limits, strict=True)]
    )
    shared = _run_prefixes(handle, prefixes, upto, budget, around_prefixes) if prefixes else None
    prefix_cache = shared.gathered() if shared else None
    skipped = [len(prefixes[s]) if s >= 0 else 0 for s in prefix_of]
    rest = [list(row[n:]) for row, n in zip(rows, skipped, strict=True)]
    # Rows without a prefix go apart: they need no cache and no padding in front.
    order = sorted(range(len(rows)), key=lambda i: (prefix_of[i] >= 0, len(rest[i]), skipped[i]))
    for indices in _chunks(order, [len(r) for r in rest], [s >= 0 for s in prefix_of], budget):
        front = torch.tensor([skipped[i] for i in indices])
        count = torch.tensor([len(rest[i]) for i in indices])
        cache: Cache | None = StoppingCache() if keep else None
        chunk = Chunk(indices, front, count, cache)
        if prefix_cache is not None and prefix_of[indices[0]] >= 0:
            chunk = replace(
                chunk, prefixes=shared, prefix=torch.tensor([prefix_of[i] for i in indices])
            )
            cache = chunk.front(prefix_cache)
            chunk = replace(chunk, cache=cache)
        ids, _ = handle.tokens.pad([rest[i] for i in indices], "right")
        with stoppable(), around(chunk):
            _forward(handle, ids, front, count, cache)


def _forward(
    handle: ModelHandle, ids: Tensor, front: Tensor, count: Tensor, cache: Cache | None
) -> None:
    """Run one pass, of `count` tokens of each row after `front` in the cache."""
    if cache is None:
        # Padding lies behind every token that is looked at: nothing needs to be masked.
        handle.forward(ids, torch.ones_like(ids), use_cache=False)
        return
    width = int(front.max())
    seen = (torch.arange(width) >= width - front[:, None]).to(ids.dtype)
    places = front[:, None] + torch.arange(ids.shape[1]).minimum(count[:, None] - 1)
    mask = torch.cat([seen, torch.ones_like(ids)], dim=1)
    handle.forward(ids, mask, positions=places, cache=cache, use_cache=True)


def _chunks(
    order: Sequence[int], lengths: Sequence[int], kinds: Sequence[bool], budget: int
) -> Iterator[list[int]]:
    """Cut `order` into runs of one kind and at most `budget` padded tokens."""
    chunk: list[int] = []
    for index in order:
        longest = max([lengths[index], *(lengths[i] for i in chunk[-1:])])
        if chunk and (kinds[chunk[0]] != kinds[index] or (len(chunk) + 1) * longest > budget):
            yield chunk
            chunk = []
        chunk.append(index)
    if chunk:
        yield chunk


@torch.no_grad()
def keys_and_values_of(
    handle: ModelHandle,
    rows: Sequence[Sequence[int]],
    *,
    upto: int,
    max_tokens: int | None = None,
) -> Cache:
    """Keys and values of the attention of all blocks to `upto`, the rows' tokens to the right end.

    Returns:
        A cache of width the longest row; what lies in front of a row's tokens must be masked.
        Rows may be equal, or the beginnings of others; not all may be empty.
    """
    return _run_prefixes(handle, rows, upto, max_tokens, None).gathered()


def _run_prefixes(
    handle: ModelHandle,
    rows: Sequence[Sequence[int]],
    upto: int,
    max_tokens: int | None,
    around: Around | None,
) -> PrefixCaches:
    """Run the beginnings of rows, `around` each pass if it is given."""
    distinct, owner = _longest(rows)
    parts: list[Chunk] = []

    @contextmanager
    def collect(chunk: Chunk) -> Iterator[None]:
        def stop(tensor: Tensor) -> None:
            raise StopForward

        assert isinstance(chunk.cache, StoppingCache)
        chunk.cache.stop_after = upto
        outside = around(chunk) if around else nullcontext()
        with outside, stoppable(), on_output(handle.block(upto), stop):
            yield
        chunk.cache.stop_after = None
        parts.append(chunk)

    limits = [len(row) for row in distinct]
    forward_rows(
        handle,
        distinct,
        limits,
        collect,
        upto=upto,
        max_tokens=max_tokens,
        keep=True,
        around_prefixes=around,
    )
    surplus = [limits[o] - len(row) for o, row in zip(owner, rows, strict=True)]
    return PrefixCaches(parts, owner, surplus, max(len(row) for row in rows))


def _longest(rows: Sequence[Sequence[int]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """The rows with which no longer one begins, and for each row the index of one it begins."""
    order = sorted(range(len(rows)), key=lambda i: tuple(rows[i]))
    longest: list[tuple[int, ...]] = []
    owner = [0] * len(rows)
    for i in reversed(order):
        row = tuple(rows[i])
        if not longest or longest[-1][: len(row)] != row:
            longest.append(row)
        owner[i] = len(longest) - 1
    return longest, owner


def fresh(cache: Cache) -> Cache:
    """A cache with the same tensors and its own layers: growing it leaves `cache` as it is."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    return new


def rows_of_cache(cache: Cache, rows: Tensor, width: int) -> Cache:
    """The last `width` columns of the given rows."""
    new = fresh(cache)
    for layer in new.layers:
        for name in ("keys", "values"):
            tensor = getattr(layer, name)
            if tensor is None:
                continue
            right = tensor[..., tensor.shape[-2] - width :, :]
            setattr(layer, name, right[rows.to(tensor.device)])
    return new


def _gathered(
    parts: Sequence[Chunk], owner: Sequence[int], surplus: Sequence[int], width: int
) -> Cache:
    """One cache, its tokens to the right end of `width` columns, out of the passes' caches.

    Args:
        owner: for each row, the row of the passes it is the beginning of.
        surplus: how many tokens that row has behind this one's end.
    """
    plans = []
    for part in parts:
        place = {row: at for at, row in enumerate(part.rows)}
        here = [i for i, o in enumerate(owner) if o in place]
        source = torch.tensor([place[owner[i]] for i in here])
        ends = part.ends[source] - torch.tensor([surplus[i] for i in here])
        columns = (torch.arange(width) - width + ends[:, None]).clamp_min(0)
        plans.append((torch.tensor(here), source[:, None], columns))
    assert parts[0].cache is not None
    cache = fresh(parts[0].cache)
    for number, layer in enumerate(cache.layers):
        for name in ("keys", "values"):
            whole: Tensor | None = None
            for part, (mine, source, columns) in zip(parts, plans, strict=True):
                assert part.cache is not None
                # [row, column, head, size], so that what is copied lies together.
                stored = getattr(part.cache.layers[number], name)
                if stored is None:
                    break
                by_row = stored.transpose(1, 2)
                piece = by_row[source.to(by_row.device), columns.to(by_row.device)]
                if len(parts) == 1:
                    whole = piece  # holds all rows, in their order
                    break
                if whole is None:
                    whole = piece.new_empty(len(owner), *piece.shape[1:])
                whole[mine.to(by_row.device)] = piece
            if whole is not None:
                setattr(layer, name, whole.transpose(1, 2))
    return cache
