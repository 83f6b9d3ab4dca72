"""How a target search goes downhill: Adam, or a quasi-Newton step for each fact on its own.

The loss of a fact depends on its own delta alone, so a search over a batch is many small problems
at once, each with a gradient and a loss that are known exactly. Curvature learned from a few of
these (L-BFGS) within a trust radius takes a third of Adam's steps, and needs no rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.relational import Maker

FIRST = 0.1
"""Length of the first step, as a share of |h|."""
MEMORY = 8
"""Steps from which curvature is known."""
GROW, SHRINK = 2.0, 0.35
"""The radius after a step that went down or up, as a multiple of that step."""
CURVED = 1e-3
"""Least cosine between a step and the change of the gradient that says something of curvature."""


class Descent(Protocol):
    """Moves the parameters of a search."""

    def step(self, loss: Tensor, alive: Tensor, waiting: Tensor) -> None:
        """One step, from the losses [u] at the present deltas and the gradients of those alive.

        Deltas of facts that are `waiting` stay as they are.
        """

    def result(self, delta: Tensor, loss: Tensor) -> Tensor:
        """The deltas [u, d] that a search which ends now with these gives."""


def descent(hp: Hyperparameters, made: Maker, norm: Tensor, *, free: bool) -> Descent:
    """The descent that `hp` asks for.

    Args:
        norm: [u] what the steps are measured against.
        free: the only parameters are the deltas themselves; anything else is moved by Adam.
    """
    if hp.optimizer == "lbfgs" and free:
        return QuasiNewton(made.parameters[0], FIRST * norm, hp.clamp * norm)
    return Adam(made.parameters, hp.learning_rate, free=free)


class Adam:
    """PyTorch's Adam over all facts; the last deltas are the result.

    Args:
        free: the parameters are the deltas [u, d], one row a fact; else they are one fact's.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float, *, free: bool) -> None:
        self.parameters, self.free = list(parameters), free
        self.adam = torch.optim.Adam(self.parameters, lr=rate)

    def step(self, loss: Tensor, alive: Tensor, waiting: Tensor) -> None:
        """See Descent. To the averages of gradients a waiting fact adds nothing."""
        moving = alive & ~waiting
        if not self.free and not bool(moving.any()):
            return
        self.adam.zero_grad(set_to_none=False)
        total = loss[moving].sum()
        if total.requires_grad:
            total.backward()
        before = [parameter.detach().clone() for parameter in self.parameters]
        self.adam.step()
        if self.free and bool(waiting.any()):
            with torch.no_grad():
                for parameter, old in zip(self.parameters, before, strict=True):
                    parameter[waiting] = old[waiting]

    def result(self, delta: Tensor, loss: Tensor) -> Tensor:
        """See Descent."""
        return delta


@dataclass(frozen=True)
class _Point:
    """Deltas [u, d], their gradients, and their losses [u]."""

    x: Tensor
    gradient: Tensor
    loss: Tensor

    def where(self, mask: Tensor, other: _Point) -> _Point:
        """The rows of `other` where `mask` is true, else these."""
        rows = mask[:, None]
        return _Point(
            torch.where(rows, other.x, self.x),
            torch.where(rows, other.gradient, self.gradient),
            torch.where(mask, other.loss, self.loss),
        )


class QuasiNewton:
    """L-BFGS for many independent problems at once, each within a trust radius of its own.

    A step that goes up is taken back and tried shorter; what it says of curvature is kept (Nocedal
    and Wright, Numerical Optimization, algorithms 4.1 and 7.4).

    Args:
        x: [u, d] deltas, a leaf that is changed in place.
        first: [u] length of the first steps.
        largest: [u] longest steps.
    """

    def __init__(self, x: Tensor, first: Tensor, largest: Tensor) -> None:
        self.x = x
        self.radius, self.largest = first.clone(), largest
        self.best: _Point | None = None
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def step(self, loss: Tensor, alive: Tensor, waiting: Tensor) -> None:
        """See Descent; a fact whose loss is low is done at once, and none waits."""
        (gradient,) = torch.autograd.grad(loss[alive].sum(), [self.x])
        with torch.no_grad():
            now = _Point(self.x.clone(), gradient, loss.detach().clone())
            self.best = best = self._taken(now)
            self.x.copy_(best.x - self._within(self._direction(best.gradient), best.gradient))

    def result(self, delta: Tensor, loss: Tensor) -> Tensor:
        """See Descent: of all deltas that were tried, those of the least loss."""
        if self.best is None:
            return delta
        return torch.where((loss <= self.best.loss)[:, None], delta, self.best.x)

    def _taken(self, now: _Point) -> _Point:
        """The best point so far; the radius and the curvature after what `now` shows."""
        best = self.best
        if best is None:
            return now
        step, change = now.x - best.x, now.gradient - best.gradient
        length = step.norm(dim=1)
        product = (step * change).sum(dim=1)
        curved = product > CURVED * length * change.norm(dim=1)
        weight = torch.where(curved, 1 / product.clamp_min(1e-30), 0.0)
        self.pairs = [*self.pairs, (step, change, weight)][-MEMORY:]
        down = now.loss < best.loss
        longer = torch.maximum(self.radius, (GROW * length).minimum(self.largest))
        self.radius = torch.where(down, longer, SHRINK * length)
        return best.where(down, now)

    def _direction(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian, as far as it is known, times the gradient (two-loop recursion)."""
        out, shares = gradient.clone(), []
        for step, change, weight in reversed(self.pairs):
            share = weight * (step * out).sum(dim=1)
            shares.append(share)
            out = out - share[:, None] * change
        scale = torch.zeros_like(self.radius)
        for step, change, weight in self.pairs:
            own = (step * change).sum(dim=1) / change.square().sum(dim=1).clamp_min(1e-30)
            scale = torch.where(weight > 0, own, scale)
        out = scale[:, None] * out
        for (step, change, weight), share in zip(self.pairs, reversed(shares), strict=True):
            back = weight * (change * out).sum(dim=1)
            out = out + torch.where(weight > 0, share - back, 0.0)[:, None] * step
        return out

    def _within(self, direction: Tensor, gradient: Tensor) -> Tensor:
        """`direction` within the radius; the gradient, that long, where nothing better is known."""
        down = (direction * gradient).sum(dim=1)
        useless = ~(torch.isfinite(down) & (down > 0))
        out = torch.where(useless[:, None], gradient, direction)
        length = out.norm(dim=1).clamp_min(1e-30)
        share = torch.where(useless | (length > self.radius), self.radius / length, 1.0)
        return out * share[:, None]
