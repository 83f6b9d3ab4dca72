"""A gate in weights: for each subject two neurons beside the MLP behind which values are added.

Neurons see what enters their MLP, and not the keys of another layer. So subjects are told once
more, there: C^-1 x* as a row, with C of what enters the MLP on ordinary text, and a border between
what the subject's own tokens reach and what those of other text do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.core.fact import Fact
from alphaedit.core.neurons import Neurons
from alphaedit.core.progress import Progress, silent
from alphaedit.linalg.neurons import steps
from alphaedit.linalg.solve import RomeSystem
from alphaedit.methods.config import Hyperparameters, build
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.gate import HARDEST, ROOM, Place
from alphaedit.methods.steps.gate_border import (
    ENTRIES,
    HIGHEST,
    LOWEST,
    TAKEN,
    Others,
    Read,
    keys_of_phrasings,
    tokens_entering,
    well_known,
)
from alphaedit.methods.steps.keys import check_finite, prompts_in_context
from alphaedit.model.handle import ModelHandle
from alphaedit.model.mlp import mlp_of
from alphaedit.model.route import plain
from alphaedit.model.wider import entrance
from alphaedit.stats.corpus import Corpus
from alphaedit.stats.second_moment import packed

TOKENS_PER_DIRECTION, MOST_TOKENS = 80, 400_000
"""Of text for C, for each entry of what enters the MLP."""
SEQUENCE, TOGETHER = 128, 32
KEPT = 65_536
"""Tokens of it at which no subject may be told that is not named there."""
CONDITIONING = 0.01
RISE = 0.3
"""Share of the way from the border to the subject's own score after which its value is whole."""


@dataclass
class Known:
    """What is known of a subject: its facts, the last for each prompt, and their values."""

    subject: str
    facts: dict[str, tuple[Fact, Tensor]]


def known_by_layer(
    changes: Sequence[tuple[Change, Sequence[Fact]]],
) -> dict[int, list[Known]]:
    """Subjects of gates, by the layer behind which their values are added.

    Raises:
        ConfigError: a gate adds to the outputs of several matrices.
    """
    layers: dict[int, dict[str, Known]] = {}
    for change, facts in changes:
        place = Place.of(change)
        if place.outputs:
            raise ConfigError(
                "Behind the MLPs of this family stands a norm or factor: what a gate adds there is "
                "not what neurons of an MLP can.",
                remedy="Keep the ledger, and serve it with `alphaedit serve`; or edit by "
                "alphaedit-weighted.",
            )
        owner, known = change.owner.tolist(), layers.setdefault(place.layers[-1], {})
        for number in dict.fromkeys(owner):
            fact, value = facts[number], change.rows["value"][owner.index(number)]
            own = known.setdefault(fact.subject.casefold(), Known(fact.subject, {}))
            own.facts[fact.text] = (fact, value)
    return {layer: list(known.values()) for layer, known in layers.items()}


def as_neurons(
    handle: ModelHandle,
    corpus: Corpus,
    changes: Sequence[tuple[Change, Sequence[Fact]]],
    progress: Progress = silent,
) -> Mapping[int, Neurons]:
    """Gates as neurons beside MLPs, by block; float32, in the blocks' devices' memory.

    Args:
        corpus: ordinary text, for what enters the MLPs there.
        changes: gates in the order of their edits, each with its edit's facts.

    Raises:
        ConfigError: gates add where no neuron of an MLP does.
        ArchitectureError: an MLP was not understood.
        SubspaceError: what enters an MLP is zero at a subject.
    """
    with plain():
        return {
            layer: _of_layer(handle, corpus, layer, known, progress)
            for layer, known in known_by_layer(changes).items()
        }


@dataclass(frozen=True, eq=False)
class Scores:
    """Rows [m, d] whose products with what enters an MLP say whose last token it is.

    Attributes:
        constant: a row whose product with it is about 1; None where modules have biases.
    """

    rows: Tensor
    constant: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Of inputs [n, d], in units of `constant`: [n, m]."""
        x = x.to(self.rows)
        scores = x @ self.rows.T
        return (
            scores
            if self.constant is None
            else scores / (x @ self.constant).clamp_min(0.1)[:, None]
        )

    @classmethod
    def of(cls, system: RomeSystem, inputs: Tensor, constant: Tensor | None) -> Scores:
        """Of the subjects' own inputs [m, d], whose scores are about 1.

        Raises:
            SubspaceError: one of them is zero.
        """
        through = system.direction(inputs.double().T).T
        scale = (inputs.double() * through).sum(1, keepdim=True)
        if not bool((scale > 0).all()):
            raise SubspaceError("What enters the MLP at a subject's last token is zero.")
        return cls(through / scale, constant)


def _of_layer(
    handle: ModelHandle, corpus: Corpus, layer: int, known: Sequence[Known], progress: Progress
) -> Neurons:
    """Two neurons a subject."""
    matrices = entrance(handle, layer)
    moment, mean, ordinary = _moments(handle, corpus, layer, progress)
    system = RomeSystem(moment, conditioning=CONDITIONING)
    constant = None if matrices.biased else system.direction(mean[:, None])[:, 0]
    settings = build({"layers": (layer,)}, "settings of a gate", Hyperparameters)
    contexts = generate_contexts(handle, settings.contexts, settings.context_tokens, 0)
    read = partial(_read, handle, layer)
    least = _least(handle, contexts, layer, system, constant, read)
    progress("gate in weights", 1, 2)
    own, whose = _own(handle, known, contexts, read, layer)
    means = _means(own, whose, len(known))
    scores = Scores.of(system, means, constant)
    reached = scores(own)[torch.arange(len(own)), whose]
    lowest = reached.new_full((len(known),), float("inf"))
    lowest = lowest.scatter_reduce_(0, whose, reached, "amin")
    others = Others.entering(handle, {layer: mlp_of(handle, layer).enters})
    worst = [_worst(text, layer, known, scores) for text in (others, ordinary)]
    begins = (torch.maximum(*worst) + ROOM).clamp(least, HARDEST)
    whole = begins + RISE * (lowest - begins).clamp_min(ROOM)
    values, gated = torch.stack([sum_of(subject) for subject in known]).to(begins), matrices.beside
    if constant is not None:
        # What stands for 1 is a little more or less at each subject, and a factor of its value.
        values = values / ((means @ constant)[:, None] ** (1 if gated is None else 2))
    made = steps(scores.rows, values, begins, whole, constant=constant, gated=gated is not None)
    progress("gate in weights", 2, 2)
    return made.to(begins.device, torch.float32)


def _read(
    handle: ModelHandle, layer: int, ids: Sequence[Sequence[int]], at: Sequence[int]
) -> dict[int, Tensor]:
    """What enters the MLP at a position of each row, [n, d]."""
    module, parts = {layer: mlp_of(handle, layer).enters}, list[Tensor]()
    for start in range(0, len(ids), TOGETHER):
        places = range(start, min(start + TOGETHER, len(ids)))
        rows = [list(ids[row][: at[row] + 1]) for row in places]
        ends = torch.tensor([len(row) for row in rows]).cumsum(0) - 1
        inputs = tokens_entering(handle, rows, module)[layer]
        parts.append(inputs[ends.to(inputs.device)])
    return {layer: torch.cat(parts)}


def _means(own: Tensor, whose: Tensor, count: int) -> Tensor:
    """The mean of the inputs of each subject, [count, d] float64."""
    total = own.new_zeros(count, own.shape[1], dtype=torch.float64)
    number = torch.bincount(whose, minlength=count).clamp_min(1)
    return total.index_add_(0, whose, own.double()) / number[:, None]


def _worst(others: Others, layer: int, known: Sequence[Known], scores: Scores) -> Tensor:
    """The highest score of each subject on other text, [m]."""
    inputs, parts = others.keys[layer][~others.first], list[Tensor]()
    for at in range(0, len(known), ENTRIES):
        some = replace(scores, rows=scores.rows[at : at + ENTRIES])
        subjects = [subject.subject for subject in known[at : at + ENTRIES]]
        parts.append(others.highest(some(inputs), subjects))
    return torch.cat(parts)


def sum_of(known: Known) -> Tensor:
    """All that is known of a subject, added together, [d]."""
    return torch.stack([value for _, value in known.facts.values()]).double().sum(0)


def _moments(
    handle: ModelHandle, corpus: Corpus, layer: int, progress: Progress
) -> tuple[Tensor, Tensor, Others]:
    """E[x x^T] and E[x], float64, of what enters an MLP at tokens of text but its first.

    Returns:
        With them the inputs of the first `KEPT` tokens.
    """
    module, width = mlp_of(handle, layer).enters, handle.d_out(layer)
    budget = min(MOST_TOKENS, TOKENS_PER_DIRECTION * width)
    total = torch.zeros(width, width, dtype=torch.float64)
    mean, seen = torch.zeros(width, dtype=torch.float64), 0
    texts, parts, numbers = list[str](), list[Tensor](), list[int]()
    rows = packed(handle, corpus, min(SEQUENCE, handle.max_positions or SEQUENCE))
    while seen < budget and (ids := [row.ids for row in islice(rows, TOGETHER)]):
        x = tokens_entering(handle, ids, {layer: module})[layer]
        places = [place for row in ids for place in range(len(row))]
        inside = x[torch.tensor(places, device=x.device) > 0]
        total += (inside.T @ inside).double().cpu()
        mean += inside.sum(0).double().cpu()
        seen += len(inside)
        if len(numbers) < KEPT:
            numbers += [len(texts) + n for n, row in enumerate(ids) for _ in row[1:]]
            texts += [handle.tokens.decode(row) for row in ids]
            parts.append(inside)
        progress("text for the gate", min(seen, budget), budget)
    device, count = handle.weight_device(layer), max(1, seen)
    of = torch.tensor(numbers, device=device)
    ordinary = Others(texts, {layer: torch.cat(parts)}, of, torch.zeros_like(of, dtype=torch.bool))
    return (total / count).to(device), (mean / count).to(device), ordinary


def _least(
    handle: ModelHandle,
    contexts: Sequence[str],
    layer: int,
    system: RomeSystem,
    constant: Tensor | None,
    read: Read,
) -> float:
    """The score that all but a few other phrasings of well-known subjects reach."""
    own, phrased, of = keys_of_phrasings(handle, well_known(handle), contexts, read)
    bare, inside, lasts = own[layer]
    inputs = _mean(bare, inside, torch.tensor(lasts) == 0)
    scores = Scores.of(system, inputs, constant)(phrased[layer])
    reached = scores[torch.arange(len(of)), of.to(scores.device)]
    return float(reached.quantile(1 - TAKEN).clamp(LOWEST, HIGHEST))


def _mean(bare: Tensor, inside: Tensor, alone: Tensor) -> Tensor:
    """Of the bare prompts' inputs and those in contexts; without first tokens, if there are any."""
    if not inside.shape[1]:
        return bare
    mean = inside.mean(1)
    return torch.where(alone[:, None].to(bare.device), mean, (bare + mean) / 2)


def _own(
    handle: ModelHandle,
    known: Sequence[Known],
    contexts: Sequence[str],
    read: Read,
    layer: int,
) -> tuple[Tensor, Tensor]:
    """Inputs [n, d] at subjects' last tokens, of all their facts, and whose they are, [n]."""
    facts = [fact for subject in known for fact, _ in subject.facts.values()]
    of = [number for number, subject in enumerate(known) for _ in subject.facts]
    each = 1 + len(contexts)
    ids, lasts = prompts_in_context(handle, facts, contexts)
    keys = read(ids, lasts)[layer].view(len(facts), each, -1)
    check_finite("keys", keys.flatten(1).T, facts)
    whose = torch.tensor(of, device=keys.device)
    inside = torch.tensor(lasts[::each], device=keys.device) > 0
    if each == 1:
        return keys[:, 0], whose
    return torch.cat([keys[inside, 0], keys[:, 1:].mean(1)]), torch.cat([whose[inside], whose])
