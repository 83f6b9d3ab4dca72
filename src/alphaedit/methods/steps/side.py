"""What methods with a side memory share: a term beside an MLP's output, decided once a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.core.errors import EditFileError
from alphaedit.methods.base import Problem
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.rest_pass import Clean
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import hidden_of
from alphaedit.model.route import Route, current

Decide = Callable[[Tensor, Tensor], Tensor]
"""From what enters the module [rows, S, d] and which tokens are the prompt's [rows, S] bool to the
number of an entry for each row, or -1 [rows]."""
Add = Callable[[Tensor, int], Tensor]
"""From what enters it at some tokens of a row [S, d] and an entry to what is added [S, h]."""


def beside(
    handle: ModelHandle, layer: int, decide: Decide, add: Add, *, whole: bool
) -> Callable[[], None]:
    """Add a term to what leaves the MLP's output projection of `layer`, where `decide` says so.

    Args:
        whole: at all tokens, by all of the prompt; else from the prompt's last token on, by that
            token alone.

    Returns:
        What undoes it.
    """
    key = id(decide)

    def hook(module: object, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        route, keys = current(), hidden_of(args, kwargs)
        if route is None or keys is None:
            return None
        if route.ends is not None:
            shaped = keys.reshape(len(route.ends), -1, keys.shape[-1])
            prompt = _prompt(route, shaped.shape[1], keys.device, whole)
            if whole:
                route.decided[key] = decide(shaped.float(), prompt)
            else:
                route.decided[key] = decide(shaped[prompt].float()[:, None], prompt[:, :1] | True)
        chosen = route.decided.get(key)
        if chosen is None or not bool((chosen >= 0).any()):
            return None
        shaped, new = keys.reshape(len(chosen), -1, keys.shape[-1]), output.clone()
        rows = new.view(*shaped.shape[:2], -1)
        first = [0] * len(chosen) if whole or route.ends is None else route.ends.tolist()
        for row, entry in enumerate(chosen.tolist()):
            if entry >= 0:
                at = slice(first[row], None)
                moved = rows[row, at].float() + add(shaped[row, at].float(), entry)
                rows[row, at] = moved.to(new.dtype)
        return new

    registered = handle.edited_module(layer).register_forward_hook(hook, with_kwargs=True)
    before, handle.rewritten = handle.rewritten, handle.rewritten or whole

    def undo() -> None:
        registered.remove()
        handle.rewritten = before

    return undo


def _prompt(route: Route, length: int, device: torch.device, whole: bool) -> Tensor:
    """Tokens that are decided by, [rows, length] bool: the prompt's last one, or all of it."""
    assert route.ends is not None
    columns, ends = torch.arange(length, device=device), route.ends.to(device)[:, None]
    if not whole:
        return columns == ends
    starts = 0 if route.starts is None else route.starts.to(device)[:, None]
    return (columns >= starts) & (columns <= ends)


def contexts_of(problem: Problem[Any], count: int, tokens: int) -> tuple[str, ...]:
    """Texts in front of prompts: those of the run so far, or new ones."""
    there = problem.state.contexts or ()
    if len(there) >= count:
        return there[:count]
    return generate_contexts(problem.handle, count, tokens, problem.seed)


def rate_of(cleans: Sequence[Clean], active: float, share: float) -> float:
    """Adam's rate: a step moves what leaves the module by `share` of the residual stream's size.

    Args:
        active: share of what enters the module that is looked at.
    """
    size = torch.cat([c.hidden[c.tokens] for c in cleans]).square().mean().sqrt()
    entering = torch.cat([c.entering[c.tokens] for c in cleans]).abs().sum(1).mean()
    return float(share * size / (active * entering).clamp_min(1e-12))


def packed(mask: Tensor) -> Tensor:
    """A mask [..., n] bool as bits, [..., ceil(n / 8)] uint8."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=-1))


def unpacked(bits: Tensor, size: int) -> Tensor:
    """The mask [..., size] bool of such bits."""
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), axis=-1, count=size)).bool()


def by_options(
    changes: Sequence[Change], names: Sequence[str]
) -> Mapping[tuple[Any, ...], list[Change]]:
    """Changes by their options of these names, in their order."""
    groups: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        groups.setdefault(tuple(change.options[name] for name in names), []).append(change)
    return groups


def check_size(change: Change, given: int, wanted: int) -> None:
    """Refuse what was made for another model, before a pass runs into it.

    Raises:
        EditFileError: sizes differ.
    """
    if given != wanted:
        raise EditFileError(
            f"A change called {change.name!r} is for matrices of {given:,} columns, and this "
            f"model's have {wanted:,}.",
            remedy="Load the model that the edit was made on.",
        )
