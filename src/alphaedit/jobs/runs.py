"""Runs that somebody has asked for: what each is at, what came of it, and how it is stopped."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alphaedit.core.errors import AlphaEditError, Cancelled, unknown_name
from alphaedit.jobs.cancel import Cancel

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
OVER = (DONE, FAILED, CANCELLED)
MOST = 100
"""Runs that are listed; the oldest that are over go first."""


@dataclass
class Phase:
    """One phase of a run, as it is told by `core.progress`."""

    name: str
    done: int
    total: int


@dataclass
class Run:
    """Something that was asked for, and what became of it.

    Attributes:
        id: its name.
        kind: what is done, such as "preview".
        title: the same for people.
        command: the command line that does the same; empty if there is none.
        asked: what was asked for, JSON values.
        state: waiting, running, done, failed or cancelled.
        phases: what it is at, in the order in which they began.
        notes: warnings that came meanwhile.
        partial: what is known of the result already, JSON values.
        result: JSON values, once it is done.
        error: message and remedy, if it failed.
        created: seconds since 1970; so are began and ended, None until then.
        revision: of the list of runs when this one last changed.
    """

    kind: str
    title: str
    asked: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    state: str = WAITING
    phases: list[Phase] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    partial: Any = None
    result: Any = None
    error: dict[str, Any] | None = None
    created: float = field(default_factory=time.time)
    began: float | None = None
    ended: float | None = None
    revision: int = 0
    cancel: Cancel = field(default_factory=Cancel)

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in OVER


class Runs:
    """The runs of a session; whoever watches them waits for the next revision."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: dict[str, Run] = {}
        self.revision = 0

    def add(self, run: Run) -> Run:
        """List a run; the oldest that are over go, if there are too many."""
        with self._changed:
            self._runs[run.id] = run
            ended = [known.id for known in self._runs.values() if known.over]
            for gone in ended[: max(0, len(self._runs) - MOST)]:
                del self._runs[gone]
            self._touch(run)
        return run

    def get(self, name: str) -> Run:
        """A run by its id.

        Raises:
            UnknownNameError: there is none.
        """
        with self._changed:
            if name in self._runs:
                return self._runs[name]
            raise unknown_name("run", name, list(self._runs)[-5:])

    def change(self, run: Run, do: Callable[[Run], None]) -> None:
        """Change a run, and tell those who wait."""
        with self._changed:
            do(run)
            self._touch(run)

    def _touch(self, run: Run) -> None:
        self.revision += 1
        run.revision = self.revision
        self._changed.notify_all()

    def touch(self) -> None:
        """Tell those who wait that something else has changed, such as the ledger."""
        with self._changed:
            self.revision += 1
            self._changed.notify_all()

    def report(self, run: Run, phase: str, done: int, total: int) -> None:
        """Take note of progress.

        Raises:
            Cancelled: the run is to stop.
        """
        run.cancel.check()

        def note(run: Run) -> None:
            for known in run.phases:
                if known.name == phase:
                    known.done, known.total = done, total
                    return
            run.phases.append(Phase(phase, done, total))

        self.change(run, note)

    def stop(self, name: str) -> Run:
        """Ask a run to stop; one that waits is over at once.

        Raises:
            UnknownNameError: there is none.
        """
        run = self.get(name)
        run.cancel.set()

        def end(run: Run) -> None:
            if run.state == WAITING:
                run.state, run.ended = CANCELLED, time.time()

        self.change(run, end)
        return run

    def listed(self, since: int = 0) -> tuple[int, list[dict[str, Any]]]:
        """The revision, and the runs that have changed since another one, oldest first."""
        with self._changed:
            rows = [brief(run) for run in self._runs.values() if run.revision > since]
            return self.revision, rows

    def whole(self, name: str) -> dict[str, Any]:
        """All that is known of a run, JSON values.

        Raises:
            UnknownNameError: there is none.
        """
        run = self.get(name)
        with self._changed:
            return {
                **brief(run),
                "asked": dict(run.asked),
                "partial": run.partial,
                "result": run.result,
            }

    def end(self, run: Run, result: Any = None, error: BaseException | None = None) -> None:
        """Close a run."""

        def close(run: Run) -> None:
            run.ended = time.time()
            if isinstance(error, Cancelled):
                run.state, run.error = CANCELLED, told(error)
            elif error is not None:
                run.state, run.error = FAILED, told(error)
            else:
                run.state, run.result = DONE, result

        self.change(run, close)


def told(error: BaseException) -> dict[str, Any]:
    """An error as JSON values: its kind, what is wrong, and what to do."""
    kind = type(error).__name__
    if isinstance(error, AlphaEditError):
        more = " ".join(getattr(error, "__notes__", ()))
        return {
            "type": kind,
            "message": error.message,
            "remedy": " ".join(filter(None, (more, error.remedy))) or None,
        }
    return {
        "type": kind,
        "message": f"{kind}: {error}",
        "remedy": "This is a bug of alphaedit; the server's log has more.",
    }


def brief(run: Run) -> dict[str, Any]:
    """What a list of runs shows of one, JSON values."""
    return {
        "id": run.id,
        "kind": run.kind,
        "title": run.title,
        "command": run.command,
        "state": run.state,
        "phases": [vars(phase) | {} for phase in run.phases],
        "notes": list(run.notes),
        "error": run.error,
        "created": run.created,
        "began": run.began,
        "ended": run.ended,
        "has_partial": run.partial is not None,
    }
