"""A command of ours: refuses values that no option means, whatever its type says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MOST = 2**31 - 1
"""Largest number of an option that names no limit of its own."""
NARROW, LEAST = 60, 20
"""Columns: below the first, help is plain; it is never set narrower than the second."""
EMPTY = "alphaedit.empty"


def _plain_help(command: Any, page: Callable[[Any, Any], None], ctx: Any, formatter: Any) -> None:
    """A help page; in narrow terminals in plain lines, as frames would leave no room for words."""
    from rich.console import Console
    from rich.text import Text

    columns = shutil.get_terminal_size().columns
    if min(columns, Console().width) >= NARROW:  # they differ where COLUMNS is 0
        page(ctx, formatter)
        return

    known = {name: getattr(command, name) for name in ("rich_markup_mode", "epilog")}
    formatter.width = max(columns, LEAST)
    try:
        command.rich_markup_mode = None
        command.epilog = Text.from_markup(known["epilog"] or "").plain
        page(ctx, formatter)
    finally:
        for name, value in known.items():
            setattr(command, name, value)


class Group(TyperGroup):
    """A group of commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        _plain_help(self, super().format_help, ctx, formatter)


class Command(TyperCommand):
    """Checks all values before the command runs.

    Whole numbers stay below 2**31 (unless the option has a limit of its own), numbers are finite,
    texts are UTF-8 without NUL, and paths are not empty.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for param in self.params:
            if param.metavar is None:
                param.metavar = _metavar(param)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        _plain_help(self, super().format_help, ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, and remember whether a value is empty: paths do not show it afterwards."""
        ctx.meta[EMPTY] = "." not in args and any(not arg or arg.endswith("=") for arg in args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Check, then run.

        Raises:
            BadParameter: a value is none of this.
        """
        param: Any
        for param in self.params:
            given = ctx.params.get(param.name or "")
            for value in given if isinstance(given, (list, tuple)) else (given,):
                problem = _problem(value, getattr(param, "max", None))
                if value == Path() and ctx.meta.get(EMPTY):
                    problem = "An empty path (is a variable of the shell not set?)."
                if problem:
                    raise typer.BadParameter(problem, ctx=ctx, param=param)
        return super().invoke(ctx)


def _metavar(param: Any) -> str | None:
    """How a number is called in help: N if it is whole, X if it need not be."""
    descriptor = getattr(param, "type_descriptor", None)
    if descriptor is not None:
        return {int: "N", float: "X"}.get(descriptor.annotation)
    # Older typer has click's types.
    return {"integer": "N", "float": "X"}.get(str(param.type.name).split(" ")[0])


def _problem(value: Any, most: float | None) -> str | None:
    """What is wrong with one value, if anything."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int) and most is None and abs(value) > MOST:
        return f"Numbers here are at most {MOST}."
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number."
    if isinstance(value, (str, Path)):
        text = str(value)
        if "\0" in text:
            return "A command line cannot hold a NUL character."
        if any("\ud800" <= char <= "\udfff" for char in text):
            # Weights below such a path could be written and never read.
            return "This is not UTF-8. Rename the file or directory, if it is one."
    if isinstance(value, Path):
        try:
            value.resolve()
        except (OSError, RuntimeError):  # which one depends on the version of Python
            return f"{value} is a link that leads to itself."
    return None
