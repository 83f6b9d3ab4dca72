"""New files put into a folder that is there, by name, so that a kill in between is made good.

The new files lie complete in ``.alphaedit.new/files`` before the first of the old ones is touched.
Then the old ones of the same names move to ``.alphaedit.new/old``, first of all the one without
which nobody loads the folder, and the new ones take their places, that one last. Whoever is killed
in between leaves a folder that loaders refuse, and the next writer goes on from there; a failure
moves everything back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from alphaedit.core import disk
from alphaedit.core.errors import ResourceError
from alphaedit.core.marks import digest, inside

FILES, OLD, PLAN = "files", "old", "plan.json"
_NEW, _LOCK, _PART = ".alphaedit.new", ".alphaedit.lock", "alphaedit"
WAIT = 60.0
"""Seconds to wait for another writer, who only moves files."""


@dataclass(frozen=True)
class Plan:
    """What is to be moved.

    Attributes:
        last: the file without which nobody loads the folder; "" if there is none.
        names: paths of the new files.
        replaced: those of them that were there.
        stale: SHA-256 of files of ours that are to go, by path.
    """

    last: str
    names: tuple[str, ...]
    replaced: tuple[str, ...] = ()
    stale: Mapping[str, str] = field(default_factory=dict)

    def order(self) -> list[str]:
        """The new files, `last` at the end."""
        return [*(name for name in self.names if name != self.last), *self._last()]

    def away(self) -> list[str]:
        """The old files, `last` first."""
        gone = [name for name in self.replaced if name != self.last]
        return [*(n for n in self._last() if n in self.replaced), *gone, *self.stale]

    def _last(self) -> list[str]:
        return [self.last] if self.last in self.names else []


def new_part(target: Path) -> Path:
    """A new hidden folder in `target`, with a folder for files in it.

    Raises:
        OSError: it cannot be made.
    """
    part = disk.new_part(target / _PART, folder=True)
    try:
        os.mkdir(part / FILES)
    except OSError:
        disk.remove(part)
        raise
    return part


def put(target: Path, part: Path, plan: Callable[[Sequence[str]], Plan]) -> None:
    """Move the files of a part that `new_part` made to their places.

    Args:
        target: the folder.
        part: is gone afterwards, unless this fails.
        plan: what to do with files of these names; called when no other process writes.

    Raises:
        ResourceError: a name is taken by a folder, another process does not end, or what `plan`
            raises; nothing was changed.
        OSError: a file could not be moved; all were moved back.
    """
    with _locked(target):
        _finish(target)
        files = part / FILES
        names = [path.relative_to(files).as_posix() for path in disk.files_in(files)]
        for name in names:
            _check_place(target, name)
        made = plan(names)
        there = tuple(name for name in names if os.path.lexists(target / name))
        made = Plan(made.last, tuple(names), there, made.stale)
        (part / PLAN).write_text(json.dumps(asdict(made)), encoding="utf-8")
        os.mkdir(part / OLD)
        disk.to_disk(part)
        os.replace(part, target / _NEW)
        try:
            _move(target, made)
        except ResourceError:
            raise
        except BaseException:
            _forget(target)
            raise
        _forget(target, done=True)


def finish(target: Path) -> None:
    """Go on where a writer was killed, and remove what others left.

    Raises:
        ResourceError: that cannot be done.
    """
    if os.path.lexists(target / _NEW) or os.path.lexists(target / _LOCK):
        try:
            with _locked(target):
                _finish(target)
        except OSError as error:
            raise disk.cannot_write(target, error) from error
    disk.sweep(target / _PART)


def _finish(target: Path) -> None:
    new = target / _NEW
    if not os.path.lexists(new):
        return
    if not os.path.lexists(new / PLAN) and not disk.files_in(new / OLD):
        _forget(target)  # it was being removed
        return
    try:
        saved: dict[str, Any] = json.loads((new / PLAN).read_text(encoding="utf-8"))
        plan = Plan(
            saved["last"], tuple(saved["names"]), tuple(saved["replaced"]), dict(saved["stale"])
        )
        _check_own(new, plan)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ResourceError(
            f"{new} cannot be read: {error}.",
            remedy="It holds what a killed writer was about to put into the folder. Take what you "
            "need out of it, and remove it.",
        ) from error
    for name in plan.names:
        if not os.path.lexists(new / FILES / name) or not os.path.lexists(target / name):
            continue
        if os.path.lexists(new / OLD / name) or name not in plan.replaced:
            raise ResourceError(
                f"{target / name} was put there after a writer of {target} had been killed, who "
                "was about to replace it.",
                remedy="Move it away and repeat what you did: that write is then brought to its "
                "end.",
            )
    _move(target, plan)
    _forget(target, done=True)


def _check_own(new: Path, plan: Plan) -> None:
    """Refuse a plan that leads out of its folder: whoever made the folder may have written it.

    Raises:
        ValueError: it does.
    """
    holders = (new, new / FILES, new / OLD)
    links = [holder for holder in holders if holder.is_symlink()]
    for name in (plan.last, *plan.names, *plan.replaced, *plan.stale):
        if not isinstance(name, str) or not inside(name):
            raise ValueError(f"its plan names {name!r}")
        above = [place for place in Path(name).parents if place != Path()]
        links += [h / p for h in (new.parent, *holders) for p in above if (h / p).is_symlink()]
    if links:
        raise ValueError(f"{links[0]} is a link")


def _move(target: Path, plan: Plan) -> None:
    """Move what is not yet in its place; if that fails, all back.

    Raises:
        OSError: it failed, and all was moved back.
        ResourceError: moving back failed too.
    """
    new = target / _NEW
    done: list[tuple[Path, Path]] = []
    folders: list[Path] = []
    try:
        for name in plan.away():
            source, backup = target / name, new / OLD / name
            if os.path.lexists(backup) or not os.path.lexists(source):
                continue
            if name in plan.stale:
                if source.is_symlink() or digest(source) != plan.stale[name]:
                    continue
            elif not os.path.lexists(new / FILES / name):
                continue
            disk.make_folders(backup.parent)
            os.replace(source, backup)
            done.append((source, backup))
        for name in plan.order():
            source, place = new / FILES / name, target / name
            if os.path.lexists(source):
                folders += disk.make_folders(place.parent)
                os.replace(source, place)
                done.append((source, place))
    except BaseException as error:
        _back(target, done, error)
        disk.remove_folders(folders)
        raise


def _back(target: Path, done: Sequence[tuple[Path, Path]], error: BaseException) -> None:
    try:
        for source, place in reversed(done):
            os.replace(place, source)
    except OSError:
        raise ResourceError(
            f"Cannot write {target}: {error}; it is half replaced now.",
            remedy=f"All files are there, the rest in {target / _NEW}: write to it again when it "
            "can be written, and they come to their places.",
        ) from error


def _forget(target: Path, *, done: bool = False) -> None:
    """Remove ``.alphaedit.new``, in an order in which a part of it is not taken for the whole."""
    new = target / _NEW
    for name in (OLD, PLAN, FILES) if done else (PLAN, OLD, FILES):
        disk.remove(new / name)
        if name == OLD and done and os.path.lexists(new / OLD):
            return  # the next writer tries again
    disk.remove(new)


def _check_place(target: Path, name: str) -> None:
    """Refuse a name that is a folder's, or below what is none.

    Raises:
        ResourceError: it is.
    """
    place = target / name
    for above in place.relative_to(target).parents:
        parent = target / above
        if os.path.lexists(parent) and not parent.is_dir():
            raise ResourceError(
                f"{parent} is a file, and {name} is to be written below it.",
                remedy="Choose another directory, or move it away. Nothing was written.",
            )
    if place.is_dir() and not place.is_symlink():
        raise ResourceError(
            f"{place} is a directory, and a file of that name is to be written.",
            remedy="Choose another directory, or move it away. Nothing was written.",
        )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other writers out for the length of a block.

    Raises:
        ResourceError: one does not end.
        OSError: the lock cannot be made.
    """
    lock = FileLock(target / _LOCK, timeout=WAIT)
    try:
        lock.acquire()
    except Timeout:
        raise ResourceError(
            f"{target} is being written by another process.",
            remedy="Wait for it, and try again. Nothing was written.",
        ) from None
    try:
        yield
    finally:
        # While it is held: whoever waits for it sees that it has gone, and makes a new one.
        with suppress(OSError):
            os.unlink(target / _LOCK)
        lock.release()
