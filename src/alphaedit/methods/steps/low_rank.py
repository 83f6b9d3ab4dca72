"""Low-rank blocks beside one matrix: each row of a pass has its own, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alphaedit.methods.base import Problem
from alphaedit.methods.steps.fit import Clean, Training, fit, prepare
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
        at = behind_ends(route, shaped) >= 0
        at = at & (chosen >= 0)[:, None]
        return torch.where(at[..., None], new, shaped).reshape(out.shape)

    return handle.edited_module(layer).register_forward_hook(hook, with_kwargs=True).remove


def trained(
    problem: Problem[Any], layer: int, keys: Tensor, block: Tensor
) -> tuple[Tensor, Tensor, list[float]]:
    """Blocks that say the targets of their facts: down, up, and each fact's loss at the end.

    Rates are measured by what enters the matrix and what leaves its block, so that a step changes
    about as much in any model. Blocks do not see one another.

    Args:
        keys: [u, d_in] what enters the matrix at the ends of the prompts.
        block: [u] number of each fact's block, in ascending order.
    """
    hp, handle = problem.hyperparameters, problem.handle
    passes = prepare(handle, problem.facts, layer)
    generator = torch.Generator().manual_seed(problem.seed)
    count, wide = int(block.max()) + 1, keys.shape[1]
    norm = float(keys.norm(dim=1).mean())
    size = float(torch.cat([clean.hidden[:, 0] for clean in passes.clean]).square().mean().sqrt())
    first = torch.randn(count, hp.rank, wide, generator=generator).to(keys)
    turn = torch.zeros_like(first, requires_grad=True)
    rise = torch.zeros(count, handle.d_out(layer), hp.rank, device=keys.device, requires_grad=True)

    def down() -> Tensor:
        turned: Tensor = first + turn / wide**0.5
        return turned / norm

    def change(clean: Clean) -> Tensor:
        own = block.to(clean.fact.device)[clean.fact]
        return clean.leaving + added(clean.entering, down()[own], size * rise[own])

    training = Training(
        hp.steps, hp.learning_rate, stop_loss=hp.stop_loss, halve_every=hp.halve_every
    )
    fitted = fit(passes, [turn, rise], change, training, progress=problem.progress)
    return down().detach().cpu(), (size * rise).detach().cpu(), fitted.losses
