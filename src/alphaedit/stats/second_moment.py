"""Second moments C = E[k k^T] of all edited layers, in one pass that stops at the last of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphaedit.core.ahead import ahead
from alphaedit.core.errors import StatsError
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.linalg.massive import Massive, MassiveSum, told_apart
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_input, stoppable
from alphaedit.model.memory import is_out_of_memory
from alphaedit.stats.corpus import Corpus

SEQUENCE = 256
BATCH_TOKENS = 4096
BLOCK_TOKENS = 32768
SAVE_EVERY = 60.0


@dataclass(frozen=True)
class SecondMoment:
    """C of one layer.

    Attributes:
        matrix: [d_in, d_in] float32.
        tokens: number of keys averaged.
        massive: what of it comes from massive activations.
    """

    matrix: Tensor
    tokens: int
    massive: Massive


def packed(handle: ModelHandle, corpus: Corpus, length: int) -> Iterator[list[int]]:
    """Sequences of `length` tokens, documents joined one after the other (each with its BOS)."""
    rest: list[int] = []
    for text in corpus.texts():
        rest += handle.tokens.encode(text)
        while len(rest) >= length:
            yield rest[:length]
            rest = rest[length:]
    if rest:
        yield rest


class _Sums:
    """Running sums of k k^T: blocks in the keys' dtype and place, added up in float64 on the CPU.

    A block is `BLOCK_TOKENS` long, so that it need not leave the device after every pass.
    """

    def __init__(self, handle: ModelHandle, layers: Sequence[int]) -> None:
        self.blocks: dict[int, Tensor] = {}
        self.in_block = 0
        self.sums = {
            layer: torch.zeros(handle.d_in(layer), handle.d_in(layer), dtype=torch.float64)
            for layer in layers
        }
        self.massive = {layer: MassiveSum() for layer in layers}
        self.tokens = 0
        self.sequences = 0

    def add(self, keys: dict[int, Tensor]) -> None:
        for layer, k in keys.items():
            self.massive[layer].add(k)
            if layer in self.blocks:
                self.blocks[layer].addmm_(k.T, k)
            else:
                self.blocks[layer] = k.T @ k
        count = next(iter(keys.values())).shape[0]
        self.tokens += count
        self.in_block += count
        if self.in_block >= BLOCK_TOKENS:
            self.flush()

    def flush(self) -> None:
        """Bring the sums up to date."""
        for layer, block in self.blocks.items():
            self.sums[layer] += block.double().cpu()
        self.blocks.clear()
        self.in_block = 0

    def save(self, path: Path, key: str) -> None:
        """Keep what was summed; where that fails, a stop costs more and nothing else."""
        part = path.with_suffix(".part")
        about = {"key": key, "tokens": str(self.tokens), "sequences": str(self.sequences)}
        found = {str(k): (m.limit, m.count) for k, m in self.massive.items()}
        tensors = {str(k): v for k, v in self.sums.items()}
        for k, m in self.massive.items():
            if m.factor is not None:
                tensors[f"{k}.massive"] = m.factor.contiguous()
        meta = {"about": json.dumps(about), "massive": json.dumps(found)}
        with suppress(OSError, SafetensorError):
            save_file(tensors, part, meta)
            os.replace(part, path)

    def load(self, path: Path, key: str) -> None:
        """Go on from what `save` kept under this key; from the beginning if it is of no use."""
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads(file.metadata()["about"])
                found = json.loads(file.metadata()["massive"])
            if about["key"] != key:
                return
            tensors = load_file(path)
            sums = {int(k): v for k, v in tensors.items() if k.isdigit()}
            massive = {}
            for k, (limit, count) in found.items():
                massive[int(k)] = MassiveSum(limit)
                massive[int(k)].count = int(count)
                massive[int(k)].factor = tensors.get(f"{k}.massive")
            counts = int(about["tokens"]), int(about["sequences"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return
        self.sums, self.massive = sums, massive
        self.tokens, self.sequences = counts


def _keys(handle: ModelHandle, rows: list[list[int]], layers: Sequence[int]) -> dict[int, Tensor]:
    ids, mask = handle.tokens.pad(rows, "right")
    real = mask.bool().to(handle.device)
    last, found = max(layers), dict[int, Tensor]()

    def see(layer: int, tensor: Tensor) -> None:
        # Some families run their MLP on [rows * length, d].
        shaped = tensor.reshape(*real.shape, tensor.shape[-1])
        found[layer] = shaped[real].to(handle.wide)
        if layer == last:
            raise StopForward

    with stoppable(), ExitStack() as stack:
        for layer in layers:
            hook = lambda t, layer=layer: see(layer, t)  # noqa: E731
            stack.enter_context(on_input(handle.edited_module(layer), hook))
        handle.forward(ids, mask)
    return found


def _halving(
    handle: ModelHandle, rows: list[list[int]], layers: Sequence[int]
) -> Iterator[tuple[dict[int, Tensor], int]]:
    """Keys of `rows`, in halves where memory does not hold them all."""
    try:
        yield _keys(handle, rows, layers), len(rows)
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
    progress: Progress = silent,
    ranks: Ranks = ALONE,
) -> dict[int, SecondMoment]:
    """Second moments at `layers` over about `tokens` tokens of `corpus`.

    One pass that stops at the last of the layers, over packed sequences; ranks take turns with
    them.

    Args:
        tolerance: stop early when doubling the text changes every C by less than this share of its
            Frobenius norm.
        resume: file for partial sums; a run that was killed goes on from it.

    Raises:
        StatsError: the corpus has no tokens.
    """
    length = min(sequence, handle.max_positions or sequence)
    together = max(1, batch_tokens // length) * ranks.size
    sums = _Sums(handle, layers)
    key = f"{corpus.fingerprint}:{handle.fingerprint(max(layers))}:{sorted(layers)}:{length}"
    if ranks.size > 1:
        key += f":{ranks.rank} of {ranks.size}"
        resume = resume.with_suffix(f".{ranks.rank}") if resume is not None else None
    if resume is not None and resume.is_file():
        sums.load(resume, key)
    # Ranks that were stopped at different places begin again together.
    if len(set(ranks.objects(sums.sequences))) > 1:
        sums = _Sums(handle, layers)
    skip, saved_at = sums.sequences, time.monotonic()
    check_at, earlier = 4 * batch_tokens, dict[int, Tensor]()
    batch: list[list[int]] = []
    seen = 0

    def flush(index: int) -> None:
        for keys, _ in _halving(handle, batch, layers) if batch else ():
            sums.add(keys)
        sums.sequences = index + 1
        batch.clear()
        progress("second moments", min(seen, tokens), tokens)

    index = -1
    rows = packed(handle, corpus, length)
    # Text is turned into tokens while the model runs, unless the model itself writes it.
    for index, row in enumerate(rows if corpus.name == "self" else ahead(rows)):
        if seen >= tokens:
            break
        seen += len(row)
        if index < skip:
            continue
        if index % ranks.size == ranks.rank:
            batch.append(row)
        if (index + 1) % together == 0:
            flush(index)
            # Between blocks, so that a run that was killed rounds as one that was not.
            late = time.monotonic() - saved_at > SAVE_EVERY
            if resume is not None and late and not sums.in_block:
                sums.save(resume, key)
                saved_at = time.monotonic()
            if tolerance is not None and seen >= check_at:
                sums.flush()
                whole = {k: ranks.sum(v.clone()) / seen for k, v in sums.sums.items()}
                gaps = [float((whole[k] - v).norm() / whole[k].norm()) for k, v in earlier.items()]
                if gaps and max(gaps) < tolerance:
                    break
                check_at, earlier = 2 * seen, whole
    if batch:
        flush(index)
    sums.flush()
    for total in sums.sums.values():
        ranks.sum(total)
    sums.tokens = sum(ranks.objects(sums.tokens))
    if not sums.tokens:
        raise StatsError(f"Corpus {corpus.name!r} has no text.", remedy="Give another corpus.")
    progress("second moments", tokens, tokens)
    if resume is not None:
        resume.unlink(missing_ok=True)
    return {
        layer: _moment(total, sums.tokens, sums.massive[layer], ranks)
        for layer, total in sums.sums.items()
    }


def _moment(total: Tensor, tokens: int, own: MassiveSum, ranks: Ranks) -> SecondMoment:
    """The second moment of a layer, with the massive keys of all ranks told apart."""
    parts = ranks.objects((own.limit, own.count, own.factor))
    joined = MassiveSum()
    for _, _, factor in parts:
        if factor is not None:
            joined.join(factor)
    count = sum(count for _, count, _ in parts)
    limit = next((limit for limit, _, _ in parts if limit is not None), float("inf"))
    matrix = (total / tokens).float()
    return SecondMoment(matrix, tokens, told_apart(joined.factor, count, matrix, tokens, limit))
