"""Pieces on disk from which files and folders are put together before they appear."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from alphaedit.core.errors import ResourceError


def new_part(target: Path, *, folder: bool) -> Path:
    """A new hidden file or folder beside `target`, with the mode that new ones have here.

    Its name tells which process made it, so that `sweep` knows when it is litter.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        part = target.with_name(f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}")
        with suppress(FileExistsError):
            if folder:
                os.mkdir(part)
            else:
                os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return part


def check_name(path: Path) -> None:
    """Refuse a name that no file can have, which Python reports as it likes.

    Raises:
        OSError: it holds a NUL.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a NUL character")


def sweep(target: Path) -> None:
    """Remove the parts beside `target` whose processes were killed."""
    with suppress(OSError):
        beside = [p for p in target.parent.iterdir() if p.name.startswith(_prefix(target))]
        for part in beside:
            owner = part.name.removeprefix(_prefix(target)).split("-")[0]
            if re.fullmatch("[0-9]{1,9}", owner) and not psutil.pid_exists(int(owner)):
                remove(part)


def _prefix(target: Path) -> str:
    return f".{target.name}.part-"


def remove(part: Path) -> None:
    """Remove a file or folder of our own, as far as that can be done."""
    if part.is_dir() and not part.is_symlink():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            os.unlink(part)


def make_folders(folder: Path) -> list[Path]:
    """Make `folder` and those above it; the ones that were not there, the outermost first.

    Raises:
        OSError: one cannot be made; then none is left.
    """
    missing = []
    above = folder
    while not above.exists():
        missing.append(above)
        above = above.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            with suppress(FileExistsError):
                os.mkdir(path)
                made.append(path)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(folder))
    except BaseException:
        remove_folders(made)
        raise
    return made


def remove_folders(made: Sequence[Path]) -> None:
    """Remove folders that `make_folders` made, if nothing lies in them."""
    for folder in reversed(made):
        with suppress(OSError):
            os.rmdir(folder)


def usual_modes(folder: Path) -> None:
    """Give all files in a new folder the mode that follows from its own.

    safetensors and temporary files are readable by their owner only, whatever the umask says.

    Raises:
        OSError: a mode cannot be changed.
    """
    mode = stat.S_IMODE(os.stat(folder).st_mode) & 0o666
    for path in files_in(folder):
        if not path.is_symlink():
            os.chmod(path, mode)


def to_disk(path: Path) -> None:
    """Wait until a file, or all files in a folder, are on the disk.

    Raises:
        OSError: there is no room for them.
    """
    for file in files_in(path) if path.is_dir() else [path]:
        with open(file, "rb") as stream:
            try:
                os.fsync(stream.fileno())
            except OSError as error:
                # Some file systems know no fsync; that is no failure.
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
                    raise


def files_in(folder: Path) -> list[Path]:
    """All that lies in `folder` and is no folder."""
    return sorted(p for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


def cannot_write(target: Path, error: object, rest: str = "") -> ResourceError:
    """The error to raise when something could not be written."""
    reason = getattr(error, "strerror", None) or error
    other = str(getattr(error, "filename", None) or "")
    if other and ".part-" not in other and other != str(target):
        reason = f"{reason}: {other}"
    code = getattr(error, "errno", None)
    remedy = "Choose another place, or see to its permissions."
    if code in (None, errno.ENOSPC, errno.EDQUOT):
        remedy = "Free some space, or choose another place."
    rest = rest or "What was there before is unchanged."
    return ResourceError(f"Cannot write {target}: {reason}.", remedy=f"{remedy} {rest}")
