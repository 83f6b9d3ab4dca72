"""Files written whole, or not at all."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from alphaedit.core import disk, replace
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.core.marks import MANIFEST, Manifest, read_manifest, write_manifest


def write_text(text: str, path: Path) -> None:
    """Write `text` into the file `path`, in UTF-8.

    Raises:
        ResourceError: it cannot be written; what was there before is kept.
    """
    with whole_file(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(text)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file that appears whole or not at all: write into the path that `with` gives.

    Raises:
        ResourceError: it cannot be written; what was there before is kept.
    """
    made: list[Path] = []
    part: Path | None = None
    try:
        disk.check_name(path)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        made = disk.make_folders(path.parent)
        disk.sweep(path)
        part = disk.new_part(path, folder=False)
        mode = stat.S_IMODE(os.stat(part).st_mode)
        yield part
        os.chmod(part, mode)
        disk.to_disk(part)
        os.replace(part, path)
    except BaseException as error:
        if part is not None:
            disk.remove(part)
        disk.remove_folders(made)
        # safetensors reports a full disk as its own error type.
        if isinstance(error, (OSError, SafetensorError)):
            raise disk.cannot_write(path, error) from error
        raise


class atomic_folder:
    """Files that appear in a folder complete or not at all: write into the path that `with` gives.

    A folder that is there keeps its other files: new ones are added, or replace those of the same
    name, when all have been written (see `alphaedit.core.replace`).

    Args:
        target: the folder.
        last: the file without which nobody loads the folder, such as config.json. It is the first
            to go and the last to come.
        kind: checkpoint, adapter or delta: write a manifest, and remove what an older one of that
            kind lists, if it is unchanged and no longer part of it.
        rivals: tells files that would be loaded in place of the new ones or with them.
        only_ours: replace only files that such a manifest lists, and that are unchanged.

    Raises:
        ResourceError: writing failed (disk full, read-only, a file of that name), or the folder
            holds rivals; what was there before is kept.
        ConfigError: the folder holds another kind, or with `only_ours` files that are not ours.
    """

    def __init__(
        self,
        target: Path,
        *,
        last: str = "",
        kind: str = "",
        rivals: Callable[[str], bool] | None = None,
        only_ours: bool = False,
    ) -> None:
        self.shown = target
        self.last, self.kind, self.rivals, self.only_ours = last, kind, rivals, only_ours
        self.made: list[Path] = []

    def __enter__(self) -> Path:
        try:
            disk.check_name(self.shown)
            self.target = _resolved(self.shown)
            self.holder: Path | None = None
            disk.sweep(self.target)
            if self.target.is_dir():
                replace.finish(self.target)
                self._check_kind(read_manifest(self.target))
                self.holder = replace.new_part(self.target)
                self.part = self.holder / replace.FILES
            else:
                self.made = disk.make_folders(self.target.parent)
                self.part = disk.new_part(self.target, folder=True)
        except OSError as error:
            disk.remove_folders(self.made)
            raise disk.cannot_write(self.shown, error) from error
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            try:
                self._put()
                return
            except BaseException as failure:
                self._clear()
                if isinstance(failure, OSError):
                    raise disk.cannot_write(self.shown, failure) from failure
                raise
        self._clear()
        # safetensors reports a full disk as its own error type.
        if issubclass(kind, (OSError, SafetensorError)):
            raise disk.cannot_write(self.shown, error) from None

    def _clear(self) -> None:
        disk.remove(self.part)
        if self.holder is not None:
            disk.remove(self.holder)
        disk.remove_folders(self.made)

    def _put(self) -> None:
        if self.kind:
            write_manifest(self.part, self.kind)
        disk.usual_modes(self.part)
        disk.to_disk(self.part)
        if self.holder is None:
            try:
                os.rename(self.part, self.target)
                return
            except OSError:
                # Another process was quicker to make it.
                if not self.target.is_dir():
                    raise
            self.holder = replace.new_part(self.target)
            os.replace(self.part, self.holder / replace.FILES)
        replace.put(self.target, self.holder, self._plan)

    def _plan(self, names: Sequence[str]) -> replace.Plan:
        """What becomes of the files that are there."""
        manifest = read_manifest(self.target)
        self._check_kind(manifest)
        if self.only_ours:
            check_ours(self.shown, manifest, names)
        stale = {}
        if self.kind and manifest is not None:
            gone = [name for name in manifest.files if name not in names]
            stale = {n: manifest.files[n] for n in gone if manifest.unchanged(self.target, n)}
        if self.rivals is not None:
            self._check_rivals({*names, *stale})
        return replace.Plan(self.last, tuple(names), stale=stale)

    def _check_kind(self, manifest: Manifest | None) -> None:
        if self.kind and manifest is not None and manifest.kind != self.kind:
            raise ConfigError(
                f"{self.shown} holds a {manifest.kind}, and a {self.kind} is to be written.",
                remedy="Choose another directory, or remove it yourself. Nothing was written.",
            )

    def _check_rivals(self, known: set[str]) -> None:
        assert self.rivals is not None
        rivals = sorted(path.name for path in self.target.iterdir() if self.rivals(path.name))
        others = [name for name in rivals if name not in known]
        if others:
            raise ResourceError(
                f"{self.shown} holds {', '.join(others)}, which would be loaded in place of what "
                "is written, or with it.",
                remedy="Choose another directory, or move that away. Nothing was written.",
            )


def check_ours(shown: Path, manifest: Manifest | None, names: Sequence[str]) -> None:
    """Refuse to replace files of a folder that we did not write, or that were changed since.

    Args:
        shown: the folder.
        manifest: its manifest.
        names: of the files to be written.

    Raises:
        ConfigError: names the first of them.
    """
    for name in names:
        if not os.path.lexists(shown / name) or (name == MANIFEST and manifest is not None):
            continue
        if manifest is None or not manifest.unchanged(shown, name):
            changed = manifest is not None and name in manifest.files
            raise ConfigError(
                f"{shown / name} {'was changed' if changed else 'was not written by alphaedit'}: "
                "it will not be replaced, even with --force.",
                remedy="Choose another directory, or move it away.",
            )


def recover(target: Path) -> None:
    """Put right what killed writers of a folder left: finish what was complete, remove the rest.

    Raises:
        ResourceError: that cannot be done.
    """
    if target.is_dir():
        replace.finish(target)
    disk.sweep(target)


def _resolved(target: Path) -> Path:
    """The folder itself, if `target` is a link to it.

    Raises:
        OSError: it is a file, or a link to nothing.
    """
    if target.is_symlink() and not target.exists():
        raise FileNotFoundError(errno.ENOENT, "it is a link to nothing")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file")
    return target.resolve()
