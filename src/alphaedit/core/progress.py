"""How long runs report what they have done."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total)."""


def silent(phase: str, done: int, total: int) -> None:
    """A Progress that says nothing."""
