"""Edits on disk, each in a directory of its id, written once and never changed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from alphaedit.core.disk import remove, sweep
from alphaedit.core.edit import Edit
from alphaedit.core.errors import EditFileError, LedgerError, ResourceError
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder
from alphaedit.core.learned import STATE, STATE_TENSORS, Learned
from alphaedit.core.reading import megabytes
from alphaedit.core.schema import MAX_JSON
from alphaedit.core.stored import facts_in, read_edit
from alphaedit.ledger.history import ID

PART = re.compile(r"\.[0-9a-f]{16}\.part-.*", re.DOTALL)
OLD = re.compile(r"\.[0-9a-f]{16}\.old")
FILES = ("edit.json", "patch.safetensors", STATE, STATE_TENSORS)


class Store:
    """The directory `edits` of a ledger.

    ``ID/edit.json`` and ``ID/patch.safetensors`` are the edit, ``ID/state.json`` and
    ``ID/state.safetensors`` what the sequential run learned from it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, edit: str) -> Path:
        """Where an edit is kept."""
        if not ID.fullmatch(edit):
            raise LedgerError(f"{edit!r} is no id of an edit.", remedy="See `alphaedit log`.")
        return self.path / edit

    def write(self, edit: Edit, learned: Learned) -> dict[str, str]:
        """Keep an edit; SHA-256 of each of its files.

        Raises:
            ResourceError: writing failed; nothing is left behind.
        """
        with self._new(edit.id) as part:
            replace(edit, learned=learned).write_files(part)
            _check_sizes(part, edit)
            hashes = {}
            for name in FILES:
                hashes[name] = digest(part / name)
                _to_disk(part / name)
        return hashes

    def take(self, edit: str, folder: Path, files: Mapping[str, str]) -> None:
        """Keep a copy of an edit from the store in `folder`.

        Raises:
            LedgerError: it is not whole there.
            ResourceError: writing failed; nothing is left behind.
        """
        self.check(edit, files, folder / edit)
        with self._new(edit) as part:
            for name in FILES:
                shutil.copyfile(folder / edit / name, part / name)
                _to_disk(part / name)

    def _new(self, edit: str) -> atomic_folder:
        """A folder for an edit; what lies there unfinished or unknown goes first."""
        if os.path.lexists(self.folder(edit)):
            self.remove(edit)
        return atomic_folder(self.folder(edit))

    def check(self, edit: str, files: Mapping[str, str], folder: Path | None = None) -> None:
        """See whether an edit's files are those that the journal speaks of.

        Raises:
            LedgerError: one is missing, truncated or changed.
        """
        folder = folder or self.folder(edit)
        for name in FILES:
            path = folder / name
            if not path.is_file():
                raise LedgerError(f"{path} is missing.", remedy="Take the ledger from a backup.")
            if name not in files:
                raise LedgerError(
                    f"The journal gives no hash of {path}.", remedy="Take it from a backup."
                )
            if digest(path) != files[name]:
                raise LedgerError(
                    f"{path} is not what was written there: it was changed, or is damaged.",
                    remedy="Take the ledger from a backup, or make the edit again.",
                )

    def read(self, edit: str, files: Mapping[str, str]) -> tuple[Edit, Learned]:
        """An edit and what was learned from it.

        Raises:
            LedgerError: it is missing, truncated or changed.
        """
        self.check(edit, files)
        try:
            loaded = Edit.load(self.folder(edit))
        except LedgerError:
            raise
        except EditFileError as error:
            raise LedgerError(error.message, remedy=error.remedy) from error
        if loaded.id != edit:
            raise LedgerError(
                f"{self.folder(edit)} holds edit {loaded.id}.",
                remedy="The ledger was tampered with: take it from a backup.",
            )
        return loaded, loaded.learned or Learned()

    def facts(self, edit: str, files: Mapping[str, str]) -> tuple[Fact, ...]:
        """The facts of an edit, without reading its tensors.

        Raises:
            LedgerError: they are missing, truncated or changed.
        """
        path = self.folder(edit) / FILES[0]
        if not path.is_file() or digest(path) != files.get(FILES[0]):
            self.check(edit, files)
        try:
            return facts_in(read_edit(path), path)
        except EditFileError as error:
            raise LedgerError(error.message, remedy=error.remedy) from error

    def has(self, edit: str) -> bool:
        """Whether the edit is kept here."""
        return (self.folder(edit) / FILES[0]).is_file()

    def size(self, edit: str) -> int:
        """Bytes that an edit takes."""
        return sum(path.stat().st_size for path in self.folder(edit).glob("*") if path.is_file())

    def ids(self) -> list[str]:
        """Ids of the edits kept here, whether or not the journal speaks of them."""
        if not self.path.is_dir():
            return []
        return sorted(p.name for p in self.path.iterdir() if ID.fullmatch(p.name) and p.is_dir())

    def litter(self) -> list[Path]:
        """What killed writers left."""
        return sorted(self.path.glob(".*")) if self.path.is_dir() else []

    def remove(self, edit: str) -> None:
        """Delete an edit."""
        folder = self.folder(edit)
        # Out of sight at once: a killed removal leaves litter and no half an edit.
        gone = folder.with_name(f".{edit}.part-{os.getpid()}-removed")
        try:
            os.replace(folder, gone)
        except OSError as error:
            raise ResourceError(
                f"Cannot remove {folder}: {error.strerror}.", remedy="Check its permissions."
            ) from error
        remove(gone)

    def clean(self) -> int:
        """Remove what killed writers left; how many pieces."""
        litter = self.litter()
        for path in litter:
            if PART.fullmatch(path.name):
                sweep(self.path / path.name[1:17])
            elif OLD.fullmatch(path.name):  # of older versions
                self._recover(path)
        return len(litter) - len(self.litter())

    def _recover(self, old: Path) -> None:
        target = self.path / old.name[1:17]
        with suppress(OSError):
            if os.path.lexists(target):
                remove(old)
            else:
                os.replace(old, target)


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        LedgerError: it cannot be read.
    """
    hasher = sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                hasher.update(block)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check that you may read it."
        ) from error
    return hasher.hexdigest()


def _to_disk(path: Path) -> None:
    with suppress(OSError), open(path, "rb") as file:
        os.fsync(file.fileno())


def _check_sizes(folder: Path, edit: Edit) -> None:
    """Refuse to write what would not be read again.

    Raises:
        ResourceError: a file is too large.
    """
    for name in ("edit.json", STATE):
        if (folder / name).stat().st_size > MAX_JSON:
            raise ResourceError(
                f"The {name} of edit {edit.id} would be larger than {megabytes(MAX_JSON)}, the "
                "limit.",
                remedy="Give its facts in several batches.",
            )
