"""Whether any edit acts on a prompt, asked in one way of hooks, memories and other models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import is_plain, plain, request

ROWS = 64
"""Prompts of one pass."""


def acted(handle: ModelHandle, prompts: Sequence[str]) -> list[bool]:
    """For each prompt, whether what edits installed besides weights changes how it is answered.

    - A memory acts if it puts the prompt in another way.
    - A model beside this one acts if the prompt is sent to it.
    - A hook acts if it decided for an entry at the prompt's end (see `decided_rows`), or if what
      the model then says next is not, bit for bit, what it says with hooks silent. So a hook that
      always adds something, be it ever so little, acts on every prompt.

    Changes of weights are part of the model and not asked about.

    Args:
        handle: the model, with edits in force.
        prompts: texts, as a user would send them.

    Returns:
        One truth value for each prompt.
    """
    if is_plain() or not prompts:
        return [False] * len(prompts)
    distinct = list(dict.fromkeys(prompts))
    sent: Any = getattr(handle, "routed", None)
    away = [text is not None for text in sent.choose(distinct)] if sent is not None else None
    put = handle.rendered(distinct)
    fired = [old != new for old, new in zip(distinct, put, strict=True)]
    if away is not None:
        fired = [changed or routed for changed, routed in zip(fired, away, strict=True)]
    if handle.hooked:
        hooked = _hooks_acted(handle, put)
        fired = [acts or by_hook for acts, by_hook in zip(fired, hooked, strict=True)]
    known = dict(zip(distinct, fired, strict=True))
    return [known[prompt] for prompt in prompts]


def decided_rows(decided: Mapping[int, Any], rows: int) -> Tensor:
    """Which rows of a request hooks decided to act on, [rows] bool on the CPU.

    Read are tensors with an entry for each row: whole numbers (negative where nothing is chosen)
    and truth values. Of what a hook decided in another form this says nothing.

    Args:
        decided: `Route.decided` after the pass that holds the prompts' ends.
        rows: prompts of the request.
    """
    fired = torch.zeros(rows, dtype=torch.bool)
    for choice in decided.values():
        if not isinstance(choice, Tensor) or choice.ndim < 1 or len(choice) != rows:
            continue
        if choice.dtype == torch.bool:
            fired |= choice.reshape(rows, -1).any(1).cpu()
        elif not choice.is_floating_point():
            fired |= (choice.reshape(rows, -1) >= 0).any(1).cpu()
    return fired


@torch.no_grad()
def _hooks_acted(handle: ModelHandle, prompts: Sequence[str]) -> list[bool]:
    rows = [handle.tokens.encode(prompt) for prompt in prompts]
    fired: list[bool] = []
    for at in range(0, len(rows), ROWS):
        ids, mask = handle.tokens.pad(rows[at : at + ROWS], "left")
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        ends = torch.full((len(ids),), ids.shape[1] - 1)

        def run(ids: Tensor = ids, mask: Tensor = mask, positions: Tensor = positions) -> Tensor:
            return handle.forward(ids, mask, positions=positions, last_only=True)[:, -1]

        with plain():
            silent = run()
        with request(ends, mask.argmax(1)) as route:
            now = run()
        other = (silent != now).any(1).cpu()
        fired += (other | decided_rows(route.decided, len(ids))).tolist()
    return fired
