"""Neurons beside an MLP: trained to fire at a few tokens, and hardly anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.fit import Clean, Training, fit, prepare
from alphaedit.methods.steps.router import behind_ends
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, hidden_of, on_input, stoppable
from alphaedit.model.mlp import Mlp
from alphaedit.model.route import current, plain
from alphaedit.stats.corpus import open_corpus
from alphaedit.stats.phrasings import phrasings, texts_of

ASKED, TEXTS, LENGTH, OTHERS = 300, 80, 64, 1500
"""Phrasings, texts and their length in tokens, and tokens of those, that must stay as they are."""
WORST = 1000
"""Others that count in a step: those at which a neuron fires most."""
QUIET = 3.0
"""What keeps others silent pushes pre-activations below this, with a minus."""
ROWS = 64
CLIP = 5.0
"""Longest gradient, for each neuron."""
LEAST = 0.05
"""Least share of the way from a neuron's token to others that lies in front of the nearest."""
LARGEST = 15.0
"""Exponents are cut here, where a float32 is still far from its end."""


@dataclass(frozen=True, eq=False)
class Neurons:
    """Keys [p, h], biases [p] and values [p, h]: act(keys x + biases) values is added.

    Attributes:
        off_below: pre-activation from which on a neuron does anything at all; None: everywhere.
    """

    keys: Tensor
    biases: Tensor
    values: Tensor
    off_below: float | None

    def fire(self, mlp: Mlp, entering: Tensor) -> Tensor:
        """Activations [..., p] at inputs [..., h]; exactly 0 where they are off."""
        before = entering.to(self.keys) @ self.keys.T + self.biases
        after = mlp.activation(before)
        return after if self.off_below is None else torch.where(before > self.off_below, after, 0.0)


def beside(handle: ModelHandle, mlp: Mlp, neurons: Neurons) -> Callable[[], None]:
    """Add what neurons give from prompts' last tokens on; where none fires, nothing is touched.

    Returns:
        What undoes it.
    """
    key = id(neurons)

    def see(module: object, args: Any, kwargs: dict[str, Any]) -> None:
        route = current()
        if route is not None:
            route.decided[key] = hidden_of(args, kwargs)

    def add(module: object, args: Any, kwargs: dict[str, Any], out: Tensor) -> Tensor | None:
        route = current()
        entering = None if route is None else route.decided.pop(key, None)
        if route is None or entering is None:
            return None
        # Behind the prompts a pass has one token of each row.
        rows = len(out) if route.ends is None else len(route.ends)
        shaped = out.reshape(rows, -1, out.shape[-1])
        firing = neurons.fire(mlp, entering.reshape(*shaped.shape[:2], -1))
        at = behind_ends(route, shaped) >= 0
        at = at & (firing != 0).any(-1)
        if not bool(at.any()):
            return None
        new = (shaped + firing @ neurons.values).to(shaped)
        return torch.where(at[..., None], new, shaped).reshape(out.shape)

    first = mlp.enters.register_forward_pre_hook(see, with_kwargs=True)
    second = mlp.leaves.register_forward_hook(add, with_kwargs=True)

    def undo() -> None:
        first.remove()
        second.remove()

    return undo


@torch.no_grad()
def others(handle: ModelHandle, layer: int, mlp: Mlp, seed: int) -> tuple[Tensor, list[str]]:
    """Inputs [m, h] float32 of an MLP that should stay as they are, and the text of each.

    The ends of prompts about other things, and tokens of running text. They are kept with the model
    for the next edit.
    """
    name = f"others {layer} {seed}"
    if name not in handle.composed:
        prompts = texts_of(phrasings(handle, count=ASKED, seed=seed))
        corpus = open_corpus("bundled" if handle.is_bundled else "general", handle, seed=seed)
        running = list(islice(corpus.texts(), TEXTS))
        longest = min(LENGTH, handle.max_positions or LENGTH)
        ends = [row[-longest:] for row in map(handle.tokens.encode, prompts)]
        first = torch.cat([part[-1:] for part in inputs(handle, mlp, ends)])
        rows = [row[:longest] for row in map(handle.tokens.encode, running) if row]
        parts = inputs(handle, mlp, rows)
        words = [text for text, part in zip(running, parts, strict=False) for _ in part]
        second = torch.cat(parts)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(second), generator=generator)[:OTHERS]
        texts = [*prompts, *(words[i] for i in chosen.tolist())]
        handle.composed[name] = (torch.cat([first, second[chosen.to(second.device)]]), texts)
    cached: tuple[Tensor, list[str]] = handle.composed[name]
    return cached


def inputs(handle: ModelHandle, mlp: Mlp, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """What enters an MLP at all tokens of each row, [tokens, h] float32."""
    entering = []
    for at in range(0, len(rows), ROWS):
        ids, mask = handle.tokens.pad(rows[at : at + ROWS], "right")
        seen: list[Tensor] = []

        def keep(tensor: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(tensor)
            raise StopForward

        with plain(), stoppable(), on_input(mlp.enters, keep):
            handle.forward(ids, mask)
        states = seen[0].reshape(*ids.shape, -1).float()
        entering += [row[:length] for row, length in zip(states, mask.sum(1).tolist(), strict=True)]
    return entering


def trained(
    problem: Problem[Any], layer: int, mlp: Mlp, quiet: Tensor, exempt: Tensor
) -> tuple[Neurons, Tensor, Tensor, list[float]]:
    """Neurons for the wrong tokens of each fact's target, each trained for its own fact alone.

    The loss is that of the target, plus exp(-a) at a neuron's own token, plus what its
    pre-activations at the tokens `quiet` [m, h] give: there they are to be low.

    Args:
        exempt: [u, m] tokens that say nothing of a fact: they are of texts about its subject.

    Returns:
        The neurons, the fact of each [p], their own tokens [p, h], and each fact's loss.
    """
    hp, handle = problem.hyperparameters, problem.handle
    passes = prepare(handle, problem.facts, layer)
    shown = prepare(handle, problem.facts, layer, module=mlp.enters).clean
    entering = {id(a): b.entering for a, b in zip(passes.clean, shown, strict=True)}
    fact, own = _tokens(handle, problem.facts, shown, hp.tokens)
    norm, wide = own.norm(dim=1, keepdim=True), own.shape[1]
    quiet = quiet.to(own)
    exempt = exempt[fact]
    # 1 at the neuron's own token and 0 at the other one that is most like it.
    nearest = (own @ quiet.T).masked_fill(exempt, -float("inf")).amax(1, keepdim=True)
    nearest = (nearest / norm.square()).clamp(max=1 - LEAST)
    slope = 1 / (1 - nearest)
    turn, value = (torch.zeros_like(own, requires_grad=True) for _ in range(2))
    shift = own.new_zeros(len(own), 1, requires_grad=True)
    size = float(torch.cat([clean.hidden[:, 0] for clean in passes.clean]).square().mean().sqrt())
    share = 1 / torch.bincount(fact)[fact]

    def made() -> Neurons:
        keys = slope * (own / norm.square() + turn / (norm * wide**0.5))
        biases = slope * (shift - nearest)
        return Neurons(keys, biases[:, 0], size * value, hp.off_below)

    def change(clean: Clean) -> Tensor:
        neurons = made()
        mine = clean.fact[:, None] == fact
        firing = neurons.fire(mlp, entering[id(clean)]) * mine[:, None]
        return clean.leaving + firing @ neurons.values

    def loud() -> Tensor:
        neurons = made()
        at = (neurons.keys * own).sum(1) + neurons.biases
        high = neurons.keys @ quiet.T + neurons.biases[:, None]
        worst = high.masked_fill(exempt, -float("inf")).topk(min(WORST, high.shape[1])).values
        others = _exp(worst + QUIET).mean(1) + _exp(worst + QUIET - at[:, None]).mean(1)
        total: Tensor = (share * (_exp(-at) + hp.quiet_weight * others)).sum()
        return total / len(problem.facts)

    training = Training(hp.steps, hp.learning_rate, clip=CLIP, stop_loss=hp.stop_loss)
    parameters = [turn, shift, value]
    fitted = fit(passes, parameters, change, training, extra=loud, progress=problem.progress)
    final = made()
    parts = (final.keys.detach(), final.biases.detach(), final.values.detach())
    return Neurons(*parts, hp.off_below), fact, own, fitted.losses


def _exp(power: Tensor) -> Tensor:
    return power.clamp_max(LARGEST).exp()


@torch.no_grad()
def _tokens(
    handle: ModelHandle, facts: Sequence[Fact], shown: Sequence[Clean], most: int
) -> tuple[Tensor, Tensor]:
    """Facts [p] of the tokens that get a neuron, and what enters the MLP there [p, h].

    They are the wrong ones of each target, at most so many, and at least one of each fact.
    """
    read = Continuations.of(handle, facts)
    predicted = handle.forward(read.ids, read.mask)[read.row, read.position].argmax(-1)
    wrong = (predicted.to(read.target.device) != read.target).tolist()
    steps: dict[int, list[int]] = {fact: [] for fact in range(len(facts))}
    before: dict[int, int] = dict.fromkeys(steps, 0)
    for fact, miss in zip(read.row.tolist(), wrong, strict=True):
        if miss and len(steps[fact]) < most:
            steps[fact].append(before[fact])
        before[fact] += 1
    rows = {n: clean.entering[i] for clean in shown for i, n in enumerate(clean.fact.tolist())}
    chosen = [(fact, step) for fact, own in steps.items() for step in own or [0]]
    device = shown[0].entering.device
    own = torch.stack([rows[fact][step] for fact, step in chosen])
    return torch.tensor([fact for fact, _ in chosen], device=device), own
