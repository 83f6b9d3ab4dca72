"""Edits in force, kind by kind: weights bit for bit, hooks and memories as one for all edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import Patch
from alphaedit.editor.layers import Layers
from alphaedit.methods.in_force import install
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import plain


class Applied:
    """Brings a list of patches into force; equal lists give equal models, bit for bit."""

    def __init__(self, handle: ModelHandle) -> None:
        self.handle = handle
        self._layers = Layers(handle)
        self._undo: list[Callable[[], None]] = []

    @contextmanager
    def trial(self, there: Sequence[Patch], patch: Patch) -> Iterator[Callable[[], None]]:
        """Add a patch to those there, for good if what is given is called, else for a block."""
        permanent = False
        with self._layers.trial(patch.weights) as keep_weights:

            def keep() -> None:
                nonlocal permanent
                permanent = True
                keep_weights()

            try:
                self._install([*there, patch], [patch])
                yield keep
            finally:
                if not permanent:
                    self._install(there, [patch])

    @contextmanager
    def replacing(
        self, old: Sequence[Patch], new: Sequence[Patch], same: int
    ) -> Iterator[Callable[[], None]]:
        """The same for a list of patches in place of those in force.

        Args:
            old: patches in force.
            new: patches that are to be.
            same: how many at the beginning are the same in both.
        """
        weights = [patch.weights for patch in old], [patch.weights for patch in new]
        touched, permanent = [*old[same:], *new[same:]], False
        with self._layers.replacing(*weights, same) as keep_weights:

            def keep() -> None:
                nonlocal permanent
                permanent = True
                keep_weights()

            try:
                self._install(new, touched)
                yield keep
            finally:
                if not permanent:
                    self._install(old, touched)

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """The unedited model for the length of a block."""
        with self._layers.unedited(), plain():
            yield

    def _install(self, patches: Sequence[Patch], touched: Sequence[Patch]) -> None:
        """Bring the changes of `patches` into force, if any of `touched` has some.

        Raises:
            ConfigError: those of another editor are in force, which would act beside them.
        """
        if not any(patch.changes for patch in touched):
            return
        if self.handle.changed_by not in (None, self):
            raise ConfigError(
                "Another Editor of this model has hooks or memories in force.",
                remedy="Go on with that editor, revert its edits first, or load the model anew.",
            )
        while self._undo:
            self._undo.pop()()
        changes = [change for patch in patches for change in patch.changes]
        self.handle.changed_by = self if changes else None
        if changes:
            self._undo.append(install(self.handle, changes))
        else:
            self.handle.composed.clear()
