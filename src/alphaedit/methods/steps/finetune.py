"""Gradient descent on one edited matrix, by a change beside it: the weights are not touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import hidden_of


@dataclass(frozen=True)
class Schedule:
    """How a fine-tuning goes.

    Attributes:
        epochs: passes over the facts.
        batch: facts in a step.
        learning_rate: Adam's rate.
        stop_loss: stop after an epoch whose mean loss is below it.
        bound: largest absolute change of an entry (FT-L), if any.
        shuffle: order the facts anew in each epoch.
        end_of_text: targets end with the end-of-text token.
    """

    epochs: int
    batch: int
    learning_rate: float
    stop_loss: float
    bound: float | None = None
    shuffle: bool = False
    end_of_text: bool = False


@contextmanager
def beside(handle: ModelHandle, layer: int, delta: Tensor) -> Iterator[None]:
    """Add `delta` [d_out, d_in] to the edited matrix of `layer` in every pass; gradients flow."""

    def hook(
        module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], out: Tensor
    ) -> Tensor:
        keys = hidden_of(args, kwargs)
        assert keys is not None
        return out + (keys.to(delta.dtype) @ delta.T).to(out.dtype)

    registered = handle.edited_module(layer).register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        registered.remove()


def losses_of(handle: ModelHandle, facts: Sequence[Fact], *, end_of_text: bool = False) -> Tensor:
    """Mean negative log-likelihood of each fact's target after its prompt, [u] float32."""
    read = Continuations.of(handle, facts, end_of_text=end_of_text)
    logits = handle.forward(read.ids, read.mask)[read.row, read.position].float()
    nll = F.cross_entropy(logits, read.target, reduction="none")
    tokens = torch.bincount(read.row, minlength=len(facts))
    return torch.zeros(len(facts), device=nll.device).index_add(0, read.row, nll) / tokens


def finetune(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layer: int,
    schedule: Schedule,
    *,
    restrain: Sequence[Callable[[Tensor], Tensor]] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[Tensor, list[float]]:
    """The change of the edited matrix of `layer` that Adam finds on the facts' own prompts.

    Args:
        restrain: applied to the change after each step, in order.

    Returns:
        Delta [d_out, d_in] float32, and the last loss of each fact.
    """
    shape = (handle.d_out(layer), handle.d_in(layer))
    delta = torch.zeros(shape, dtype=torch.float32, device=handle.device, requires_grad=True)

    def allow() -> None:
        if schedule.bound is not None:
            delta.clamp_(-schedule.bound, schedule.bound)
        for allowed in restrain:
            delta.copy_(allowed(delta))

    with beside(handle, layer, delta):
        losses = descend(handle, facts, [delta], schedule, allow, seed=seed, progress=progress)
    return delta.detach(), losses


def descend(
    handle: ModelHandle,
    facts: Sequence[Fact],
    parameters: Sequence[Tensor],
    schedule: Schedule,
    allow: Callable[[], None] = lambda: None,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> list[float]:
    """Adam on parameters of which the model's answers depend, in place, on the facts' own prompts.

    Args:
        allow: called after each step, without gradients, to bring the parameters back.

    Returns:
        The last loss of each fact.
    """
    adam = torch.optim.Adam(parameters, lr=schedule.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    last = [float("nan")] * len(facts)
    for epoch in range(schedule.epochs):
        progress("fine-tuning", epoch, schedule.epochs)
        order = list(range(len(facts)))
        if schedule.shuffle:
            order = torch.randperm(len(facts), generator=generator).tolist()
        for at in range(0, len(order), schedule.batch):
            chosen = order[at : at + schedule.batch]
            own = [facts[i] for i in chosen]
            losses = losses_of(handle, own, end_of_text=schedule.end_of_text)
            for i, loss in zip(chosen, losses.tolist(), strict=True):
                last[i] = loss
            if losses.detach().mean() < schedule.stop_loss:
                continue
            adam.zero_grad(set_to_none=True)
            losses.mean().backward()
            adam.step()
            with torch.no_grad():
                allow()
        if sum(last) / len(last) < schedule.stop_loss:
            break
    progress("fine-tuning", schedule.epochs, schedule.epochs)
    return last
