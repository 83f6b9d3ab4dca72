"""How large a step each fact needs: the smallest after which its target is likely enough."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.methods.learned.network import Factors
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import ROWS_AT_ONCE, for_each_row, logits_of, losses_of
from alphaedit.model.handle import ModelHandle

REACH = 4.0
"""A change is made so many times larger, or smaller, at most."""
HALVINGS = 6
"""Of the range between them, by logarithms: what is found is the smallest to within 4.5 %."""


@torch.no_grad()
def sizes_until(
    handle: ModelHandle, facts: Sequence[Fact], changes: Mapping[int, Factors], loss: float
) -> Tensor:
    """Factors [e] for changes, the smallest at which the facts' targets have at most that loss.

    The loss is the mean negative log-likelihood of a target's tokens behind the fact's own prompt;
    of a change that is for all facts, their mean. Where none reaches it, the factor is `REACH`.

    Args:
        changes: by layer, one for each fact or one for all of them.
        loss: in nats.
    """
    first = next(iter(changes.values()))
    edits = len(first.left)
    owner = torch.arange(len(facts)) if edits == len(facts) else torch.zeros(len(facts)).long()
    low = torch.full((edits,), -math.log(REACH))
    high = torch.full((edits,), math.log(REACH))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        losses = _losses(handle, facts, scaled(changes, middle.exp()), owner)
        sums = torch.zeros(edits).index_add(0, owner, losses)
        enough = sums / torch.bincount(owner, minlength=edits) <= loss
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high.exp()


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
            parts.append(losses_of(logits_of(handle, read), read).float().cpu())
    return torch.cat(parts)
