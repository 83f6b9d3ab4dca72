"""Where things lie that can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ALPHAEDIT_CACHE"


def default_dir() -> Path:
    """$ALPHAEDIT_CACHE, or alphaedit under the user's cache directory."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alphaedit"
