"""Where the bundled models lie."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from alphaedit.core.errors import ConfigError, ModelError
from alphaedit.core.fact_text import short

if TYPE_CHECKING:
    from alphaedit.world.recipe import Recipe

NAMES = ("bundled", "bundled-small", "bundled-reader")
MADE_BY = {
    "bundled": "alphaedit world train bundled",
    "bundled-small": "alphaedit world train bundled-small",
    "bundled-reader": "alphaedit world train bundled-small --start bundled-small --seed 1",
}


def path(name: str) -> Path:
    """The directory of bundled model `name`, loadable by transformers.

    Raises:
        ModelError: there is no such model, or it is not part of this installation.
    """
    if name not in NAMES:
        raise ModelError(
            f"There is no bundled model {short(name)}.", remedy=f"Give {' or '.join(NAMES)}."
        )
    folder = Path(str(files("alphaedit.world") / "assets" / name))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"The bundled model {name!r} is not in this installation ({folder}).",
            remedy=f"Train it: {MADE_BY[name]} -o {folder}",
        )
    return folder


def trained(start: str, recipe: Recipe) -> Path:
    """The directory of a trained model that a recipe can go on from.

    Raises:
        ConfigError: it is none, or of another recipe.
    """
    folder = path(start) if start in NAMES else Path(start)
    about = folder / "world.json"
    if not about.is_file() or not (folder / "model.safetensors").is_file():
        raise ConfigError(
            f"{start} is no model that `alphaedit world train` has finished.",
            remedy=f"Give {' or '.join(NAMES)}, or the directory of a finished training.",
        )
    made_by = json.loads(about.read_text(encoding="utf-8"))["recipe"]
    shape = ("family", "layers", "width", "inner", "heads", "activation", "positions", "subjects")
    wanted = asdict(recipe)
    for field in shape:
        if made_by.get(field) != wanted[field]:
            raise ConfigError(
                f"{start} has {field} {made_by.get(field)}, and this recipe {wanted[field]}.",
                remedy="Go on with the recipe that it was trained by.",
            )
    return folder
