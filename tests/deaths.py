"""Writers that are killed, or that find the disk full, at any change of the file system."""

import errno
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch

MODULES = (
    "alphaedit.core.edit",
    "alphaedit.core.learned",
    "alphaedit.editor.checkpoint",
    "alphaedit.editor.export",
    "alphaedit.methods.learned.record",
    "alphaedit.methods.learned.run",
)
"""Modules that hold safetensors' function under its own name."""
CHANGES = ("replace", "rename", "mkdir", "fsync", "open")
"""What a full disk refuses."""
MORE = ("unlink", "rmdir", "chmod")
"""What else changes the file system."""


class Countdown:
    """Counts changes of the file system, and does something at one of them."""

    def __init__(self, left: int, act: Callable[[], None]) -> None:
        self.left, self.act = left, act

    def tick(self) -> bool:
        """Count one; True if it is the one."""
        self.left -= 1
        return self.left == 0

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, which acts in place of what it does if it is its turn."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            reads = function.__name__ == "open" and not args[1] & os.O_CREAT
            if not reads and self.tick():
                self.act()
            return function(*args, **kwargs)

        return wrapped

    def halfway(self, write: Callable[..., Any], at: int) -> Callable[..., Any]:
        """A function that writes a file, its argument number `at`, and then half of it is there."""

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            done = write(*args, **kwargs)
            if self.tick():
                os.truncate(args[at], os.stat(args[at]).st_size // 2)
                self.act()
            return done

        return wrapped

    def torn(self, opened: Callable[..., Any]) -> Callable[..., Any]:
        """`open` whose files, once written, are half there."""

        def wrapped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            found = opened(file, mode, *args, **kwargs)
            if "w" not in mode or not isinstance(file, (str, Path)):
                return found
            write = found.write

            def half(data: Any) -> int:
                if self.tick():
                    write(data[: len(data) // 2])
                    found.flush()
                    self.act()
                return int(write(data))

            found.write = half
            return found

        return wrapped


@contextmanager
def acting(
    left: int, act: Callable[[], None], changes: tuple[str, ...] = CHANGES
) -> Iterator[Countdown]:
    """Let `act` happen at change number `left` of the file system in the block."""
    count = Countdown(left, act)
    held: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, value: Any) -> None:
        held.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for name in changes:
        patch(os, name, count.before(getattr(os, name)))
    patch(shutil, "copyfile", count.halfway(shutil.copyfile, 1))
    patch(io, "open", count.torn(io.open))
    save = count.halfway(safetensors.torch.save_file, 1)
    for name in MODULES:
        if hasattr(sys.modules.get(name), "save_file"):
            patch(sys.modules[name], "save_file", save)
    try:
        yield count
    finally:
        for owner, name, value in reversed(held):
            setattr(owner, name, value)


def killed(work: Callable[[], Any], after: int) -> bool:
    """Do `work` in a process of its own that dies by SIGKILL at its change number `after`.

    Returns:
        Whether it died; if it made fewer changes it has done all.
    """
    pid = os.fork()
    if pid == 0:
        try:
            with acting(after, lambda: os.kill(os.getpid(), signal.SIGKILL), CHANGES + MORE):
                work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "it failed by itself"
    return False


def full() -> None:
    """What a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files in a folder, hidden ones too, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
