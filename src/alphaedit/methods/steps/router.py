"""What methods that act while a model runs have in common: look once, at the end of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.core.errors import ConfigError, EditFileError
from alphaedit.core.fact import Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.config import build
from alphaedit.methods.steps.standing import PLACES, Site, standing_values
from alphaedit.methods.steps.target_value import Targets
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import hidden_of, output_of
from alphaedit.model.passes.capture import capture
from alphaedit.model.route import Route, current, plain
from alphaedit.stats.phrasings import Border, border, phrasings, texts_of

Look = Callable[[Tensor], Tensor]
"""From states at the ends of prompts [rows, d] to numbers of entries, or -1 [rows]."""


def behind_ends(route: Route, states: Tensor) -> Tensor:
    """How far tokens lie behind their prompts' last ones, of states [rows, length, d].

    [rows, length] int64: 0 at that token, less before it; where prompts lie in the cache, 1.
    """
    rows, length, device = *states.shape[:2], states.device
    columns = torch.arange(length, device=device)
    if route.ends is None:
        return torch.ones(rows, length, dtype=torch.int64, device=device)
    return columns - route.ends.to(device)[:, None]


def at_ends(route: Route, states: Tensor) -> Tensor:
    """States [rows, d] at the ends of prompts, of all that pass, [rows (*) length, d]."""
    assert route.ends is not None
    shaped = states.detach().reshape(len(route.ends), -1, states.shape[-1])
    ends = route.ends.to(states.device)
    return shaped[torch.arange(len(ends), device=states.device), ends]


def replaced(
    handle: ModelHandle, layer: int, look: Look, values: Tensor, *, site: Site, places: str
) -> Callable[[], None]:
    """Put values [n, d] in the place of states, where `look` finds an entry.

    Looked up is what leaves a block, or what enters an output projection.

    Args:
        places: at which tokens, see `standing.PLACES`.

    Returns:
        What undoes it.
    """
    key = id(look)

    def hook(module: object, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        route, states = current(), output_of(output)
        if route is None or states is None:
            return None
        if route.ends is not None:
            query = states if site == "block" else hidden_of(args, kwargs)
            assert query is not None
            route.decided[key] = look(at_ends(route, query))
        elif places in ("last", "prompt") or key not in route.decided:
            return None
        chosen = route.decided[key]
        fired = chosen >= 0
        if not bool(fired.any()):
            return None
        shaped = states.reshape(len(chosen), -1, states.shape[-1])
        at = PLACES[places](behind_ends(route, shaped))
        new = values[chosen.clamp_min(0)].to(shaped)[:, None]
        changed = torch.where((at & fired[:, None])[..., None], new, shaped).reshape(states.shape)
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    module = handle.block(layer) if site == "block" else handle.edited_module(layer)
    registered, before = module.register_forward_hook(hook, with_kwargs=True), handle.rewritten
    handle.rewritten = before or places in ("prompt", "all")

    def undo() -> None:
        registered.remove()
        handle.rewritten = before

    return undo


def check_place(handle: ModelHandle, layer: int, places: str, site: Site) -> None:
    """Refuse values where nothing would read them, or that only some tokens would meet.

    Raises:
        ConfigError: naming the layer.
    """
    if places == "prompt" and layer == handle.n_layers - 1:
        raise ConfigError(
            f"Layer {layer} is the last: nothing reads what stands before a prompt's last token.",
            remedy="Give an earlier layer, or another replace.",
        )
    if site == "projection" and handle.experts(layer) is not None:
        raise ConfigError(
            f"Layer {layer} is a mixture of experts, each of which sees some tokens only.",
            remedy="Leave site out: values then stand at the output of the block.",
        )


def states_at_ends(
    handle: ModelHandle, texts: Sequence[str], layers: Sequence[int], site: Site = "block"
) -> dict[int, Tensor]:
    """What is looked up of each text, by layer [n, d] float32; see `replaced`."""
    rows = [handle.tokens.encode(text) for text in texts]
    lasts = [len(row) - 1 for row in rows]
    with plain():
        if site == "block":
            _, by_layer = capture(handle, rows, lasts, hidden_layers=layers)
        else:
            by_layer, _ = capture(handle, rows, lasts, key_layers=layers)
    return {layer: states.float() for layer, states in by_layer.items()}


DEPTHS = (0.5, 0.625, 0.75, 0.875)
ASKED = 200
"""Phrasings by which a radius is measured: of 48, it swings by a quarter with their choice."""
RATE = 0.1


def best_block(
    handle: ModelHandle,
    given: Sequence[int] | None = None,
    *,
    site: Site = "block",
    behind: int = 0,
) -> tuple[int, Border]:
    """The block whose states at the ends of prompts part paraphrases from neighbors best.

    Args:
        handle: the model.
        given: blocks to choose from; by default some of its second half.
        site: what is looked up.
        behind: how many blocks must follow it.
    """
    last = max(0, handle.n_layers - 1 - behind)
    layers = sorted(given or {min(last, int(depth * handle.n_layers)) for depth in DEPTHS})
    asked = phrasings(handle, count=ASKED)
    states = states_at_ends(handle, texts_of(asked), layers, site)
    candidates = [
        (at, border(asked, states[at], lambda a, b: (a - b).norm(dim=1))) for at in layers
    ]
    return max(candidates, key=lambda candidate: candidate[1].inside)


def values_at_ends(
    problem: Problem[Any],
    layer: int,
    search: Mapping[str, Any],
    *,
    start: str,
    site: Site,
    places: str,
) -> Targets:
    """Values [d, u] that, in the place of states at each fact's prompt, say its target.

    Args:
        search: steps, learning_rate (None: by the size of the states), clamp (largest distance from
            the start, as a share of its norm) and stop_loss.
        start: "state" (what the value takes the place of at the prompt's end), or "uniform", drawn
            between 0 and 1 (as published).
    """
    handle, texts = problem.handle, [fact.text for fact in problem.facts]
    first = states_at_ends(handle, texts, [layer], site)[layer]
    if site == "projection":
        module = handle.edited_module(layer)
        with torch.no_grad():
            first = module(first.to(handle.dtype)).float()
    if start == "uniform":
        generator = torch.Generator().manual_seed(problem.seed)
        first = torch.rand(first.shape, generator=generator).to(first)
    size = float(first.norm(dim=1).mean()) / first.shape[1] ** 0.5
    rate = search["learning_rate"] or RATE * search["clamp"] * size
    others = {"layers": (layer,), "weight_decay": 0.0, "kl_factor": 0.0}
    hp = build({**search, **others, "learning_rate": rate}, "search at the ends of prompts")
    given = first.to(handle.wide)
    return standing_values(
        handle, problem.facts, given, hp, site=site, places=places, progress=problem.progress
    )


def target_ids(handle: ModelHandle, facts: Sequence[Fact]) -> Tensor:
    """Tokens of each fact's target, [facts, longest] int64, -1 behind the shorter ones."""
    ids = [handle.tokens.encode_continuation(fact.text, fact.target)[1] for fact in facts]
    longest = max(len(row) for row in ids)
    return torch.tensor([row + [-1] * (longest - len(row)) for row in ids])


def joined(changes: Sequence[Change], name: str) -> Tensor:
    """Rows called `name` of all changes, one below the other."""
    return torch.cat([change.rows[name] for change in changes])


def check_widths(changes: Sequence[Change], **widths: int) -> None:
    """Refuse rows that do not fit the model, before a pass runs into them.

    Raises:
        EditFileError: rows of a name are missing or of another width than given here.
    """
    for change in changes:
        for name, width in widths.items():
            rows = change.rows.get(name)
            if rows is None or rows.ndim != 2 or rows.shape[1] != width:
                shape = "missing" if rows is None else f"of shape {tuple(rows.shape)}"
                raise EditFileError(
                    f"Rows {name!r} of a change {change.name!r} are {shape}; this model needs "
                    f"[n, {width}].",
                    remedy="Load the model that the edit was made on.",
                )


def check_entries(handle: ModelHandle, layer: int, site: Site, changes: Sequence[Change]) -> None:
    """Refuse entries of a codebook that do not fit the model; see `check_widths`."""
    size = handle.d_out(layer)
    check_widths(changes, key=size if site == "block" else handle.d_in(layer), value=size)
