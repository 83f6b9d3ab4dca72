"""What commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import codecs
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from alphaedit.core.text import in_encoding, json_visible, visible

if TYPE_CHECKING:
    from rich.console import Console

    from alphaedit.cli.console import SafeConsole
    from alphaedit.core.progress import Progress

R = TypeVar("R")

FAILED = 1
"""Exit code of a command that could not do all it was asked for."""

LINE_EVERY = 15.0
"""Seconds between lines of progress where standard error is no terminal."""

INSTEAD = "alphaedit.instead"
"""Name of the way in which streams write what their encoding does not have."""

WIDTH = 120
"""Columns of standard output where it is no terminal."""


class Outcome(dict[str, Any]):
    """A command's result that is to be printed, and an exit code other than 0."""

    def __init__(self, result: dict[str, Any], *, code: int) -> None:
        super().__init__(result)
        self.code = code


class Started(dict[str, Any]):
    """A result that is told at once, and what the command goes on with until it is stopped."""

    def __init__(self, result: dict[str, Any], go_on: Callable[[], None]) -> None:
        super().__init__(result)
        self.go_on = go_on


class Interruption(Exception):
    """Ctrl-C, with a sentence on what it left behind."""

    NOTHING = "Nothing was changed: files are written whole at the end, or not at all."

    def __init__(self, note: str = NOTHING) -> None:
        super().__init__(note)
        self.note = note


def error_console() -> SafeConsole:
    """Standard error as a rich console."""
    from alphaedit.cli.console import SafeConsole

    return SafeConsole(stderr=True)


def output_console() -> SafeConsole:
    """Standard output as a rich console, wide enough for tables when it is no terminal."""
    from alphaedit.cli.console import SafeConsole

    console = SafeConsole()
    unknown = not console.is_terminal and "COLUMNS" not in os.environ
    if unknown or console.width < 1:
        console = SafeConsole(width=WIDTH)
    return console


def to_json(data: Any, indent: int | None = None) -> str:
    """`data` as JSON; what is neither number nor infinity becomes null.

    Characters that would act on a terminal stand there as JSON's escapes.
    """
    text = json.dumps(_finite(data), indent=indent, ensure_ascii=False, allow_nan=False)
    return json_visible(text)


def lenient(stream: Any) -> None:
    """Let a stream write what its encoding does not have otherwise, instead of failing."""

    def instead(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return in_encoding(error.object[error.start : error.end], error.encoding), error.end

    codecs.register_error(INSTEAD, instead)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors=INSTEAD)


def print_json(data: Any) -> None:
    """Print one JSON object on standard output, in ASCII where its encoding has no more."""
    text = to_json(data)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(json.loads(text))
    print(text, flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


class Session:
    """One command's output: progress, notes, and what it has written so far.

    Attributes:
        json: whether the result is to be JSON; then nothing else is printed.
        written: files and directories that are complete.
    """

    def __init__(self, *, json: bool, quiet: bool) -> None:
        self.json = json
        self.quiet = quiet
        self.written: list[Path] = []

    def say(
        self, *things: Any, style: str | None = None, end: str = "\n", lines: bool = False
    ) -> None:
        """Print on standard output, unless the result is to be JSON.

        Args:
            things: texts and tables, each in lines of its own.
            style: of all of them.
            end: what follows each.
            lines: texts may have several lines.
        """
        if self.json:
            return
        from rich.text import Text

        console = output_console()
        for thing in things:
            whole = isinstance(thing, (str, Text))  # a terminal wraps it, so that it can be copied
            console.print(thing, style=style, end=end, lines=lines, soft_wrap=whole)

    def run(
        self, job: Callable[..., R], request: object, *, note: str | None = None, **more: Any
    ) -> R:
        """Run a job, with progress; Ctrl-C tells what was written, or `note`.

        Args:
            job: the function `run` of a module of `alphaedit.jobs`.
            request: what it is asked for.
            note: what Ctrl-C leaves behind.
            more: other arguments of the job.
        """
        with self.progress(note) as progress:
            return job(request, progress=progress, wrote=self.wrote, **more)

    def wrote(self, path: Path) -> None:
        """Remember that `path` is complete."""
        self.written.append(path)

    @contextmanager
    def progress(self, note: str | None = None) -> Iterator[Progress]:
        """Progress on standard error; Ctrl-C inside tells what was written, or `note`."""
        try:
            with _shown(self.quiet) as report:
                yield report
        except KeyboardInterrupt as stop:
            if note is None and self.written:
                done = ", ".join(str(path) for path in self.written)
                note = f"Complete: {done}. Nothing else was written."
            raise Interruption(note or Interruption.NOTHING) from stop


@contextmanager
def _shown(quiet: bool) -> Iterator[Progress]:
    console = error_console()
    if quiet:
        yield lambda phase, done, total: None
    elif console.is_terminal:
        with _bars(console) as report:
            yield report
    else:
        yield _lines(console)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase in tasks and done >= total:
                bars.remove_task(tasks.pop(phase))
            elif phase in tasks:
                bars.update(tasks[phase], completed=done, total=total)
            elif done < total:
                tasks[phase] = bars.add_task(phase, completed=done, total=total)

        yield report


def _lines(console: Console) -> Callable[[str, int, int], None]:
    last = time.monotonic()
    began: dict[str, tuple[float, int]] = {}

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if phase not in began or done < began[phase][1]:
            began[phase] = (now, done)
        if now - last >= LINE_EVERY:
            last = now
            start, first = began[phase]
            left = ""
            if done > first:
                seconds = (now - start) / (done - first) * (total - done)
                left = f", about {seconds:.0f} s left"
            console.print(f"{phase}: {done} of {total}{left}", markup=False, highlight=False)

    return report


def shorten(text: str, length: int = 40) -> str:
    """One line of at most `length` characters, as it is shown."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"
