"""Files written whole, or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from pathlib import Path

import psutil
from safetensors import SafetensorError

from alphaedit.core.errors import ResourceError


def write_text(text: str, path: Path) -> None:
    """Write `text` into the file `path`, in UTF-8.

    Raises:
        ResourceError: it cannot be written; what was there before is kept.
    """
    part: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            Path(part).unlink(missing_ok=True)
        raise ResourceError(
            f"Cannot write {path}: {error.strerror or error}.",
            remedy="Free some space, or choose another place.",
        ) from error


class atomic_folder:
    """A folder that appears complete or not at all: write into the path that `with` gives.

    An existing folder of that name is replaced only when all has been written.

    Raises:
        ResourceError: writing failed (disk full, read-only); what was there before is kept.
    """

    def __init__(self, target: Path) -> None:
        self.target = target

    def __enter__(self) -> Path:
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            recover(self.target)
            prefix = f"{_beside(self.target, 'part')}-{os.getpid()}-"
            self.part = Path(tempfile.mkdtemp(prefix=prefix, dir=self.target.parent))
        except OSError as error:
            raise _cannot_write(self.target, error) from error
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            # safetensors reports a full disk as its own error type.
            if issubclass(kind, (OSError, SafetensorError)):
                raise _cannot_write(self.target, error) from None
            return
        old = self.target.with_name(_beside(self.target, "old"))
        try:
            self.part.chmod(0o755)
            if self.target.exists():
                os.replace(self.target, old)
            os.replace(self.part, self.target)
        except OSError as failure:
            recover(self.target)
            shutil.rmtree(self.part, ignore_errors=True)
            raise _cannot_write(self.target, failure) from failure
        shutil.rmtree(old, ignore_errors=True)


def _beside(target: Path, what: str) -> str:
    return f".{target.name}.{what}"


def recover(target: Path) -> None:
    """Put right what a process killed inside `atomic_folder` left: the old folder, and litter."""
    old = target.with_name(_beside(target, "old"))
    if old.exists():
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)
    prefix = _beside(target, "part") + "-"
    for part in target.parent.glob(f"{glob.escape(prefix)}*"):
        owner = part.name.removeprefix(prefix).split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(part, ignore_errors=True)


def _cannot_write(target: Path, error: object) -> ResourceError:
    return ResourceError(
        f"Cannot write {target}: {error}.",
        remedy="Free some space or choose another directory. What was there before is unchanged.",
    )
