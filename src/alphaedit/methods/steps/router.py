"""What methods that act while a model runs have in common: look once, at the end of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.core.fact import Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.config import build
from alphaedit.methods.steps.target_value import Targets, find_targets
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import output_of
from alphaedit.model.passes.capture import capture
from alphaedit.model.route import current, plain
from alphaedit.stats.phrasings import Border, border, phrasings, texts_of

Look = Callable[[Tensor], Tensor]
"""From what leaves a block at the ends of prompts [rows, h] to numbers of entries, or -1 [rows]."""


def at_block(
    handle: ModelHandle, layer: int, look: Look, values: Tensor, *, to_end: bool
) -> Callable[[], None]:
    """Put values [n, h] in the place of what leaves a block, where `look` finds an entry.

    Args:
        to_end: at all tokens from the prompt's last one on, not at that one alone.

    Returns:
        What undoes it.
    """
    key = id(look)

    def hook(module: object, args: object, output: Any) -> Any:
        route, hidden = current(), output_of(output)
        if route is None or hidden is None:
            return None
        length = hidden.shape[1]
        if route.ends is not None:
            ends = route.ends.to(hidden.device)
            query = hidden[torch.arange(len(hidden), device=hidden.device), ends]
            route.decided[key] = look(query.detach())
        elif not to_end or key not in route.decided:
            return None
        else:
            ends = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
        chosen = route.decided[key]
        fired = chosen >= 0
        if not bool(fired.any()):
            return None
        column = torch.arange(length, device=hidden.device)
        at = (column >= ends[:, None]) if to_end else (column == ends[:, None])
        at = at & fired[:, None]
        new = values[chosen.clamp_min(0)].to(hidden)[:, None]
        changed = torch.where(at[..., None], new, hidden)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    registered = handle.block(layer).register_forward_hook(hook)
    return registered.remove


def states_at_ends(
    handle: ModelHandle, texts: Sequence[str], layers: Sequence[int]
) -> dict[int, Tensor]:
    """What leaves blocks at the last token of each text, by layer [n, h] float32."""
    rows = [handle.tokens.encode(text) for text in texts]
    with plain():
        _, hidden = capture(handle, rows, [len(row) - 1 for row in rows], hidden_layers=layers)
    return {layer: states.float() for layer, states in hidden.items()}


DEPTHS = (0.5, 0.625, 0.75, 0.875)
RATE = 0.1


def best_block(handle: ModelHandle, given: Sequence[int] | None = None) -> tuple[int, Border]:
    """The block whose states at the ends of prompts part paraphrases from neighbors best.

    Args:
        handle: the model.
        given: blocks to choose from; by default some of its second half.
    """
    last = handle.n_layers - 1
    layers = sorted(given or {min(last, int(depth * (last + 1))) for depth in DEPTHS})
    asked = phrasings(handle)
    states = states_at_ends(handle, texts_of(asked), layers)
    found = [(at, border(asked, states[at], lambda a, b: (a - b).norm(dim=1))) for at in layers]
    return max(found, key=lambda one: one[1].inside)


def values_at_ends(
    problem: Problem[Any], layer: int, *, steps: int, clamp: float, stop_loss: float
) -> Targets:
    """States that, in the place of a block's at the end of each fact's prompt, say its target."""
    handle = problem.handle
    # The whole prompt stands for the subject: the search changes the state at its end.
    asked = [Fact("{}", fact.text, fact.target) for fact in problem.facts]
    states = states_at_ends(handle, [fact.text for fact in problem.facts], [layer])
    size = float(states[layer].norm(dim=1).mean()) / handle.d_out(layer) ** 0.5
    search = {
        "layers": (layer,),
        "steps": steps,
        "clamp": clamp,
        "learning_rate": RATE * clamp * size,
        "weight_decay": 0.0,
        "kl_factor": 0.0,
        "stop_loss": stop_loss,
    }
    hp = build(search, "search at the ends of prompts")
    return find_targets(handle, asked, layer, (), hp, progress=problem.progress)


def target_ids(handle: ModelHandle, facts: Sequence[Fact]) -> Tensor:
    """Tokens of each fact's target, [facts, longest] int64, -1 behind the shorter ones."""
    ids = [handle.tokens.encode_continuation(fact.text, fact.target)[1] for fact in facts]
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [-1] * (longest - len(row)) for row in ids])


def joined(changes: Sequence[Change], name: str) -> Tensor:
    """Rows called `name` of all changes, one below the other; shorter ones end in -1."""
    parts = [change.rows[name] for change in changes]
    longest = max(part.shape[-1] for part in parts) if parts[0].ndim == 2 else 0
    pad = torch.nn.functional.pad
    return torch.cat(
        [pad(p, (0, longest - p.shape[-1]), value=-1) if longest else p for p in parts]
    )
