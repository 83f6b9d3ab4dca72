"""Gradient descent on rows that hooks hold and that are not weights, all facts in each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor, nn

from alphaedit.core.errors import NonFiniteError
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.steps.rest_pass import Change, Clean, RestPasses, prepare
from alphaedit.model.precision import computing_in

__all__ = ["Change", "Clean", "Fitted", "RestPasses", "Training", "fit", "prepare"]


@dataclass(frozen=True)
class Training:
    """How rows are learned.

    Attributes:
        steps: most steps.
        rate: learning rate; halved after every `halve_every` steps, where that is given.
        momentum: of "sgd".
        clip: largest norm of the gradient of all parameters together.
        stop_loss: stop once the largest loss of a fact, plus the extra terms, is at most this and
            has moved by at most `stop_change` since the step before.
        smoothing: label smoothing of the cross-entropy.
    """

    steps: int
    rate: float
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip: float | None = None
    halve_every: int | None = None
    stop_loss: float = 0.0
    stop_change: float = float("inf")
    smoothing: float = 0.0


@dataclass(frozen=True)
class Fitted:
    """What a search ended with.

    Attributes:
        losses: of each fact, with the parameters as they were left.
        extra: the extra terms, likewise.
        steps: how many were taken.
    """

    losses: list[float]
    extra: float
    steps: int


def fit(
    passes: RestPasses,
    parameters: Sequence[Tensor],
    change: Change,
    training: Training,
    *,
    extra: Callable[[], Tensor] | None = None,
    restrain: Callable[[], None] | None = None,
    progress: Progress = silent,
) -> Fitted:
    """Move `parameters` (leaves, float32 or float64) in place until the facts' targets are likely.

    Minimises the mean over facts of `RestPasses.losses`, plus `extra()`. Nothing is random: how the
    parameters start is the caller's.

    Args:
        extra: a scalar of the parameters; may be a constant.
        restrain: called after each step, to keep the parameters within their limits.

    Raises:
        NonFiniteError: the loss is not finite; the parameters are then useless.
    """
    optimizer, last = _optimizer(parameters, training), float("inf")
    step = 0
    with computing_in(passes.handle, None, after=passes.layer - 1), torch.enable_grad():
        while True:
            progress("learning", step, training.steps)
            optimizer.zero_grad(set_to_none=True)
            losses = torch.zeros(passes.count, dtype=passes.handle.wide)
            for part in passes.losses(change, training.smoothing):
                torch.autograd.backward(part.mean())
                losses += part.detach().cpu()
            term = extra() if extra else losses.new_zeros(())
            if term.requires_grad:
                torch.autograd.backward(term)
            added = float(term.detach())
            total = float(losses.max()) + added
            if not isfinite(total):
                raise NonFiniteError(
                    f"The loss is {total} after {step} steps. Nothing was changed.",
                    remedy="Give a lower learning rate.",
                )
            settled = abs(total - last) <= training.stop_change
            if step == training.steps or (total <= training.stop_loss and settled):
                break
            last, step = total, step + 1
            if training.clip is not None:
                nn.utils.clip_grad_norm_(list(parameters), training.clip)
            optimizer.step()
            if training.halve_every and step % training.halve_every == 0:
                for group in optimizer.param_groups:
                    group["lr"] /= 2
            if restrain:
                with torch.no_grad():
                    restrain()
    progress("learning", training.steps, training.steps)
    return Fitted(losses.tolist(), added, step)


def _optimizer(parameters: Sequence[Tensor], training: Training) -> torch.optim.Optimizer:
    given, rate, decay = list(parameters), training.rate, training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(given, lr=rate, weight_decay=decay)
    return torch.optim.SGD(given, lr=rate, weight_decay=decay, momentum=training.momentum)
