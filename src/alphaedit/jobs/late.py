"""What a job writes at its end: each by itself, as the work would be lost otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alphaedit.core.errors import Cancelled

Wrote = Callable[[Path], None]
"""Called with each file or directory as soon as it is complete."""


def untold(path: Path) -> None:
    """A Wrote that tells nobody."""


class Late:
    """Writes outputs one after the other, and goes on where one fails.

    Attributes:
        failed: what could not be written, by name, and why.
    """

    def __init__(self, wrote: Wrote) -> None:
        self.wrote = wrote
        self.failed: dict[str, Exception] = {}

    def write(self, name: str, path: Path | None, make: Callable[[Path], object]) -> Path | None:
        """Write one output; its path, or None if it was not asked for or failed."""
        if path is None:
            return None
        try:
            make(path)
        except Cancelled:
            raise
        except Exception as error:  # whatever it is: the work is done, and is to be told
            self.failed[name] = error
            return None
        self.wrote(path)
        return path
