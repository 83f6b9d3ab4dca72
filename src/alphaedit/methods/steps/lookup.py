"""Notes of a memory by what a prompt names or is near to, for all prompts of a request at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from alphaedit.core.change import Change
from alphaedit.core.fact_text import canonical
from alphaedit.methods.steps.encoder import embed, pieces
from alphaedit.methods.steps.notes import Note
from alphaedit.methods.steps.subjects import Subjects
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import told_about

TOGETHER = 256
"""Prompts whose distances to all notes are in memory at a time."""
FINE = 1e5
"""Distances that differ by less than 1 / FINE count as equal, and the later note is the nearer."""
ANYWHERE = 3.0
"""More than any cosine distance."""


class _Group:
    """Notes whose keys are of one encoder: `numbers` [n] of them, `keys` [n, d] of length 1."""

    def __init__(self, change: Change) -> None:
        self.layer: int | None = change.options.get("layer")
        self.mean = change.shared.get("mean")
        self.keys = change.rows["key"].new_empty(0)
        self._parts: list[Tensor] = []
        self._numbers: list[Tensor] = []

    def takes(self, change: Change) -> bool:
        mean = change.shared.get("mean")
        if self.layer != change.options.get("layer") or (mean is None) != (self.mean is None):
            return False
        return mean is None or self.mean is None or torch.equal(mean, self.mean)

    def add(self, numbers: Tensor, keys: Tensor) -> None:
        self._numbers.append(numbers)
        self._parts.append(keys)

    def close(self) -> None:
        self.numbers = torch.cat(self._numbers)
        self.keys = normalize(torch.cat(self._parts), dim=-1)
        self._parts.clear()

    def queries(self, handle: ModelHandle, asked: Sequence[str]) -> Tensor:
        """Keys of prompts, [n, d] of length 1."""
        if self.layer is None:
            return pieces(asked)
        vectors = embed(handle, asked, self.layer)
        return normalize(vectors if self.mean is None else vectors - self.mean, dim=-1)


class Lookup:
    """All notes of a memory that are in force.

    Of two notes about the same prompt the later counts, and the other is as if it were not there.

    Attributes:
        notes: they, in their order.
    """

    def __init__(self, handle: ModelHandle, changes: Sequence[Change]) -> None:
        self._handle = handle
        every = [Note.read(text) for change in changes for text in change.texts]
        latest = {canonical(note.prompt): number for number, note in enumerate(every)}
        stays = sorted(latest.values())
        self.notes = [every[number] for number in stays]
        self._place = {canonical(note.prompt): at for at, note in enumerate(self.notes)}
        self._subjects = Subjects([note.subject for note in self.notes])
        at = torch.full((len(every),), -1)
        at[torch.tensor(stays, dtype=torch.int64)] = torch.arange(len(stays))
        # Cosine distance within which a note is found; NaN for those found by their subject.
        self._limits = torch.zeros(len(stays))
        self._groups: list[_Group] = []
        begin = 0
        for change in changes:
            numbers = at[begin : begin + len(change)]
            begin += len(change)
            there = numbers >= 0
            numbers = numbers[there]
            self._limits[numbers] = _limit(change)
            if "key" not in change.rows:
                continue
            if not self._groups or not self._groups[-1].takes(change):
                self._groups.append(_Group(change))
            self._groups[-1].add(numbers, change.rows["key"][there])
        for group in self._groups:
            group.close()
        self._free = (~self._limits.isnan()).nonzero()[:, 0]

    def find(self, asked: Sequence[str], count: int) -> list[list[Note]]:
        """At most `count` notes for each prompt, the nearest first.

        In an evaluation that names the facts of its prompts (`route.asked_about`) theirs.
        """
        right = told_about()
        if right is not None:
            there = [self._place.get(canonical(prompt)) for prompt in right]
            return self._of(asked, sorted({at for at in there if at is not None}), count)
        nearest: list[list[Note]] = []
        for begin in range(0, len(asked), TOGETHER):
            nearest += self._some(asked[begin : begin + TOGETHER], count)
        return nearest

    def _of(self, asked: Sequence[str], numbers: list[int], count: int) -> list[list[Note]]:
        """The nearest of some notes for each prompt, in scope or not."""
        if len(numbers) <= count == 1 or not self._groups:
            return [[self.notes[number] for number in numbers[:count]] for _ in asked]
        near = self._nearest(asked, [numbers] * len(asked), count, beside=False)
        return [[self.notes[number] for number in of_prompt] for of_prompt in near]

    def _some(self, asked: Sequence[str], count: int) -> list[list[Note]]:
        named = [self._named_in(text) for text in asked]
        # A single note is the nearest one, whatever its distance.
        compared = [i for i, of_prompt in enumerate(named) if len(self._free) or len(of_prompt) > 1]
        numbers = [of_prompt[:1] for of_prompt in named]
        if compared:
            near = self._nearest([asked[i] for i in compared], [named[i] for i in compared], count)
            for i, of_prompt in zip(compared, near, strict=True):
                numbers[i] = of_prompt
        return [[self.notes[number] for number in of_prompt] for of_prompt in numbers]

    def _named_in(self, text: str) -> list[int]:
        """Numbers of the notes found by their subject."""
        if len(self._free) == len(self.notes):
            return []
        numbers = self._subjects.named_in(text)
        return [i for i in numbers if self._limits[i].isnan()] if len(self._free) else numbers

    def _nearest(
        self,
        asked: Sequence[str],
        named: Sequence[Sequence[int]],
        count: int,
        *,
        beside: bool = True,
    ) -> list[list[int]]:
        """Numbers of the nearest notes: of those named, and beside them those near enough."""
        union = torch.tensor(sorted({i for own in named for i in own}), dtype=torch.int64)
        numbers = torch.cat([union, self._free]) if beside else union
        apart = self._apart(asked, numbers)
        inside = apart <= self._limits[numbers]
        for row, own in enumerate(named):
            inside[row, torch.searchsorted(union, torch.tensor(own, dtype=torch.int64))] = True
        # Exact in float64: distances in steps, then the later first.
        order = (apart.double() * FINE).round() * (len(self.notes) + 1) - numbers
        order[~inside] = torch.inf
        best, columns = order.topk(min(count, len(numbers)), largest=False)
        rows = zip(best.isfinite(), numbers[columns], strict=True)
        return [of_prompt[there].tolist() for there, of_prompt in rows]

    def _apart(self, asked: Sequence[str], numbers: Tensor) -> Tensor:
        """Cosine distances of prompts from notes, [prompts, notes] float32."""
        if len(self._groups) == 1 and torch.equal(numbers, self._groups[0].numbers):
            (group,) = self._groups
            return 1 - group.queries(self._handle, asked) @ group.keys.T
        apart = torch.full((len(asked), len(numbers)), ANYWHERE)
        column = torch.full((len(self.notes),), -1)
        column[numbers] = torch.arange(len(numbers))
        for group in self._groups:
            there = column[group.numbers] >= 0
            if bool(there.any()):
                keys = group.keys[there]
                near = 1 - group.queries(self._handle, asked) @ keys.T
                apart[:, column[group.numbers[there]]] = near
        return apart


def _limit(change: Change) -> float:
    scope = change.options["scope"]
    if scope == "subject":
        return float("nan")
    return ANYWHERE if scope == "always" else float(change.options["distance"])
