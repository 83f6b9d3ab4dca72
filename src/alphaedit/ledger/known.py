"""Which ledgers this user has begun here, or has named a model for.

A ledger says by itself which model it is of. Whoever made it could have written any path or name
there, so that commands load that model unasked only if the user gave it. The record of that is a
small file in the user's cache directory, named by the hash of the journal's first entry.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from alphaedit.core.cache import default_dir
from alphaedit.core.errors import ResourceError
from alphaedit.core.files import write_text

if TYPE_CHECKING:
    from alphaedit.ledger.ledger import Ledger

FOLDER = "ledgers"
LARGEST = 1 << 16


def remember(ledger: Ledger, model: str) -> None:
    """Note that the user gave `model` for a ledger; where nothing can be written, nothing is."""
    place = _place(ledger)
    if place is None or not model:
        return
    try:
        here = Path(model).expanduser()
        path = str(here.resolve()) if here.exists() else ""
        write_text(json.dumps({"named": model, "path": path}) + "\n", place)
    except (OSError, RuntimeError, ValueError, ResourceError):  # it is asked for again then
        return


def known_model(ledger: Ledger) -> str | None:
    """The model that the user gave for a ledger; None if there is no record of one.

    A path is that of then, wherever one is now, unless the model has moved from there.
    """
    place = _place(ledger)
    try:
        if place is None or not _own(place):
            return None
        record = json.loads(place.read_text(encoding="utf-8"))
        named, path = record["named"], record["path"]
        if not isinstance(named, str) or not isinstance(path, str) or not named:
            return None
        same = not path or str(Path(named).expanduser().resolve()) == path
        return named if same or not Path(path).exists() else path
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def _place(ledger: Ledger) -> Path | None:
    try:
        return default_dir() / FOLDER / f"{ledger.history.entries[0].hash}.json"
    except (OSError, RuntimeError):  # no home
        return None


def _own(file: Path) -> bool:
    """Whether `file` is a small file of this user: a cache directory may be shared."""
    about = file.stat()
    getuid = getattr(os, "getuid", None)
    mine = getuid is None or about.st_uid == getuid()
    return mine and file.is_file() and about.st_size <= LARGEST
