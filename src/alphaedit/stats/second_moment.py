"""Second moments C = E[k k^T] of all edited layers, in one pass that stops at the last of them.

Of a mixture of experts each expert has its own, over the tokens that are routed to it, of the keys
times the router's weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphaedit.core.errors import StatsError
from alphaedit.core.prefetch import prefetch
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.site import Expert, Site, site_of
from alphaedit.linalg.massive import Massive, MassiveSum, told_apart
from alphaedit.model.experts import Routed
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, stoppable
from alphaedit.model.keys import Keys, on_keys
from alphaedit.model.memory import is_out_of_memory
from alphaedit.stats.corpus import Corpus
from alphaedit.stats.names import ends_of_names

SEQUENCE = 256
BATCH_TOKENS = 4096
BLOCK_TOKENS = 32768
SAVE_EVERY = 60.0


@dataclass(frozen=True)
class SecondMoment:
    """C of one layer or expert.

    Attributes:
        matrix: [d_in, d_in] float32.
        tokens: number of keys averaged; of an expert those routed to it.
        massive: what of it comes from massive activations.
    """

    matrix: Tensor
    tokens: int
    massive: Massive


@dataclass(frozen=True)
class Row:
    """Tokens of one sequence, and which of them count; None: all of them."""

    ids: list[int]
    marked: list[int] | None = None


def packed(
    handle: ModelHandle, corpus: Corpus, length: int, *, names: bool = False
) -> Iterator[Row]:
    """Sequences of `length` tokens, documents joined one after the other (each with its BOS).

    Args:
        names: only the last tokens of names count; see `stats.names`.
    """
    rest, ends = list[int](), list[int]()
    for text in corpus.texts():
        ids, new = handle.tokens.encode_marked(text, ends_of_names(text) if names else ())
        ends += [len(rest) + end for end in new]
        rest += ids
        while len(rest) >= length:
            marked = [end for end in ends if end < length]
            yield Row(rest[:length], marked if names else None)
            rest, ends = rest[length:], [end - length for end in ends if end >= length]
    if rest:
        yield Row(rest, ends if names else None)


class _Sums:
    """Running sums of k k^T: blocks in the keys' dtype and place, added up in float64 on the CPU.

    A block is `BLOCK_TOKENS` long, so that it need not leave the device after every pass.
    """

    def __init__(self, handle: ModelHandle, layers: Sequence[int]) -> None:
        self.blocks: dict[Site, Tensor] = {}
        self.in_block = 0
        sites = [site for layer in layers for site in handle.sites(layer)]
        self.sums = {
            site: torch.zeros(handle.d_in(site), handle.d_in(site), dtype=torch.float64)
            for site in sites
        }
        self.massive = {site: MassiveSum() for site in sites}
        self.counts: dict[Site, int] = dict.fromkeys(sites, 0)
        self.tokens = 0
        self.sequences = 0

    def add(self, keys: dict[Site, Tensor], count: int) -> None:
        """Take the keys of `count` tokens."""
        for site, k in keys.items():
            if not len(k):
                continue
            self.massive[site].add(k)
            self.counts[site] += len(k)
            if site in self.blocks:
                self.blocks[site].addmm_(k.T, k)
            else:
                self.blocks[site] = k.T @ k
        self.tokens += count
        self.in_block += count
        if self.in_block >= BLOCK_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Bring the sums up to date."""
        for site, block in self.blocks.items():
            self.sums[site] += block.double().cpu()
        self.blocks.clear()
        self.in_block = 0

    def save(self, path: Path, key: str) -> None:
        """Keep what was summed; where that fails, a stop costs more and nothing else."""
        part = path.with_suffix(".part")
        about = {"key": key, "tokens": str(self.tokens), "sequences": str(self.sequences)}
        massive = {str(k): (m.limit, m.count, self.counts[k]) for k, m in self.massive.items()}
        tensors = {str(k): v for k, v in self.sums.items()}
        for k, m in self.massive.items():
            if m.factor is not None:
                tensors[f"{k}.massive"] = m.factor.contiguous()
        meta = {"about": json.dumps(about), "massive": json.dumps(massive)}
        with suppress(OSError, SafetensorError):
            save_file(tensors, part, meta)
            os.replace(part, path)

    def load(self, path: Path, key: str) -> None:
        """Go on from what `save` kept under this key; from the beginning if it is of no use."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                saved = json.loads(file.metadata()["massive"])
            if about["key"] != key:
                return
            tensors = load_file(path)
            sums = {site: v for k, v in tensors.items() if (site := site_of(k)) is not None}
            massive, seen = dict[Site, MassiveSum](), dict[Site, int]()
            for k, (limit, count, keys) in saved.items():
                site = site_of(k)
                if site is None or sums[site].shape != self.sums[site].shape:
                    return
                massive[site], seen[site] = MassiveSum(limit), int(keys)
                massive[site].count = int(count)
                massive[site].factor = tensors.get(f"{k}.massive")
            counts = int(about["tokens"]), int(about["sequences"])
            if seen.keys() != self.sums.keys():
                return
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return
        self.sums, self.massive, self.counts = sums, massive, seen
        self.tokens, self.sequences = counts


def _keys(
    handle: ModelHandle, rows: list[Row], layers: Sequence[int]
) -> tuple[dict[Site, Tensor], int]:
    """Keys of the tokens of `rows` that count, by layer or expert, and how many these are."""
    ids, mask = handle.tokens.pad([row.ids for row in rows], "right")
    counted = mask.bool()
    for number, row in enumerate(rows):
        if row.marked is not None:
            counted[number] = False
            counted[number, row.marked] = True
    real = counted.flatten().nonzero().flatten()
    last, by_site = max(layers), dict[Site, Tensor]()

    def see(layer: int, keys: Keys) -> None:
        if isinstance(keys, Routed):
            some = keys.only(real)
            for expert in some.firing():
                by_site[Expert(layer, expert)] = some.of(expert)[1].to(handle.wide)
        else:
            by_site[layer] = keys.at(real).to(handle.wide)
        if layer == last:
            raise StopForward

    with stoppable(), ExitStack() as stack:
        for layer in layers:
            hook = lambda keys, layer=layer: see(layer, keys)  # noqa: E731
            stack.enter_context(on_keys(handle, layer, hook))
        handle.forward(ids, mask)
    return by_site, len(real)


def _halving(
    handle: ModelHandle, rows: list[Row], layers: Sequence[int]
) -> Iterator[tuple[dict[Site, Tensor], int]]:
    """Keys of `rows` and how many tokens they are, in halves where memory does not hold all."""
    try:
        yield _keys(handle, rows, layers)
    except Exception as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise
        half = len(rows) // 2
        yield from _halving(handle, rows[:half], layers)
        yield from _halving(handle, rows[half:], layers)


def collect(
    handle: ModelHandle,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    tokens: int,
    sequence: int = SEQUENCE,
    batch_tokens: int = BATCH_TOKENS,
    tolerance: float | None = None,
    resume: Path | None = None,
    names: bool = False,
    progress: Progress = silent,
    ranks: Ranks = ALONE,
) -> dict[Site, SecondMoment]:
    """Second moments at `layers`, or their experts, over about `tokens` tokens of `corpus`.

    One pass that stops at the last of the layers, over packed sequences; ranks take turns with
    them. An expert that fewer tokens were routed to than its keys have entries is taken as if the
    tokens that lack had keys of the layer's mean energy in all directions alike: what was not
    seen is not free.

    Args:
        tolerance: stop early when doubling the text changes each C by less than this share of it.
        resume: file for partial sums; a run that was killed goes on from it.
        names: average over the last tokens of names alone.

    Raises:
        StatsError: the corpus has no tokens.
    """
    length = min(sequence, handle.max_positions or sequence)
    together = max(1, batch_tokens // length) * ranks.size
    key = f"{corpus.fingerprint}:{handle.fingerprint(max(layers))}:{sorted(layers)}:{length}"
    partial = _PartialSums(resume, f"{key}:names" if names else key, ranks)
    sums = partial.begin(handle, layers)
    skip = sums.sequences
    growth, batch = _Growth(tolerance, 4 * batch_tokens, ranks), list[Row]()
    seen, index = 0, -1
    rows = packed(handle, corpus, length, names=names)
    # Text is turned into tokens while the model runs, unless the model itself writes it.
    for index, row in enumerate(rows if corpus.name == "self" else prefetch(rows)):
        if seen >= tokens:
            break
        seen += len(row.ids)
        if index < skip:
            continue
        if index % ranks.size == ranks.rank:
            batch.append(row)
        if (index + 1) % together == 0:
            _add(sums, _halving(handle, batch, layers) if batch else (), index)
            batch.clear()
            progress("second moments", min(seen, tokens), tokens)
            partial.save(sums)
            if growth.is_over(sums, seen):
                break
    if batch:
        _add(sums, _halving(handle, batch, layers), index)
    moments = _moments(sums, corpus, ranks)
    progress("second moments", tokens, tokens)
    partial.remove()
    return moments


class _PartialSums:
    """Sums on disk, from which a run that was killed goes on."""

    def __init__(self, path: Path | None, key: str, ranks: Ranks) -> None:
        self.path, self.key, self.ranks = path, key, ranks
        if ranks.size > 1:
            self.key += f":{ranks.rank} of {ranks.size}"
            self.path = path.with_suffix(f".{ranks.rank}") if path is not None else None
        self.saved_at = time.monotonic()

    def begin(self, handle: ModelHandle, layers: Sequence[int]) -> _Sums:
        """What was summed up before, or nothing."""
        sums = _Sums(handle, layers)
        if self.path is not None and self.path.is_file():
            sums.load(self.path, self.key)
        # Ranks that were stopped at different places begin again together.
        if len(set(self.ranks.objects(sums.sequences))) > 1:
            sums = _Sums(handle, layers)
        self.saved_at = time.monotonic()
        return sums

    def save(self, sums: _Sums) -> None:
        """Save from time to time."""
        # Between blocks, so that a run that was killed rounds as one that was not.
        late = time.monotonic() - self.saved_at > SAVE_EVERY
        if self.path is not None and late and not sums.in_block:
            sums.save(self.path, self.key)
            self.saved_at = time.monotonic()

    def remove(self) -> None:
        """Forget them."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class _Growth:
    """What doubling the text changes."""

    def __init__(self, tolerance: float | None, check_at: int, ranks: Ranks) -> None:
        self.tolerance, self.check_at, self.ranks = tolerance, check_at, ranks
        self.earlier: dict[Site, Tensor] = {}

    def is_over(self, sums: _Sums, seen: int) -> bool:
        """Whether the last doubling changed no second moment by more than the tolerance."""
        if self.tolerance is None or seen < self.check_at:
            return False
        sums.flush()
        whole = {k: self.ranks.sum(v.clone()) / seen for k, v in sums.sums.items()}
        gaps = [_gap(v, whole[k]) for k, v in self.earlier.items()]
        if gaps and max(gaps) < self.tolerance:
            return True
        self.check_at, self.earlier = 2 * seen, whole
        return False


def _add(sums: _Sums, parts: Iterable[tuple[dict[Site, Tensor], int]], index: int) -> None:
    """Add the keys of some rows, up to row `index` of the corpus."""
    for keys, count in parts:
        sums.add(keys, count)
    sums.sequences = index + 1


def _moments(sums: _Sums, corpus: Corpus, ranks: Ranks) -> dict[Site, SecondMoment]:
    """The second moments that all ranks have summed up.

    Raises:
        StatsError: there was no token.
    """
    sums.flush()
    for total in sums.sums.values():
        ranks.sum(total)
    sums.tokens = sum(ranks.objects(sums.tokens))
    every = ranks.objects(sums.counts)
    sums.counts = {site: sum(counts[site] for counts in every) for site in sums.counts}
    if not sums.tokens:
        raise StatsError(f"Corpus {corpus.name!r} has no text.", remedy="Give another corpus.")
    moments = {
        site: _moment(total, sums.counts[site], sums.massive[site], ranks)
        for site, total in sums.sums.items()
    }
    return _with_unseen(moments)


def _gap(before: Tensor, now: Tensor) -> float:
    return float((now - before).norm() / now.norm().clamp_min(1e-30))


def _with_unseen(moments: Mapping[Site, SecondMoment]) -> dict[Site, SecondMoment]:
    """The moments of experts, with the tokens that lack of those that saw too few; see `collect`.

    With n tokens of d: (n C + (d - n) mean I) / d, mean the mean diagonal over the layer's tokens.
    """
    energy, tokens = dict[int, float](), dict[int, int]()
    for site, moment in moments.items():
        if isinstance(site, Expert):
            seen = moment.tokens * float(moment.matrix.double().diagonal().mean())
            energy[site.layer] = energy.get(site.layer, 0.0) + seen
            tokens[site.layer] = tokens.get(site.layer, 0) + moment.tokens
    full = dict(moments)
    for site, moment in moments.items():
        size = len(moment.matrix)
        if isinstance(site, Expert) and moment.tokens < size:
            lacking = (size - moment.tokens) / size
            matrix = moment.matrix * (1 - lacking)
            matrix.diagonal().add_(lacking * energy[site.layer] / max(1, tokens[site.layer]))
            full[site] = replace(moment, matrix=matrix)
    return full


def _moment(total: Tensor, tokens: int, own: MassiveSum, ranks: Ranks) -> SecondMoment:
    """The second moment of a layer or expert, with the massive keys of all ranks told apart."""
    parts = ranks.objects((own.limit, own.count, own.factor))
    joined = MassiveSum()
    for _, _, factor in parts:
        if factor is not None:
            joined.join(factor)
    count = sum(count for _, count, _ in parts)
    limit = next((limit for limit, _, _ in parts if limit is not None), float("inf"))
    matrix = (total / max(1, tokens)).float()
    return SecondMoment(matrix, tokens, told_apart(joined.factor, count, matrix, tokens, limit))
