"""Values that stand in the place of states, searched where they will stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.rows import Group, Row
from alphaedit.methods.steps.target_value import Chunks, Targets, in_order, search
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_output
from alphaedit.model.passes.tail_pass import TailPass

Site = Literal["block", "projection"]
"""What leaves a block, or what its MLP's output projection gives (as published for several)."""

PLACES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "last": lambda behind: behind == 0,
    "from_last": lambda behind: behind >= 0,
    "prompt": lambda behind: behind < 0,
    "all": lambda behind: torch.ones_like(behind, dtype=torch.bool),
}
"""Tokens that are replaced, by how far they lie behind their prompt's last one."""


class Standing(Group):
    """Rows of which each fact's value takes the place of states at some tokens."""

    def __init__(
        self,
        tail: TailPass,
        rows: Sequence[Row],
        weights: Mapping[int, float],
        *,
        start: Tensor,
        places: str,
        layer: int,
    ) -> None:
        super().__init__(tail, rows, weights)
        self.start, self.layer = start, layer
        ends = self._indices([row.prompt_end - row.subject_last for row in rows])
        columns = torch.arange(tail.clean.shape[1], device=ends.device)
        self.at = PLACES[places](columns - ends[:, None])

    def moved(self, delta: Tensor) -> Tensor:
        """See Group."""
        tail, hidden, at = self.suffix, self.suffix.clean[self.active], self.at[self.active]
        value = (self.start + delta)[self.fact][:, None]

        def put(states: Tensor) -> Tensor:
            # Some families run their MLP on [rows * length, d].
            shaped = states.reshape(*at.shape, states.shape[-1])
            new = torch.where(at.to(states.device)[..., None], value.to(states), shaped)
            return new.reshape(states.shape)

        if tail.layer == self.layer:
            out = tail.run(put(hidden), rows=self.active, reads=self.reads)
        else:
            # The last block's MLP may be run at the places that are read only: not here.
            reads = self.reads if self.layer < tail.handle.n_layers - 1 else None
            with on_output(tail.handle.edited_module(self.layer), put):
                out = tail.run(hidden, rows=self.active, reads=reads)
        return out.to(hidden.device)[self.row, self.position]


def standing_values(
    handle: ModelHandle,
    facts: Sequence[Fact],
    start: Tensor,
    hp: Hyperparameters,
    *,
    site: Site,
    places: str,
    progress: Progress,
) -> Targets:
    """Values [d, u] that say each fact's target where they stand in the place of states.

    Args:
        start: [u, d] where the search begins, and what its clamp is measured against.
        hp: of the search; its one layer is the one of the values.
        site: what they take the place of.
        places: at which tokens, see `PLACES`.
    """
    rows = []
    for i, fact in enumerate(facts):
        prompt, target = handle.tokens.encode_continuation(fact.text, fact.target)
        end = len(prompt) - 1
        first = end if places in ("last", "from_last") else 0
        ids, ones = [*prompt, *target[:-1]], (1.0,) * len(target)
        rows.append([Row(i, ids, first, end, tuple(target), ones, is_bare=True)])
    return in_order(_Chunks(handle, site, hp, rows, start, places, progress).run())


class _Chunks(Chunks):
    """Chunks of facts whose rows are run from where their values stand."""

    def __init__(
        self,
        handle: ModelHandle,
        site: Site,
        hp: Hyperparameters,
        rows: Sequence[Sequence[Row]],
        start: Tensor,
        places: str,
        progress: Progress,
    ) -> None:
        before = hp.layers[0] - (site == "projection")
        super().__init__(handle, before, hp, rows, None, None, progress)
        self.start, self.places = start, places

    def _searched(self, chunk: Sequence[int], *, first: bool) -> tuple[Targets, int]:
        own, done = self.start[list(chunk)], self.done
        options: dict[str, Any] = {"start": own, "places": self.places, "layer": self.hp.layers[0]}

        def make(tail: TailPass, rows: Sequence[Row], weights: Mapping[int, float]) -> Group:
            return Standing(tail, rows, weights, **options)

        def say(step: int) -> None:
            now = done + len(chunk) * step // self.hp.steps
            self.progress("target values", now, len(self.rows))

        groups = self._groups(chunk, first=first, make=make)
        return search(groups, len(chunk), self.hp, None, None, say, clean=own)
