"""Neurons beside an MLP: trained to fire at a few tokens, and hardly anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from alphaedit.methods.base import Problem
from alphaedit.methods.steps.answers import Answers
from alphaedit.methods.steps.router import behind_ends
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, hidden_of, on_input, on_output, stoppable
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
        at = behind_ends(route, *shaped.shape[:2], out.device) >= 0
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
    found: tuple[Tensor, list[str]] = handle.composed[name]
    return found


def inputs(handle: ModelHandle, mlp: Mlp, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """What enters an MLP at all tokens of each row, [tokens, h] float32."""
    found = []
    for at in range(0, len(rows), ROWS):
        ids, mask = handle.tokens.pad(rows[at : at + ROWS], "right")
        seen: list[Tensor] = []

        def keep(tensor: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(tensor)
            raise StopForward

        with plain(), stoppable(), on_input(mlp.enters, keep):
            handle.forward(ids, mask)
        states = seen[0].reshape(*ids.shape, -1).float()
        found += [row[:length] for row, length in zip(states, mask.sum(1).tolist(), strict=True)]
    return found


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
    answers = Answers(handle, problem.facts, layer)
    with _adding(mlp, None) as seen, torch.no_grad():
        logits = answers.logits()
    entering = seen[0].reshape(*answers.shape, -1).float()
    fact, place = _tokens(answers, logits, hp.tokens)
    own = entering[fact, place]
    norm, wide = own.norm(dim=1, keepdim=True), own.shape[1]
    turn, value = (torch.zeros_like(own, requires_grad=True) for _ in range(2))
    bias = own.new_zeros(len(own), requires_grad=True)
    size = answers.size()
    adam = torch.optim.Adam([turn, bias, value], lr=hp.learning_rate)
    mine = (fact == torch.arange(len(problem.facts), device=fact.device)[:, None])[:, None]
    share = 1 / torch.bincount(fact).clamp_min(1)[fact]
    for step in range(hp.steps + 1):
        problem.progress("training", step, hp.steps)
        keys = own / norm.square() + turn / (norm * wide**0.5)
        made = Neurons(keys, bias, size * value, hp.off_below)
        adds = torch.where(mine, made.fire(mlp, entering), 0.0) @ made.values
        with _adding(mlp, adds):
            losses = answers.losses(answers.logits())
        high = keys @ quiet.T + bias[:, None]
        high = high.masked_fill(exempt[fact], -float("inf"))
        firing = bool((high > (hp.off_below or 0.0)).any())
        if step == hp.steps or (bool((losses < hp.stop_loss).all()) and not firing):
            break
        at = (keys * own).sum(1) + bias
        worst = high.topk(min(WORST, high.shape[1])).values + QUIET
        loud = _exp(worst).mean(1) + _exp(worst - at[:, None]).mean(1)
        total = losses.sum() + (share * (_exp(-at) + hp.quiet_weight * loud)).sum()
        adam.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_([turn, bias, value], CLIP * len(own) ** 0.5)
        adam.step()
    plainly = [tensor.detach() for tensor in (made.keys, made.biases, made.values)]
    return Neurons(*plainly, hp.off_below), fact, own, losses.detach().tolist()


def _exp(power: Tensor) -> Tensor:
    return power.clamp_max(LARGEST).exp()


def _tokens(answers: Answers, logits: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Fact and place of the tokens that get a neuron: the wrong ones, at least one of each fact."""
    wrong = logits.argmax(-1) != answers.target.to(logits.device)
    chosen: list[tuple[int, int]] = []
    for fact in range(answers.shape[0]):
        mine = (answers.fact == fact).nonzero().flatten().tolist()
        need = [i for i in mine if bool(wrong[i])][:most] or mine[:1]
        chosen += [(fact, int(answers.place[i])) for i in need]
    return torch.tensor(chosen, device=answers.fact.device).unbind(1)  # type: ignore[return-value]


@contextmanager
def _adding(mlp: Mlp, adds: Tensor | None) -> Iterator[list[Tensor]]:
    """Add to what the MLP gives, in each pass of a block; what enters it is put into a list."""
    seen: list[Tensor] = []

    def see(tensor: Tensor) -> None:
        seen.append(tensor.detach())

    def add(out: Tensor) -> Tensor | None:
        return None if adds is None else out + adds.reshape(out.shape).to(out)

    with on_input(mlp.enters, see), on_output(mlp.leaves, add):
        yield seen
