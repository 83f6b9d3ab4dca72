"""Stopping a job from outside, between two of its steps."""

from __future__ import annotations

from threading import Event

from alphaedit.core.errors import Cancelled
from alphaedit.core.progress import Progress


class Cancel:
    """A switch that whoever started a job may set, from any thread."""

    def __init__(self) -> None:
        self._wanted = Event()

    def set(self) -> None:
        """Ask the job to stop."""
        self._wanted.set()

    def check(self) -> None:
        """Stop here if that is wanted.

        Raises:
            Cancelled: it is.
        """
        if self._wanted.is_set():
            raise Cancelled(
                "The job was cancelled.",
                remedy="What it had recorded or written before is complete; the rest was not done.",
            )


def watched(progress: Progress, cancel: Cancel | None) -> Progress:
    """Progress that stops the job at its next report, once that is wanted."""
    if cancel is None:
        return progress
    switch = cancel

    def report(phase: str, done: int, total: int) -> None:
        switch.check()
        progress(phase, done, total)

    return report
