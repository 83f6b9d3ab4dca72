"""Balls around keys: which entry answers a query, composed in the order the entries were made.

Composing goes on from where it stood: a new edit of one fact costs one look at the keys before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.methods.steps.nearest import NEVER, Nearest, distance
from alphaedit.model.handle import ModelHandle

GAP = 1e-5
"""What is left between two balls that share the way between them."""
BLOCK = 512
"""New entries that are compared with all others at once."""
LOOSE = 2e-3
"""Error of distances by a product, as a share of the norms, that is allowed for."""

Rule = Literal["share", "coverage"]


class Rows:
    """Rows [n, ...] that grow at the end, without a copy of all for each."""

    def __init__(self) -> None:
        self._full = torch.empty(0)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, new: Tensor) -> None:
        """Put rows [m, ...] behind the others."""
        total = self._count + len(new)
        if total > len(self._full):
            room = new.new_empty(max(total, 2 * len(self._full)), *new.shape[1:])
            if self._count:
                room[: self._count] = self._full[: self._count]
            self._full = room
        self._full[self._count : total] = new
        self._count = total

    @property
    def tensor(self) -> Tensor:
        """All of them, as a view."""
        return self._full[: self._count]


class Labels:
    """Targets as numbers: equal token sequences have equal numbers."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], int] = {}

    def of(self, targets: Tensor) -> Tensor:
        """Numbers [n] of targets [n, t], whose rows end in -1."""
        rows = [tuple(token for token in row if token >= 0) for row in targets.tolist()]
        return torch.tensor([self._known.setdefault(row, len(self._known)) for row in rows])


class Balls:
    """Keys [n, h], radii [n] and targets, on the CPU in float32.

    With "share", two entries of different targets whose balls meet share the way between them,
    whichever they are. With "coverage" (the published rule) only the nearest entry counts: of equal
    targets its radius is widened to take in the new key, which becomes no entry; of different
    targets it is set to half the way. Of two with the same key and other targets the later answers.
    """

    def __init__(self, rule: Rule = "share") -> None:
        self.rule = rule
        self._keys, self._radii, self._labels = Rows(), Rows(), Rows()
        self._known = Labels()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def keys(self) -> Tensor:
        """Keys [n, h]."""
        return self._keys.tensor

    @property
    def radii(self) -> Tensor:
        """Radii [n]; NEVER of entries that answer nothing."""
        return self._radii.tensor

    def add(self, keys: Tensor, radii: Tensor, targets: Tensor) -> None:
        """Entries [m, h], [m] and [m, t] behind the others, one after the other."""
        first = len(self)
        self._keys.add(keys.float())
        self._radii.add(radii.float())
        self._labels.add(self._known.of(targets))
        for start in range(first, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            rough, slack = _rough(self.keys[start:stop], self.keys[:stop])
            compose = self._share if self.rule == "share" else self._cover
            for i in range(max(start, 1), stop):
                compose(i, rough[i - start, :i], slack[i - start, :i])

    def _share(self, i: int, rough: Tensor, slack: Tensor) -> None:
        """Compose entry i, by rough distances [i] to those before it."""
        radii, labels = self.radii, self._labels.tensor
        reach = radii[:i] + radii[i]
        meets = (labels[:i] != labels[i]) & (radii[:i] != NEVER) & (rough <= reach + slack)
        if not bool(meets.any()):
            return
        # Those that shrink, and those that may be the nearest: only their distances matter.
        sure = meets & (rough <= reach - slack) & (rough > slack)
        least = torch.where(sure, rough + 2 * slack, math.inf).min()
        matter = meets & ((rough <= 2 * radii[:i] + slack) | (rough <= least + slack))
        others = matter.nonzero()[:, 0]
        way = distance(self.keys[i], self.keys[others])
        near = way <= reach[others]
        others, half = others[near], way[near] / 2
        shrunk = radii[others].minimum(half - GAP)
        radii[others] = torch.where(shrunk > 0, shrunk, NEVER)
        half = half[half > 0]
        if len(half):
            radii[i] = torch.minimum(radii[i], half.min())

    def _cover(self, i: int, rough: Tensor, slack: Tensor) -> None:
        """The same by the published rule."""
        radii, labels = self.radii, self._labels.tensor
        live = radii[:i] != NEVER
        least = torch.where(live, rough + slack, math.inf).min()
        others = (live & (rough - slack <= least)).nonzero()[:, 0]
        way, place = distance(self.keys[i], self.keys[others]).min(0)
        nearest = others[place]
        if way > radii[nearest] + radii[i]:
            return
        if labels[nearest] == labels[i]:
            radii[nearest], radii[i] = torch.maximum(radii[nearest], way), NEVER
        elif way == 0:
            radii[nearest] = NEVER
        else:
            radii[nearest], radii[i] = way / 2 - GAP, way / 2


def _rough(rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [r, n] by one product, and how far they may be from the exact ones."""
    square = rows.square().sum(1)[:, None] + keys.square().sum(1)
    apart = torch.addmm(square, rows, keys.T, alpha=-2).clamp_min(0).sqrt()
    return apart, LOOSE * (rows.norm(dim=1)[:, None] + keys.norm(dim=1))


class Codebook(Balls):
    """Balls with a value [d] for each entry."""

    def __init__(self, rule: Rule = "share") -> None:
        super().__init__(rule)
        self._values = Rows()

    def take(self, change: Change) -> None:
        """See Grows."""
        self._values.add(change.rows["value"].float())
        self.add(*(change.rows[name] for name in ("key", "radius", "target")))

    def on(self, device: torch.device) -> tuple[Nearest, Tensor]:
        """What looks entries up, and their values [n, d], on a device."""
        return Nearest(self.keys.to(device), self.radii.to(device)), self._values.tensor.to(device)


class Grows(Protocol):
    """Something that is composed of changes, one after the other."""

    def take(self, change: Change) -> None:
        """Go on with the rows of a change."""


Kind = TypeVar("Kind", bound=Grows)


class Composed(Generic[Kind]):
    """What was made of some changes, and which they were."""

    def __init__(self, made: Kind) -> None:
        self.made = made
        self.changes: list[Change] = []


def composed(
    handle: ModelHandle, name: str, changes: Sequence[Change], make: Callable[[], Kind]
) -> Kind:
    """What `make` gives after it took `changes` in their order.

    It is kept with the model, and gone on from if the first changes are those it was made of.
    """
    cached: Composed[Kind] | None = handle.composed.get(name)
    known = cached.changes if cached is not None else []
    same = len(known) <= len(changes) and all(map(is_, known, changes))
    if cached is None or not same:
        cached = handle.composed[name] = Composed(make())
    for change in changes[len(cached.changes) :]:
        cached.made.take(change)
        cached.changes.append(change)
    return cached.made


def by_options(changes: Sequence[Change], **defaults: Any) -> dict[tuple[Any, ...], list[Change]]:
    """Changes by what their options say of these names, in order; `defaults` where they do not."""
    groups: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        kind = tuple(change.options.get(name, value) for name, value in defaults.items())
        groups.setdefault(kind, []).append(change)
    return dict(sorted(groups.items()))
