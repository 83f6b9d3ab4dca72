"""What an edit will take: memory and time of each phase, before any weight is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from alphaedit.core.errors import unknown_name
from alphaedit.core.fact import Fact
from alphaedit.methods.config import Hyperparameters
from alphaedit.model.shape import Shape
from alphaedit.model.tokens import Tokens
from alphaedit.stats.statistics import MOST_TOKENS, TOKENS_OF_GENERAL

KL_TOKENS = 3
EIGEN = 9.0
"""Operations of a symmetric eigendecomposition with vectors, in d^3."""


@dataclass(frozen=True)
class Machine:
    """What it computes on.

    Attributes:
        name: as in the table.
        rate: operations a second of matrix products of the model's shapes.
        eigen_rate: the same of an eigendecomposition in float32.
        memory: bytes.
        weights: bytes of a weight there.
        measured: on this machine, and not taken from a data sheet.
    """

    name: str
    rate: float
    eigen_rate: float
    memory: float
    weights: int
    measured: bool


# Dense bfloat16 (T4: float16) operations a second and memory, by the makers' data sheets.
GPUS = {
    "h200": (989e12, 141e9),
    "h100": (989e12, 80e9),
    "a100-80gb": (312e12, 80e9),
    "a100-40gb": (312e12, 40e9),
    "l40s": (362e12, 48e9),
    "rtx-4090": (165e12, 24e9),
    "l4": (121e12, 24e9),
    "t4": (65e12, 16e9),
}
SHARE_HERE = 0.6
"""What of the rate measured here the phases reach, by benchmarks/planned.py."""
MEASURED = 8192
"""Rows and columns that rates are measured on at most: larger matrices are not faster."""
SHARE_OF_PEAK = 0.3
"""What of a data sheet's rate is counted on: an assumption, not a measurement."""
EIGEN_SHARE = 0.003
"""The same for eigendecompositions in float32 there."""


@dataclass(frozen=True)
class Phase:
    """One phase of an edit.

    Attributes:
        name: what is done.
        operations: floating-point operations, a multiplication and an addition being two.
        memory: bytes held at its peak besides the weights.
        seconds: operations over the machine's rate.
        once: whether it is done once for a model, and not for each batch.
    """

    name: str
    operations: float
    memory: float
    seconds: float
    once: bool


@dataclass(frozen=True)
class Lengths:
    """Mean lengths of facts' rows in tokens: whole, up to the subject's last, and from it on.

    `distinct` counts of those up to the subject's last what facts do not share with one another.
    """

    whole: float
    front: float
    distinct: float
    tail: float
    reads: float


def here(shape: Shape, clock: Callable[[], float] = time.perf_counter) -> Machine:
    """This machine's CPU, by short measurements on the model's own shapes."""
    width, inner = min(shape.width, MEASURED), min(shape.inner, MEASURED)
    x, w = torch.randn(512, width), torch.randn(width, inner)
    x @ w
    began, count, spent = clock(), 0, 0.0
    while spent < 0.3:
        x @ w
        count, spent = count + 1, clock() - began
    rate = SHARE_HERE * 2 * count * x.shape[0] * w.numel() / spent
    n = min(512, shape.inner)
    a = torch.randn(n, n)
    a = a @ a.T
    torch.linalg.eigh(a)
    began = clock()
    torch.linalg.eigh(a)
    eigen = EIGEN * n**3 / (clock() - began)
    return Machine("this CPU", rate, eigen, psutil.virtual_memory().total, 4, True)


def gpu(name: str) -> Machine:
    """A GPU by name.

    Raises:
        UnknownNameError: it is not in the table.
    """
    if name not in GPUS:
        raise unknown_name("GPU", name, GPUS)
    peak, memory = GPUS[name]
    return Machine(name, peak * SHARE_OF_PEAK, peak * EIGEN_SHARE, memory, 2, False)


def lengths(tokens: Tokens, facts: Sequence[Fact], contexts: int, context_tokens: int) -> Lengths:
    """Mean lengths of the rows of these facts, each alone and after `contexts` texts."""
    wholes, fronts, tails, reads = [], [], [], []
    beginnings = set()
    for fact in facts:
        prompt, target = tokens.encode_continuation(fact.text, fact.target)
        encoded = tokens.encode_with_subject(fact.text, fact.subject_span)
        last = encoded.subject_last
        beginnings |= {tuple(encoded.ids[: i + 1]) for i in range(last + 1)}
        added = context_tokens * contexts / (contexts + 1)
        wholes.append(len(prompt) + len(target) - 1 + added)
        fronts.append(last + 1 + added)
        tails.append(len(prompt) + len(target) - 1 - last)
        reads.append(len(target))
    n = len(facts)
    means = (sum(values) / n for values in (wholes, fronts, tails, reads))
    whole, front, tail, read = means
    return Lengths(whole, front, len(beginnings) / n, tail, read)


def plan(
    shape: Shape,
    hp: Hyperparameters,
    machine: Machine,
    *,
    facts: int,
    rows: Lengths,
    batch: int | None = None,
    tokens: int | None = None,
) -> list[Phase]:
    """Memory and time of each phase; all steps are counted, and systems hold a second moment.

    Args:
        shape: of the model.
        hp: layers, steps, contexts.
        machine: what it runs on.
        facts: how many.
        rows: their lengths.
        batch: facts edited at a time; all by default.
        tokens: budget of the second moments; by default as for the package's text.
    """
    batch = min(batch or facts, facts)
    batches = -(-facts // batch)
    # An expert sees a share of the tokens; of a batch, all are thought to fire.
    count, firing = shape.experts, shape.firing
    widest = shape.inner * count // firing
    tokens = tokens or min(MOST_TOKENS, TOKENS_OF_GENERAL * widest)
    edited, last = len(hp.layers), max(hp.layers)
    d, h, p = shape.inner, shape.width, 2.0 * shape.block
    each, after = 1 + hp.contexts, shape.layers - 1 - last

    moments = tokens * (p * (last + 1) + 2.0 * d * d * firing * edited)
    eigen = EIGEN * d**3 * count * edited
    search = _tokens_of_search(each, rows)
    heads = 2.0 * shape.vocabulary * h * (each * rows.reads + 1)
    turns = min(each, hp.turns) if hp.optimizer == "adam" else 1
    step = 3 * (p * after * search + heads) / turns
    prefix = p * shape.layers * each * rows.distinct
    # To the last edited layer; then the prompts alone on to it, and all from layer to layer.
    further = (edited - 1) * (edited + 2) / 2 + 1.5 * (edited - 1) * hp.contexts
    keys = p * rows.distinct * ((last + 1) * each + further)
    solve = 2.0 * edited * (2 * d * d * batch + batch * batch * (d + h) + d * h * batch) * firing

    def phase(name: str, operations: float, memory: float, *, once: bool = False) -> Phase:
        rate = machine.eigen_rate if name == "null space" else machine.rate
        return Phase(name, operations, memory, operations / rate, once)

    basis = 4.0 * edited * d * d * count / 2
    factoring, dense = _factors(d, count, edited)
    copies = 4.0 * edited * d * h * count * (3 if machine.weights < 4 else 2)
    search_bytes = _held_by_search(shape, machine, rows, batch, each=-(-each // turns), after=after)
    return [
        phase("weights", 0.0, float(machine.weights) * shape.parameters, once=True),
        phase("second moments", moments, 8.0 * edited * d * d * count, once=True),
        phase("null space", eigen, 4.0 * 4 * d * d + basis, once=True),
        phase("target values", facts * (hp.steps * step + prefix), search_bytes + basis),
        phase("keys", facts * keys, basis),
        phase("solve", batches * solve + factoring, basis + dense + 4.0 * batch * (d + h) * edited),
        phase("apply", 2.0 * d * h * facts * firing * edited, copies),
    ]


def _factors(d: int, count: int, layers: int) -> tuple[float, float]:
    """Operations and bytes of systems with a second moment: read, factored in float64, and kept."""
    bytes_of_entry = 4.0 * layers + 8.0 * (layers + 2)
    return 2.0 * layers * count * d**3 / 3, bytes_of_entry * d * d * count


def _tokens_of_search(each: int, rows: Lengths) -> float:
    """Tokens behind the subject that the search of one fact runs, with those of the KL prompt."""
    return each * rows.tail + KL_TOKENS


def _held_by_search(
    shape: Shape, machine: Machine, rows: Lengths, batch: int, *, each: int, after: int
) -> float:
    """Bytes of one pass of the search.

    Activations and their gradients, the logits that it reads, and keys and values of the tokens in
    front, gathered and with room behind them.
    """
    search = _tokens_of_search(each, rows)
    together = min(batch, max(1, (16384 if machine.weights < 4 else 1024) // search))
    total = together * search * (after + 1) * (8 * shape.width + 4 * shape.inner) * 4.0
    total += together * (each * rows.reads + 1) * shape.vocabulary * 4.0 * 3
    total += together * each * rows.front * 4.0 * shape.width * shape.layers * machine.weights
    return total
