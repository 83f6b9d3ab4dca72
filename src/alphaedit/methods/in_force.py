"""Bringing changes that are not of weights into force, all of them as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from alphaedit.core.change import EVERYWHERE, Change, HookChange
from alphaedit.core.errors import EditFileError
from alphaedit.methods.registry import installer
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import follow_others
from alphaedit.model.unsaved import tell_when_saved


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Bring changes into force, those of a name together and in their order.

    Args:
        handle: a model with no changes in force.
        changes: of all edits, in the edits' order.

    Returns:
        What undoes it: the model is then what it was, bit for bit.

    Raises:
        EditFileError: no method knows what to do with changes of a name; nothing is in force then.
    """
    by_name: dict[str, list[Change]] = {}
    for change in changes:
        by_name.setdefault(change.name, []).append(change)
    undo: list[Callable[[], None]] = []

    def undo_all() -> None:
        while undo:
            undo.pop()()
        handle.hooked = handle.decided_at_ends = False

    try:
        hooks = [change for change in changes if isinstance(change, HookChange)]
        if hooks:
            handle.hooked = True
            handle.decided_at_ends = not all(hook.options.get(EVERYWHERE) for hook in hooks)
            undo += [follow_others(handle.model), tell_when_saved(handle.model)]
        for name, own in by_name.items():
            bring = installer(name)
            if bring is None:
                raise EditFileError(
                    f"No method here can bring changes called {name!r} into force.",
                    remedy="Install the package that the method comes from.",
                )
            undo.append(bring(handle, own))
    except BaseException:
        undo_all()
        raise
    return undo_all
