"""Progress bars on standard error, in terminals and notebooks; gone when the work is done."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console


class Bars:
    """A Progress that draws a bar for each phase under way.

    The display begins with the first phase that is not done and ends with the last one, or with
    `close` where work was broken off. Also a context manager.

    Args:
        console: where to draw; by default standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._shown: Any = None
        self._tasks: dict[str, Any] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of a phase are done."""
        if phase in self._tasks and done >= total:
            self._shown.remove_task(self._tasks.pop(phase))
            if not self._tasks:
                self.close()
        elif phase in self._tasks:
            self._shown.update(self._tasks[phase], completed=done, total=total)
        elif done < total:
            if self._shown is None:
                self._shown = self._display()
                self._shown.start()
            self._tasks[phase] = self._shown.add_task(phase, completed=done, total=total)

    def _display(self) -> Any:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Display

        return Display(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console or Console(stderr=True),
            transient=True,
        )

    def close(self) -> None:
        """End the display; it begins anew with the next phase."""
        if self._shown is not None:
            self._shown.stop()
        self._shown = None
        self._tasks.clear()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *trace: object) -> None:
        self.close()


def watched() -> bool:
    """Whether somebody sees standard error: a terminal, or a notebook."""
    if "ipykernel" in sys.modules:
        return True
    try:
        return bool(sys.stderr.isatty())
    except (AttributeError, ValueError):  # replaced, or closed
        return False


def as_progress(progress: Progress | bool | None) -> Progress:
    """What `progress=` asks for: bars (True), nothing (False), bars if watched (None), or itself.

    Raises:
        ConfigError: it is none of these.
    """
    if progress is None:
        progress = watched()
    if isinstance(progress, bool):
        return Bars() if progress else silent
    if not callable(progress):
        raise ConfigError(
            f"progress is {type(progress).__name__}.",
            remedy="Give True, False, or a function of (phase, done, total).",
        )
    return progress


def close(progress: Progress) -> None:
    """End what is drawn, after work that may have been broken off."""
    if isinstance(progress, Bars):
        progress.close()
