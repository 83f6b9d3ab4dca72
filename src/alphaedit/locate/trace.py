"""Causal tracing: which hidden states carry a fact (Meng et al. 2022, section 2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_output

POSITIONS = ("first subject", "middle subject", "last subject", "further", "last")


@dataclass(frozen=True)
class Trace:
    """Average causal tracing result.

    Attributes:
        clean: mean probability of the model's own answer.
        corrupted: the same with noise on the subject's embeddings.
        restored: [5, layers], the same when the clean hidden state that leaves a block is put
            back at one position, by POSITIONS; NaN where no fact has such a position.
        facts: number of facts.
    """

    clean: float
    corrupted: float
    restored: Tensor
    facts: int

    @property
    def indirect_effect(self) -> Tensor:
        """[5, layers]: restored minus corrupted."""
        return self.restored - self.corrupted


def _kinds(first: int, last: int, length: int) -> list[int]:
    kinds = []
    for position in range(first, length):
        if position == length - 1:
            kinds.append(4)
        elif position > last:
            kinds.append(3)
        elif position == last:
            kinds.append(2)
        else:
            kinds.append(0 if position == first else 1)
    return kinds


def embedding_scale(handle: ModelHandle, facts: Sequence[Fact]) -> float:
    """Standard deviation of the subjects' token embeddings."""
    ids: list[int] = []
    for fact in facts:
        encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
        ids += encoded.ids[encoded.subject_first : encoded.subject_last + 1]
    with torch.no_grad():
        return float(handle.embed(torch.tensor(ids, device=handle.device)).float().std())


@contextmanager
def _corrupted(handle: ModelHandle, first: int, last: int, noise: Tensor) -> Iterator[None]:
    def add(hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        part = hidden[:, first : last + 1]
        hidden[:, first : last + 1] = part + noise.repeat(len(part) // len(noise), 1, 1).to(part)
        return hidden

    with on_output(handle.embed, add):
        yield


@torch.no_grad()
def _trace_one(
    handle: ModelHandle, fact: Fact, scale: float, samples: int, generator: torch.Generator
) -> tuple[float, float, Tensor, list[int]]:
    """Clean and corrupted probability, restored [layers, positions], kinds of the positions."""
    encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
    first, last, length = encoded.subject_first, encoded.subject_last, len(encoded.ids)
    ids = torch.tensor([encoded.ids], device=handle.device)
    clean: list[Tensor] = []
    with ExitStack() as stack:
        for block in handle.layers:
            stack.enter_context(on_output(block, lambda h: clean.append(h[0])))
        logits = handle.forward(ids, torch.ones_like(ids))
    top = int(logits[0, -1].argmax())
    p_clean = float(logits[0, -1].float().softmax(-1)[top])
    noise = torch.randn((samples, last - first + 1, handle.d_out(0)), generator=generator) * scale
    places = range(first, length)
    # One row for each (position restored, noise sample), and one block of rows left corrupted.
    rows = ids.expand(samples * (len(places) + 1), -1)
    restored = torch.zeros(handle.n_layers, len(places))
    p_corrupted = 0.0
    for layer in range(handle.n_layers):

        def restore(hidden: Tensor, layer: int = layer) -> Tensor:
            hidden = hidden.clone()
            for i, place in enumerate(places):
                hidden[i * samples : (i + 1) * samples, place] = clean[layer][place]
            return hidden

        with _corrupted(handle, first, last, noise), on_output(handle.layers[layer], restore):
            out = handle.forward(rows, torch.ones_like(rows))
        p = out[:, -1].float().softmax(-1)[:, top].view(-1, samples).mean(1).cpu()
        restored[layer], p_corrupted = p[:-1], float(p[-1])
    return p_clean, p_corrupted, restored, _kinds(first, last, length)


def trace(
    handle: ModelHandle,
    facts: Sequence[Fact],
    *,
    noise: float = 3.0,
    samples: int = 10,
    seed: int = 0,
    progress: Progress = silent,
) -> Trace:
    """Average causal tracing of hidden states over `facts`, for the model's own answers.

    Args:
        noise: standard deviation of the noise, in standard deviations of subject embeddings.
        samples: noises for each fact.

    Raises:
        DataError: `facts` is empty.
    """
    if not facts:
        raise DataError("There is no fact to trace.", remedy="Give at least one fact.")
    generator = torch.Generator().manual_seed(seed)
    scale = noise * embedding_scale(handle, facts)
    total = torch.zeros(len(POSITIONS), handle.n_layers)
    count = torch.zeros(len(POSITIONS), 1)
    clean = corrupted = 0.0
    for done, fact in enumerate(facts):
        progress("tracing", done, len(facts))
        p_clean, p_corrupted, restored, kinds = _trace_one(handle, fact, scale, samples, generator)
        clean += p_clean / len(facts)
        corrupted += p_corrupted / len(facts)
        for kind in set(kinds):
            places = [i for i, k in enumerate(kinds) if k == kind]
            total[kind] += restored[:, places].mean(1)
            count[kind] += 1
    progress("tracing", len(facts), len(facts))
    return Trace(clean, corrupted, total / count, len(facts))
