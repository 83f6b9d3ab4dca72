"""Where the bundled models lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from alphaedit.core.errors import ModelError

NAMES = ("bundled", "bundled-small")


def path(name: str) -> Path:
    """The directory of bundled model `name`, loadable by transformers.

    Raises:
        ModelError: the model is not part of this installation.
    """
    folder = Path(str(files("alphaedit.world") / "assets" / name))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The bundled model {name!r} is not in this installation ({folder}).",
            remedy=f"Train it: alphaedit world train {name} -o {folder}",
        )
    return folder
