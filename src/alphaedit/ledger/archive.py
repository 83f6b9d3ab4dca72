"""Ledgers as one file, and from one ledger to another."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphaedit.core.errors import FingerprintError, LedgerError, ResourceError
from alphaedit.core.files import atomic_folder
from alphaedit.ledger import journal
from alphaedit.ledger.check import verify
from alphaedit.ledger.ledger import EDITS, JOURNAL, SIGNATURES, Ledger
from alphaedit.ledger.store import FILES

_NAMES = "|".join(re.escape(name) for name in FILES)
ALLOWED = re.compile(
    rf"{re.escape(JOURNAL)}|{EDITS}/[0-9a-f]{{16}}/(?:{_NAMES})|{SIGNATURES}/[0-9a-f]{{64}}\.sig"
)
"""Paths of files that make up a ledger; nothing else is packed, unpacked, pushed or pulled."""


def parts(folder: Path) -> list[str]:
    """Paths of the files of the ledger in `folder`, relative to it."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if ALLOWED.fullmatch(path))


def pack(ledger: Ledger, path: Path) -> int:
    """Write a ledger as a .tar, .tar.gz or .tgz file; the number of files in it.

    Raises:
        ResourceError: it cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ledger.locked(), _new_tar(part, path.name) as tar:
            names = parts(ledger.path)
            for name in names:
                tar.add(ledger.path / name, arcname=name, recursive=False)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(
            f"Cannot write {path}: {error.strerror or error}.", remedy="Choose another place."
        ) from error
    return len(names)


def _new_tar(path: Path, name: str) -> tarfile.TarFile:
    if name.endswith(("gz", "tgz")):
        return tarfile.open(path, "w:gz")
    return tarfile.open(path, "w")


def unpack(path: Path, folder: Path) -> Ledger:
    """Take a ledger out of a file that `pack` wrote, into a new directory, and check all of it.

    Raises:
        LedgerError: the file is no archive, holds anything but a ledger (a path that leads out of
            the directory, a link, a device), or the ledger is not whole. Nothing is left behind.
    """
    with atomic_folder(folder) as part:
        try:
            with tarfile.open(path, "r:*") as tar:
                for member in tar:
                    if not member.isfile() or not ALLOWED.fullmatch(member.name):
                        raise LedgerError(
                            f"{path} holds {member.name!r}, which is no part of a ledger.",
                            remedy="Do not trust it. Nothing was unpacked.",
                        )
                    source = tar.extractfile(member)
                    target = part / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if source is not None:
                        with source, open(target, "wb") as file:
                            shutil.copyfileobj(source, file)
        except FileNotFoundError:
            raise LedgerError(
                f"There is no file {path}.", remedy="Give a file or a ledger."
            ) from None
        except (tarfile.TarError, EOFError) as error:
            raise LedgerError(
                f"{path} cannot be read as an archive: {str(error).splitlines()[0]}.",
                remedy="Give a ledger's directory, or a file that `alphaedit pack` wrote.",
            ) from error
        _whole(Ledger(part), str(path))
    return Ledger(folder)


def _whole(ledger: Ledger, name: str) -> None:
    problems = verify(ledger).problems
    if problems:
        raise LedgerError(
            f"The ledger in {name} is not whole: {problems[0]}", remedy="Get it again."
        )


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """A ledger, from its directory or from an archive of it.

    Raises:
        LedgerError: it is neither.
    """
    if path.is_dir():
        yield Ledger(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        yield unpack(path, Path(folder) / "ledger")


def receive(source: Path, target: Path) -> int:
    """Bring the ledger at `target` up to the one in `source`; the number of entries that came.

    Raises:
        FingerprintError: they are of different models.
        LedgerError: `source` is not whole, or both have entries that the other has not.
        ResourceError: it cannot be written; the ledger is as it was.
    """
    other = Ledger(source)
    _whole(other, str(source))
    entries = other.history.entries
    if not Ledger.at(target):
        with atomic_folder(target) as part:
            for name in parts(source):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, part / name)
        return len(entries)
    ours = Ledger(target)
    if ours.base != other.base:
        raise FingerprintError(
            f"{target} and {source} hold edits of different models.", remedy="Choose another."
        )
    with ours.locked():
        held = ours.history.entries
        same = min(len(held), len(entries))
        if any(a.hash != b.hash for a, b in zip(held[:same], entries[:same], strict=True)):
            raise LedgerError(
                f"{target} and {source} have gone different ways.",
                remedy="Pull into another directory, and `alphaedit merge` the two.",
            )
        if len(entries) <= len(held):
            return 0
        for entry in entries[same:]:
            for edit, files in entry.files.items():
                if edit in other.history.pruned:
                    continue
                ours.store.take(edit, other.store.path, files)
            mark = f"{SIGNATURES}/{entry.hash}.sig"
            if (source / mark).is_file():
                (target / mark).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / mark, target / mark)
        lines = (source / JOURNAL).read_bytes().splitlines(keepends=True)
        whole = sum(len(line) for line in lines[:same])
        journal.append(target / JOURNAL, lines[same : len(entries)], whole)
        return len(entries) - same
