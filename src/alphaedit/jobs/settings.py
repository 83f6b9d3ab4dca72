"""Methods and their settings, as a form shows them and takes them back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.model.handle import ModelHandle

_LAYER = re.compile("[0-9]{1,4}")
HIDDEN = ("project",)
"""Settings that stand for others."""


def numbers(text: str) -> tuple[int, ...]:
    """Layers as typed: "3,4,5", "3-5" or "[3, 4, 5]".

    Raises:
        ConfigError: `text` is none of these.
    """
    wrong = ConfigError(
        f"Layers {text[:60]!r} are not numbers.", remedy="Write layers as 3,4,5 or 3-5."
    )
    chosen: list[int] = []
    for part in text.strip("[]() ").split(","):
        first, dash, last = (piece.strip() for piece in part.strip().partition("-"))
        ends = [first, last] if dash else [first]
        if not all(_LAYER.fullmatch(end) for end in ends):
            raise wrong
        chosen += range(int(first), int(ends[-1]) + 1)
    if not chosen:
        raise wrong
    return tuple(sorted(set(chosen)))


def settings_of(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method from the texts of a form; what is empty is left out.

    Raises:
        ConfigError: a name is unknown, or a value impossible.
        UnknownNameError: no such method.
    """
    from alphaedit.methods.config import build
    from alphaedit.methods.plugin import make
    from alphaedit.methods.registry import get_method

    config = get_method(method).config
    given: dict[str, Any] = {}
    for name, value in values.items():
        text = value.strip() if isinstance(value, str) else value
        if text in ("", None):
            continue
        if name == "layers" and isinstance(text, str):
            text = numbers(text)
        elif name == "plugins" and isinstance(text, str):
            text = tuple(part.strip() for part in text.split() if part.strip())
        given[name] = text
    for spec in given.get("plugins", ()):
        make(spec)
    built = build({"layers": (0,), **given}, f"settings of {method}", config)
    return {name: getattr(built, name) for name in given}


def methods_for(handle: ModelHandle) -> list[dict[str, Any]]:
    """All methods with their settings, and what the model's preset gives: JSON values."""
    from alphaedit.locate.preset import matching
    from alphaedit.methods.presets import entry
    from alphaedit.methods.registry import methods

    name = matching(handle)
    content = entry(name) if name else {}
    rows = []
    for method in methods().values():
        shared = content.get("all", {}) if method.needs.target_search else {}
        values = {**shared, **content.get("methods", {}).get(method.name, {})}
        rows.append(
            {
                "name": method.name,
                "title": method.title,
                "paper": method.paper,
                "summary": method.summary,
                "chat_template": method.needs.chat_template,
                "trained_network": method.needs.trained_network,
                "settings": _fields(method.config.model_json_schema(), values),
            }
        )
    return rows


def _fields(schema: Mapping[str, Any], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of a schema of pydantic's, each with its help and usual value."""
    rows = []
    for name, about in schema["properties"].items():
        if name in HIDDEN:
            continue
        choices = [part for part in about.get("anyOf", [about]) if part.get("type") != "null"]
        kind: Mapping[str, Any] = next(iter(choices), {})
        rows.append(
            {
                "name": name,
                "help": about.get("description", ""),
                "type": kind.get("type", "string"),
                "choices": kind.get("enum"),
                "least": kind.get("minimum", kind.get("exclusiveMinimum")),
                "most": kind.get("maximum", kind.get("exclusiveMaximum")),
                "usual": values.get(name, about.get("default")),
                "from_preset": name in values,
            }
        )
    return rows
