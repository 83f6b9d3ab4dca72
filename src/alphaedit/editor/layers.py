"""The edited matrices of a model: from one list of edits to another, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from alphaedit.core.patch import LowRank
from alphaedit.model.handle import ModelHandle, Snapshot

Change = Mapping[str, LowRank]


class Layers:
    """Keeps the unedited matrices, and those before the last edit, of one model.

    The weights are always the unedited ones plus the edits in force, added one by one in order,
    so that equal lists of edits give equal bits by whatever way they were reached.
    """

    def __init__(self, handle: ModelHandle) -> None:
        self.handle = handle
        self._base: Snapshot = {}
        self._last: Snapshot | None = None

    @contextmanager
    def trial(self, change: Change) -> Iterator[Callable[[], None]]:
        """Add a change, for good if what is given is called, else for the length of a block."""
        self._remember(change)
        before = self.handle.snapshot(change)
        permanent = False

        def keep() -> None:
            nonlocal permanent
            permanent = True
            self._last = before

        try:
            self.handle.add_delta(change)
            yield keep
        finally:
            if not permanent:
                self.handle.restore(before)

    @contextmanager
    def replacing(
        self, old: Sequence[Change], new: Sequence[Change], same: int
    ) -> Iterator[Callable[[], None]]:
        """The same for a list of changes in place of those in force.

        Args:
            old: changes in force.
            new: changes that are to be.
            same: how many at the beginning are the same in both.
        """
        last, permanent = self._last, False

        def keep() -> None:
            nonlocal permanent
            permanent = True

        try:
            if same < len(old):
                self._back(old, same)
            self._add(new[same:])
            yield keep
        finally:
            if not permanent:
                self.handle.restore(self._base)
                self._add(old)
                self._last = last

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """The unedited matrices for the length of a block."""
        now = self.handle.snapshot(self._base)
        self.handle.restore(self._base)
        try:
            yield
        finally:
            self.handle.restore(now)

    def _add(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._remember(change)
            if change is changes[-1]:
                self._last = self.handle.snapshot(change)
            self.handle.add_delta(change)

    def _back(self, old: Sequence[Change], same: int) -> None:
        if same == len(old) - 1 and self._last is not None:
            self.handle.restore(self._last)
        else:
            self.handle.restore(self._base)
            for change in old[:same]:
                self.handle.add_delta(change)
        self._last = None

    def _remember(self, change: Change) -> None:
        new = [name for name in change if name not in self._base]
        self._base.update(self.handle.snapshot(new))
