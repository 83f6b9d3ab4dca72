"""One writer at a time, into the directory itself and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from alphaedit.core.errors import LedgerError, ResourceError

JOURNAL, LOCK, EDITS, SIGNATURES = "journal.jsonl", "lock", "edits", "signatures"
WAIT = 10.0
"""Seconds to wait for another writer."""


@contextmanager
def locked(path: Path, *, reading: bool = False) -> Iterator[None]:
    """Keep other writers out of the ledger in `path` for the length of a block.

    Args:
        path: the directory; it is made if there is none.
        reading: the block only reads, the journal first. Where no lock can be made, as on media
            that cannot be written, it goes without: what the journal spoke of stays as it is.

    Raises:
        LedgerError: a part of the ledger is a link: what is written would go elsewhere.
        ResourceError: another process writes, or the directory cannot be written.
    """
    lock = _lock_to_read(path) if reading else _lock_to_write(path)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _lock_to_write(path: Path) -> BaseFileLock:
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_own(path)
        return _acquired(path)
    except (OSError, ValueError, NotImplementedError) as error:
        raise ResourceError(
            f"Cannot write into {path}: {getattr(error, 'strerror', None) or error}.",
            remedy="Check its permissions, or choose another directory.",
        ) from error


def _lock_to_read(path: Path) -> BaseFileLock | None:
    if (path / LOCK).is_symlink():
        return None
    try:
        return _acquired(path)
    except (OSError, ValueError, NotImplementedError):
        return None


def _acquired(path: Path) -> BaseFileLock:
    lock = FileLock(path / LOCK, timeout=WAIT)
    try:
        lock.acquire()
    except Timeout:
        raise ResourceError(
            f"{path} is being written by another process.", remedy="Wait for it, and try again."
        ) from None
    return lock


def _check_own(path: Path) -> None:
    for name in (JOURNAL, LOCK, EDITS, SIGNATURES):
        if (path / name).is_symlink():
            raise LedgerError(
                f"{path / name} is a link: what is written there would change files elsewhere.",
                remedy="Put the files themselves there, or link the whole directory of the ledger.",
            )
