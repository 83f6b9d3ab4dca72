"""Presets: hyperparameters of all methods for one model, by name or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from os.path import exists
from pathlib import Path
from typing import Any

import yaml

from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.files import write_text
from alphaedit.core.marks import YAML
from alphaedit.core.parsing import YAML_LIMIT, Broken, parse_yaml
from alphaedit.core.reading import read_text
from alphaedit.methods.config import build

ENDINGS = (".yaml", ".yml")
FIELDS = ("source", "transferred", "planned", "from_edits", "match", "all", "methods", "measured")
KINDS: Mapping[str, tuple[type, str]] = {
    "source": (str, "text"),
    "transferred": (str, "text"),
    "planned": (int, "number"),
    "from_edits": (int, "number"),
}
_REMEDY = "Give a file that `alphaedit tune` wrote, or the name of a preset."


def presets() -> Mapping[str, Mapping[str, Any]]:
    """The package's presets by name, as plain data."""
    text = (files("alphaedit.methods") / "presets.yaml").read_text(encoding="utf-8")
    data: Mapping[str, Mapping[str, Any]] = yaml.safe_load(text)
    return data


def entry(name: str) -> Mapping[str, Any]:
    """One preset: a name of the package's own, or a file that ends in .yaml or .yml.

    Raises:
        UnknownNameError: there is no preset of that name.
        ConfigError: the file is missing or is no preset.
    """
    if name.lower().endswith(ENDINGS):
        return read_preset(Path(name).expanduser())
    data = presets()
    if name not in data:
        raise unknown_name("preset", name, list(data))
    return data[name]


def preset(name: str, method: str, *, shared: bool = True) -> dict[str, Any]:
    """The values that preset `name` gives to `method`; with `shared` also those for all methods.

    Raises:
        UnknownNameError: there is no preset of that name.
        ConfigError: its file is missing or is no preset.
    """
    content = entry(name)
    return {
        **(content.get("all", {}) if shared else {}),
        **content.get("methods", {}).get(method, {}),
    }


def matching(facts: Mapping[str, Any], *, method: str = "", edits: int = 0) -> str | None:
    """Name of the package's preset whose `match` fits what is known of a model, if any.

    Two kinds are used only where they are asked for by name: those `transferred` from another
    model, as what a model shows in trial edits of its own is better than what nobody has tried on
    it; and those for many edits (`planned`), which serve few edits worse. One of these that says
    from how many edits on it is the better (`from_edits`) is used for so many by the methods that
    it names.

    Args:
        method: by its name.
        edits: how many facts it is about to edit.
    """
    for name, known in presets().items():
        if "transferred" in known:
            continue
        many = method in known.get("methods", ()) and edits >= known.get("from_edits", edits + 1)
        if "planned" in known and not many:
            continue
        match: Mapping[str, Any] = known.get("match", {})
        if match and all(facts.get(key) == value for key, value in match.items()):
            return name
    return None


def read_preset(path: Path) -> dict[str, Any]:
    """The preset in a file.

    Raises:
        ConfigError: it is missing, no regular file, not YAML, or has a field that presets do not
            have; the message names file and field.
    """
    if not exists(path):
        raise ConfigError(f"There is no preset file {path}.", remedy=_REMEDY)
    text = read_text(path, error=ConfigError, what="Preset file", limit=YAML_LIMIT)
    try:
        data = parse_yaml(text)
    except Broken as error:
        where = f"{path}, line {error.line}," if error.line else f"{path}"
        raise ConfigError(f"{where} is not YAML: {error.problem}.", remedy=_REMEDY) from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no preset.", remedy=_REMEDY)
    for field, value in data.items():
        if field not in FIELDS:
            raise unknown_name(f"field in {path}", str(field), FIELDS)
        wanted, kind = KINDS.get(field, (dict, "mapping"))
        if not isinstance(value, wanted):
            raise ConfigError(f"{path}: field {field!r} is not a {kind}.", remedy=_REMEDY)
    methods = data.get("methods", {})
    for method, values in methods.items():
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: methods.{method} is not a mapping.", remedy=_REMEDY)
    shared = data.get("all", {})
    # Here: the names of presets are known without PyTorch, which methods import.
    from alphaedit.methods.registry import config_of, get_method

    if not any("layers" in values for values in (shared, *methods.values())):
        if shared or not methods or any(get_method(m).needs.layers != "none" for m in methods):
            raise ConfigError(f"{path} names no layers to edit.", remedy=_REMEDY)
    build({"layers": (0,), **shared}, f"{path}, all")
    for method, values in methods.items():
        build({"layers": (0,), **shared, **values}, f"{path}, {method}", config_of(method))
    return data


def write_preset(path: Path, data: Mapping[str, Any], comment: str) -> None:
    """Write a preset that `read_preset` reads, `comment` on top.

    Raises:
        ResourceError: it cannot be written; what was there is kept.
    """
    head = YAML + "".join(f"# {line}\n" for line in comment.splitlines())
    body = yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, width=100)
    write_text(head + body, path)
