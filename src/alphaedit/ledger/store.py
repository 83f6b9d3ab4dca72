"""Edits on disk, each in a directory of its id, written once and never changed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alphaedit.core.edit import Edit
from alphaedit.core.errors import LedgerError, ResourceError
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder, recover
from alphaedit.ledger.history import ID
from alphaedit.methods.state import Learned

STATE, STATE_TENSORS = "state.json", "state.safetensors"
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
        folder = self.folder(edit.id)
        with atomic_folder(folder) as part:
            edit.write_files(part)
            keys = {f"keys.{layer}": keys for layer, keys in learned.keys.items()}
            memory = {f"memory.{name}": tensor for name, tensor in learned.memory.items()}
            save_file({**keys, **memory}, part / STATE_TENSORS)
            about = {
                "contexts": learned.contexts,
                "edits": learned.edits,
                "kept": list(learned.kept),
            }
            text = json.dumps(about, indent=1, ensure_ascii=False)
            (part / STATE).write_text(text + "\n", encoding="utf-8")
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
        with atomic_folder(self.folder(edit)) as part:
            for name in FILES:
                shutil.copyfile(folder / edit / name, part / name)
                _to_disk(part / name)

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
            if digest(path) != files.get(name):
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
        folder = self.folder(edit)
        try:
            about = json.loads((folder / STATE).read_text(encoding="utf-8"))
            tensors = load_file(folder / STATE_TENSORS)
            contexts = about["contexts"]
            learned = Learned(
                contexts=None if contexts is None else tuple(contexts),
                keys={int(k): v for k, v in _below("keys.", tensors).items()},
                edits=about["edits"],
                memory=_below("memory.", tensors),
                kept=tuple(about["kept"]),
            )
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise LedgerError(
                f"{folder} cannot be read: {error}.", remedy="Take the ledger from a backup."
            ) from error
        return Edit.load(folder), learned

    def facts(self, edit: str, files: Mapping[str, str]) -> tuple[Fact, ...]:
        """The facts of an edit, without reading its tensors.

        Raises:
            LedgerError: they are missing, truncated or changed.
        """
        path = self.folder(edit) / FILES[0]
        if not path.is_file() or digest(path) != files.get(FILES[0]):
            self.check(edit, files)
        data = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Fact.from_dict(fact, str(path)) for fact in data["facts"])

    def has(self, edit: str) -> bool:
        """Whether the edit is kept here."""
        return (self.folder(edit) / FILES[0]).is_file()

    def size(self, edit: str) -> int:
        """Bytes that an edit takes."""
        return sum(path.stat().st_size for path in self.folder(edit).glob("*") if path.is_file())

    def held(self) -> list[str]:
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
        shutil.rmtree(gone, ignore_errors=True)

    def clean(self) -> int:
        """Remove what killed writers left; how many pieces."""
        before = len(self.litter())
        for path in self.litter():
            recover(self.path / path.name[1:17])
        return before - len(self.litter())


def digest(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        LedgerError: it cannot be read.
    """
    found = sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    except OSError as error:
        raise LedgerError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check that you may read it."
        ) from error
    return found.hexdigest()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _to_disk(path: Path) -> None:
    with suppress(OSError), open(path, "rb") as file:
        os.fsync(file.fileno())
