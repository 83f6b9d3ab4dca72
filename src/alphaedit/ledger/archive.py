"""Ledgers as one file, and from one ledger to another."""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alphaedit.core.errors import AlphaEditError, FingerprintError, LedgerError, ResourceError
from alphaedit.core.files import atomic_folder, whole_file
from alphaedit.core.text import one_line
from alphaedit.ledger import journal
from alphaedit.ledger.check import verify
from alphaedit.ledger.ledger import BEFORE, EDITS, JOURNAL, SIGNATURES, Ledger
from alphaedit.ledger.store import FILES
from alphaedit.ledger.tar import Archive

_NAMES = "|".join(re.escape(name) for name in FILES)
ALLOWED = re.compile(
    rf"{re.escape(JOURNAL)}|{EDITS}/[0-9a-f]{{16}}/(?:{_NAMES})|{SIGNATURES}/[0-9a-f]{{64}}\.sig"
)
"""Paths of files that make up a ledger; nothing else is packed, unpacked, pushed or pulled."""
MAX_SIZE = 16_000_000_000
"""Bytes of an unpacked archive, unless more are allowed."""
MAX_RATIO, SMALL = 100, 64_000_000
"""How much larger than itself an archive may be unpacked, if that is not small."""
MAX_FILES = 1_000_000
_TRUSTED = "If you trust it, allow more: `alphaedit unpack --max-size GB`."


def parts(ledger: Ledger) -> list[str]:
    """Paths of the files that a ledger's journal speaks of, relative to it; itself the first.

    Raises:
        LedgerError: one of an edit is missing.
    """
    history = ledger.history
    live = sorted(edit for edit in history.files if edit not in history.pruned)
    edits = [f"{EDITS}/{edit}/{name}" for edit in live for name in FILES]
    for name in edits:
        if not (ledger.path / name).is_file():
            raise LedgerError(
                f"{ledger.path / name} is missing.", remedy="Take the ledger from a backup."
            )
    marks = [f"{SIGNATURES}/{entry.hash}.sig" for entry in history.entries]
    return [JOURNAL, *edits, *(name for name in marks if (ledger.path / name).is_file())]


def pack(ledger: Ledger, path: Path) -> int:
    """Write a ledger as a .tar, .tar.gz or .tgz file; the number of files in it.

    Raises:
        LedgerError: a file of the ledger is missing.
        ResourceError: it cannot be written; nothing is left behind.
    """
    with whole_file(path) as part, ledger.locked(reading=True):
        names = parts(ledger)
        with tarfile.open(part, "w:gz" if path.name.endswith(("gz", "tgz")) else "w") as tar:
            for name in names:
                with open(ledger.path / name, "rb") as file:
                    info = tar.gettarinfo(arcname=name, fileobj=file)
                    if name == JOURNAL:
                        info.size = ledger.whole  # what another writer adds meanwhile stays out
                    info.uid = info.gid = 0
                    info.uname = info.gname = ""
                    info.mode, info.mtime, info.type = 0o644, int(info.mtime), tarfile.REGTYPE
                    tar.addfile(info, file)
    return len(names)


def is_packed(path: Path) -> bool:
    """Whether a file is an archive that `pack` wrote, by what is in it first."""
    try:
        with Archive(path, SMALL, "") as archive:
            first = next(iter(archive), None)
            return first is not None and first.plain and bool(ALLOWED.fullmatch(first.name))
    except (AlphaEditError, OSError):
        return False


def unpack(path: Path, folder: Path, *, max_size: int | None = None) -> Ledger:
    """Take a ledger out of a file that `pack` wrote, into a new directory, and check all of it.

    Args:
        path: the file.
        folder: the directory.
        max_size: bytes that it may have unpacked; else at most 16 GB, and no more than 100 times
            its own size or 64 MB.

    Raises:
        LedgerError: the file is no archive, larger than that, holds anything but a ledger (a path
            that leads out of the directory, a link, a device), or the ledger is not whole; or the
            directory is not empty. Nothing is left behind.
    """
    with Archive(path, _limit(path, max_size), _TRUSTED) as archive:
        _check_free(folder)
        with atomic_folder(folder, last=JOURNAL) as part, naming(part, str(path)):
            seen: set[str] = set()
            for member in archive:
                if not member.plain or not ALLOWED.fullmatch(member.name):
                    raise LedgerError(
                        f"{path} holds {one_line(member.name)[:200]!r}, which is no part of a "
                        "ledger.",
                        remedy="Do not trust it. Nothing was unpacked.",
                    )
                if member.name in seen or len(seen) == MAX_FILES:
                    what = f"{member.name!r} twice" if member.name in seen else "too many files"
                    raise LedgerError(
                        f"{path} holds {what}.", remedy="Do not trust it. Nothing was unpacked."
                    )
                seen.add(member.name)
                target = part / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as file:
                    for chunk in archive.chunks():
                        file.write(chunk)
            _check_whole(Ledger(part), str(path))
    return Ledger(folder)


def _limit(path: Path, max_size: int | None) -> int:
    if max_size is not None:
        return max_size
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        size = 0
    return min(MAX_SIZE, max(SMALL, MAX_RATIO * size))


def _check_free(folder: Path) -> None:
    """Refuse a directory that holds anything but a ledger that was never begun."""
    if folder.is_dir() and not Ledger.at(folder):
        if all(path.name in BEFORE for path in folder.iterdir()):
            return
    elif not folder.exists():
        return
    raise LedgerError(f"{folder} is there, and not empty.", remedy="Choose a new directory.")


def _check_whole(ledger: Ledger, name: str) -> None:
    problems = verify(ledger).problems
    if problems:
        raise LedgerError(
            f"The ledger in {name} is not whole: {problems[0]}", remedy="Get it again."
        )


@contextmanager
def naming(folder: Path, name: str) -> Iterator[None]:
    """Let errors speak of what was given, not of a folder that is gone when they are read."""
    try:
        yield
    except AlphaEditError as error:
        error.message = error.message.replace(str(folder), name)
        error.args = (error.message,)
        raise


@contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """A ledger, from its directory or from an archive of it.

    Raises:
        LedgerError: it is neither.
        ResourceError: there is no room to unpack it.
    """
    if path.is_dir():
        yield Ledger(path)
        return
    with _temporary(path) as place:
        folder = Path(place) / "ledger"
        with naming(folder, str(path)):
            try:
                ledger = unpack(path, folder)
            except ResourceError as error:
                raise ResourceError(
                    f"{path} cannot be unpacked in {tempfile.gettempdir()}: {error.message}",
                    remedy="Free some space there, or use `alphaedit unpack` first.",
                ) from error
            yield ledger


def _temporary(path: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise ResourceError(
            f"There is no place to unpack {path}: {error.strerror or error}.",
            remedy="Name one in $TMPDIR, or use `alphaedit unpack` first.",
        ) from error


def receive(source: Path, target: Path) -> int:
    """Bring the ledger at `target` up to the one in `source`; the number of entries that came.

    Raises:
        FingerprintError: they are of different models.
        LedgerError: `source` is not whole, or both have entries that the other has not.
        ResourceError: it cannot be written; the ledger is as it was.
    """
    other = Ledger(source)
    _check_whole(other, str(source))
    theirs, whole = other.history, other.whole
    entries = theirs.entries
    with open(source / JOURNAL, "rb") as file:
        data = file.read(whole)
    if not Ledger.at(target):
        _check_free(target)
        with atomic_folder(target, last=JOURNAL) as part:
            for name in parts(other)[1:]:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, part / name)
            (part / JOURNAL).write_bytes(data)
        return len(entries)
    ours = Ledger(target)
    if ours.base != other.base:
        raise FingerprintError(
            f"{target} and {source} hold edits of different models.", remedy="Choose another."
        )
    with ours.locked():
        our_entries = ours.history.entries
        same = min(len(our_entries), len(entries))
        if any(a.hash != b.hash for a, b in zip(our_entries[:same], entries[:same], strict=True)):
            raise LedgerError(
                f"{target} and {source} have gone different ways.",
                remedy="Pull into another directory, and `alphaedit merge` the two.",
            )
        if len(entries) <= len(our_entries):
            return 0
        for entry in entries[same:]:
            for edit, files in entry.files.items():
                if edit in theirs.pruned:
                    continue
                ours.store.take(edit, other.store.path, files)
            mark = f"{SIGNATURES}/{entry.hash}.sig"
            if (source / mark).is_file():
                (target / mark).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / mark, target / mark)
        # Lines end in newlines and in nothing else that Python takes for the end of one.
        lines = [line + b"\n" for line in data.split(b"\n")[:-1]]
        begun = sum(len(line) for line in lines[:same])
        journal.append(target / JOURNAL, lines[same:], begun)
        return len(entries) - same
