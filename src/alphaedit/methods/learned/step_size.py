"""How large a step each fact needs: the smallest after which its target is likely enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.methods.learned.editor import Gradients
from alphaedit.methods.learned.network import Factors
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import ROWS_AT_ONCE, for_each_row, logits_of, losses_of
from alphaedit.model.handle import ModelHandle

REACH = 4.0
"""A change is made so many times larger, or smaller, at most."""
HALVINGS = 6
"""Of the range between them, by logarithms: what is found is the smallest to within 4.5 %."""
MOST_PULL = 10.0
"""Largest weight of the loss of a fact's own prompt in `with_sizes_free`."""


@torch.no_grad()
def sizes_until(
    handle: ModelHandle,
    facts: Sequence[Fact],
    changes: Mapping[int, Factors],
    loss: float,
    *,
    halvings: int = HALVINGS,
) -> Tensor:
    """Factors [e] for changes, the smallest at which the facts' targets have at most that loss.

    The loss is the mean negative log-likelihood of a target's tokens behind the fact's own prompt;
    of a change that is for all facts, their mean. Where none reaches it, the factor is `REACH`.

    Args:
        changes: by layer, one for each fact or one for all of them.
        loss: in nats.
        halvings: of the range of sizes.
    """
    first = next(iter(changes.values()))
    edits = len(first.left)
    owner = _owners(len(facts), edits)
    low = torch.full((edits,), -math.log(REACH), dtype=torch.float64)
    high = -low
    for _ in range(halvings):
        middle = (low + high) / 2
        losses = _losses(handle, facts, scaled(changes, middle.exp()), owner)
        sums = losses.new_zeros(edits).index_add(0, owner, losses)
        enough = sums / torch.bincount(owner, minlength=edits) <= loss
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.exp()


@torch.no_grad()
def with_sizes_free(
    handle: ModelHandle,
    facts: Sequence[Fact],
    changes: Mapping[int, Factors],
    sizes: Tensor,
    gradients: Gradients,
) -> Gradients:
    """Gradients of a loss at sized changes, once their sizes move with them.

    A size s keeps the loss L of a fact's own prompt where it is, so that for a change D

        d loss(s D) = <G - k G_L, d(s D)>,   k = <G, D> / <G_L, D>

    with the gradients G of the loss and G_L of L at s D. At the ends of their range sizes stand
    still.

    Args:
        changes: before their sizes, one for each fact or one for all of them; `sizes` [e].
        gradients: of the factors of the sized changes.
    """
    leaves = {
        layer: tuple(part.detach().requires_grad_() for part in (change.left, change.right))
        for layer, change in changes.items()
    }
    edits = len(sizes)
    owner = _owners(len(facts), edits).to(handle.device)
    with torch.enable_grad():
        sized = {
            layer: (left * sizes.to(left)[:, None, None], right)
            for layer, (left, right) in leaves.items()
        }
        read = Continuations.of(handle, facts)
        with for_each_row(handle, sized, owner):
            losses_of(logits_of(handle, read), read).sum().backward()
    owns = {layer: (_gradient(left), _gradient(right)) for layer, (left, right) in leaves.items()}
    gradients = {
        layer: (left * sizes.to(left)[:, None, None], right)
        for layer, (left, right) in gradients.items()
    }
    along, own = (_along(changes, given) for given in (gradients, owns))
    moves = (sizes > 1.01 / REACH * REACH ** (2 / 2**HALVINGS)) & (sizes < 0.99 * REACH)
    pull = torch.where((own < 0) & moves.to(own.device), along / own, 0.0)
    pull = pull.clamp(-MOST_PULL, MOST_PULL)[:, None, None]
    return {
        layer: (left - pull * owns[layer][0], right - pull * owns[layer][1])
        for layer, (left, right) in gradients.items()
    }


def _along(changes: Mapping[int, Factors], gradients: Gradients) -> Tensor:
    """Derivatives [e] by the logarithm of each change's size."""
    return torch.stack(
        [(gradients[layer][0] * change.left).sum((1, 2)) for layer, change in changes.items()]
    ).sum(0)


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _owners(facts: int, edits: int) -> Tensor:
    """Number of the change of each fact."""
    return torch.arange(facts) if edits == facts else torch.zeros(facts, dtype=torch.long)


def scaled(changes: Mapping[int, Factors], sizes: Tensor) -> dict[int, Factors]:
    """Changes, each times its own factor of `sizes` [e]."""
    return {
        layer: Factors(change.left * sizes.to(change.left)[:, None, None], change.right)
        for layer, change in changes.items()
    }


def _losses(
    handle: ModelHandle, facts: Sequence[Fact], changes: Mapping[int, Factors], owner: Tensor
) -> Tensor:
    """Of each fact's target [n], on the CPU, while its change is in force."""
    pairs = {layer: (change.left, change.right) for layer, change in changes.items()}
    parts = []
    for at in range(0, len(facts), ROWS_AT_ONCE):
        read = Continuations.of(handle, facts[at : at + ROWS_AT_ONCE])
        rows = owner[at : at + ROWS_AT_ONCE].to(handle.device)
        with for_each_row(handle, pairs, rows):
            parts.append(losses_of(logits_of(handle, read), read).double().cpu())
    return torch.cat(parts)
