"""Files written whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
