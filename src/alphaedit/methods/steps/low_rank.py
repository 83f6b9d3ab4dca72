"""Low-rank blocks beside one matrix: each row of a pass has its own, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphaedit.methods.base import Problem
from alphaedit.methods.steps.answers import FACTS_AT_ONCE, Answers
from alphaedit.methods.steps.router import Look, at_ends, behind_ends
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import hidden_of
from alphaedit.model.route import current


def added(keys: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """What blocks down [rows, r, d_in] and up [rows, d_out, r] add, keys [rows, length, d_in]."""
    return keys.to(down) @ down.mT @ up.mT


def adapted(
    handle: ModelHandle, layer: int, look: Look, down: Tensor, up: Tensor
) -> Callable[[], None]:
    """Add to what the edited matrix gives, from prompts' last tokens on, what a block gives.

    Args:
        look: from what enters the matrix at the ends of prompts to numbers of blocks, or -1.
        down: [blocks, r, d_in].
        up: [blocks, d_out, r].

    Returns:
        What undoes it.
    """
    key = id(look)

    def hook(module: object, args: Any, kwargs: dict[str, Any], out: Tensor) -> Tensor | None:
        route, keys = current(), hidden_of(args, kwargs)
        if route is None or keys is None:
            return None
        if route.ends is not None:
            route.decided[key] = look(at_ends(route, keys))
        chosen = route.decided.get(key)
        if chosen is None or not bool((chosen >= 0).any()):
            return None
        own = chosen.clamp_min(0)
        shaped = out.reshape(len(chosen), -1, out.shape[-1])
        entering = keys.reshape(*shaped.shape[:2], keys.shape[-1])
        new = (shaped + added(entering, down[own], up[own])).to(shaped)
        at = behind_ends(route, *shaped.shape[:2], out.device) >= 0
        at = at & (chosen >= 0)[:, None]
        return torch.where(at[..., None], new, shaped).reshape(out.shape)

    return handle.edited_module(layer).register_forward_hook(hook, with_kwargs=True).remove


def trained(
    problem: Problem[Any], layer: int, keys: Tensor, block: Tensor
) -> tuple[Tensor, Tensor, list[float]]:
    """Blocks that say the targets of their facts: down, up, and each fact's loss at the end.

    Rates are measured by what enters the matrix and what leaves it, so that a step changes about
    as much in any model. Blocks do not see one another.

    Args:
        keys: [u, d_in] what enters the matrix at the ends of the prompts.
        block: [u] number of each fact's block, in ascending order.
    """
    parts = []
    start = 0
    while start < len(block):
        # Whole blocks, as many as run together well.
        last = int(block[min(start + FACTS_AT_ONCE, len(block)) - 1])
        inside = torch.nonzero((block <= last) & (torch.arange(len(block)) >= start)).flatten()
        own = inside.tolist()
        parts.append(_trained(problem, layer, keys[own], block[own] - block[start], own))
        start = own[-1] + 1
    downs, ups, losses = zip(*parts, strict=True)
    return torch.cat(downs), torch.cat(ups), [loss for part in losses for loss in part]


def _trained(
    problem: Problem[Any], layer: int, keys: Tensor, block: Tensor, facts: list[int]
) -> tuple[Tensor, Tensor, list[float]]:
    hp, handle = problem.hyperparameters, problem.handle
    answers = Answers(handle, [problem.facts[i] for i in facts], layer)
    generator = torch.Generator().manual_seed(problem.seed)
    count, wide = int(block.max()) + 1, keys.shape[1]
    norm = float(keys.norm(dim=1).mean())
    size = answers.size()
    down = torch.randn(count, hp.rank, wide, generator=generator).to(keys) / norm
    up = torch.zeros(count, handle.d_out(layer), hp.rank, device=keys.device)
    down.requires_grad_(), up.requires_grad_()
    rates = hp.learning_rate / (norm * wide**0.5), hp.learning_rate * size
    adam = torch.optim.Adam(
        [{"params": [p], "lr": r} for p, r in zip((down, up), rates, strict=True)]
    )

    def hook(module: object, args: Any, kwargs: dict[str, Any], out: Tensor) -> Tensor:
        entering = hidden_of(args, kwargs)
        assert entering is not None
        shaped = entering.reshape(*answers.shape, wide)
        new = added(shaped, down[block], up[block])
        return out + new.reshape(out.shape).to(out)

    registered = handle.edited_module(layer).register_forward_hook(hook, with_kwargs=True)
    try:
        for step in range(hp.steps + 1):
            problem.progress("training", step, hp.steps)
            losses = answers.losses(answers.logits())
            if step == hp.steps or bool((losses < hp.stop_loss).all()):
                break
            adam.zero_grad(set_to_none=True)
            losses[losses.detach() >= hp.stop_loss].sum().backward()
            adam.step()
    finally:
        registered.remove()
    return down.detach().cpu(), up.detach().cpu(), losses.detach().tolist()
