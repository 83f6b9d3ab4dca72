"""Arguments of callers: of the kind that is meant, or explained."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from alphaedit.core.errors import ConfigError

T = TypeVar("T")


def shown(value: object) -> str:
    """A value and its kind, short enough for a sentence."""
    try:
        text = repr(value)
    except Exception:  # a foreign object's own mistake, or a number of too many digits
        text = "a value"
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"{text[:40]}{'...' if len(text) > 40 else ''} ({type(value).__name__})"


def as_text(name: str, value: Any) -> str:
    """`value`, if it is a text that can be written.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} is {shown(value)}.", remedy="Give a text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(
            f"{name} holds half of a character (a lone surrogate): {shown(value)}.",
            remedy="Give a text in UTF-8.",
        ) from None
    return value


def as_path(name: str, value: Any) -> Path:
    """`value` as a path, if it can be one.

    Raises:
        ConfigError: it cannot.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ConfigError(f"{name} is {shown(value)}.", remedy="Give a path.")
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        raise ConfigError(f"{name} is {shown(value)}.", remedy="Give a path.") from None
    return Path(value)


def as_flag(name: str, value: Any) -> bool:
    """`value`, if it is True or False.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {shown(value)}.", remedy="Give True or False.")
    return value


def as_count(name: str, value: Any, least: int = 1) -> int:
    """`value`, if it is a whole number of at least `least`.

    Raises:
        ConfigError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ConfigError(
            f"{name} is {shown(value)}.", remedy=f"Give a whole number of at least {least}."
        )
    return value


def as_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """`value`, if it is a finite number between `low` and `high`.

    Raises:
        ConfigError: it is not.
    """
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        if fits and math.isfinite(value) and low <= value <= high:
            return float(value)
    except OverflowError:
        pass
    between = f" from {low:g} to {high:g}" if math.isfinite(low) or math.isfinite(high) else ""
    raise ConfigError(f"{name} is {shown(value)}.", remedy=f"Give a number{between}.")


def each_of(name: str, values: Any, kind: type[T]) -> list[T]:
    """`values` as a list, if all of them are of that kind.

    Raises:
        ConfigError: they are not several, or one is of another kind.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} is {shown(values)}.", remedy=f"Give a list of {kind.__name__}s.")
    items = list(values)
    for value in items:
        if not isinstance(value, kind):
            raise ConfigError(
                f"{name} holds {shown(value)}.", remedy=f"Give a list of {kind.__name__}s."
            )
    return items
