"""Search along one hyperparameter after the other, within a budget, from a log if there is one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alphaedit.core.errors import AlphaEditError, Cancelled, ConfigError, ResourceError
from alphaedit.core.progress import Progress, silent
from alphaedit.tune.axes import Move, Values
from alphaedit.tune.pilot import Measured

GAIN = 0.002
"""A setting is better if its score is higher by this much: less is chance."""
ROUNDS = 3


@dataclass(frozen=True)
class Trial:
    """One setting and what it did; `error` says why it could not be used."""

    values: Values
    measured: Measured | None
    seconds: float
    error: str | None = None

    @property
    def score(self) -> float:
        """Of what was measured; 0 for what could not be used."""
        return self.measured.score if self.measured else 0.0


class Log:
    """Trials on disk, one a line, so that a search that was stopped goes on where it was.

    Args:
        path: file, made if it is not there.
        header: what the trials depend on; a file with another header is refused.

    Raises:
        ConfigError: the file holds the trials of another search.
        ResourceError: it cannot be read or written.
    """

    def __init__(self, path: Path | None, header: Mapping[str, Any]) -> None:
        self.path = path
        self.known: dict[str, Trial] = {}
        if path is None:
            return
        try:
            if path.is_file():
                self._read(path, header)
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(header)) + "\n", encoding="utf-8")
        except OSError as error:
            raise _cannot(path, error) from error

    def _read(self, path: Path, header: Mapping[str, Any]) -> None:
        # A line is whole once its line end is there: a run may have been killed while writing.
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        try:
            first, *rest = [json.loads(line) for line in whole.splitlines()] or [None]
        except json.JSONDecodeError:
            first, rest = None, []
        if first != json.loads(json.dumps(dict(header))):
            raise ConfigError(
                f"{path} holds the trials of another search (model, facts, method or settings "
                "differ).",
                remedy="Remove it, or write to another file.",
            )
        if whole != text:
            path.write_text(whole, encoding="utf-8")
        for row in rest:
            measured = row["measured"]
            made = Measured(**measured) if measured else None
            self.known[key(row["values"])] = Trial(
                row["values"], made, row["seconds"], row["error"]
            )

    def add(self, trial: Trial) -> None:
        """Keep a trial."""
        self.known[key(trial.values)] = trial
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(trial)) + "\n")
        except OSError as error:
            raise _cannot(self.path, error) from error


@dataclass(frozen=True)
class Found:
    """Result of a search.

    Attributes:
        start: the first setting.
        best: the best setting.
        trials: all, in the order they were first needed.
        finished: whether the search ended by itself and not by its budget.
    """

    start: Trial
    best: Trial
    trials: tuple[Trial, ...]
    finished: bool


class _Out(Exception):
    """The budget is used up."""


def search(
    start: Values,
    axes: Iterable[tuple[str, tuple[Move, ...]]],
    measure: Callable[[Values], Measured],
    *,
    log: Log,
    seconds: float | None = None,
    most: int | None = None,
    progress: Progress = silent,
) -> Found:
    """Improve `start` along each axis in turn, in a fixed order, until a round brings nothing.

    Args:
        measure: scores a setting.
        seconds: no trial is begun after so many; trials taken from the log cost nothing.
        most: most trials, those from the log included.
    """
    began = time.monotonic()
    trials: dict[str, Trial] = {}

    def trial(values: Values) -> Trial:
        name = key(values)
        if name in trials:
            return trials[name]
        if trials:
            if most is not None and len(trials) >= most:
                raise _Out
            late = seconds is not None and time.monotonic() - began >= seconds
            if late and name not in log.known:
                raise _Out
        progress("trials", len(trials), most or len(trials) + 1)
        if name not in log.known:
            log.add(_run(values, measure))
        # As given here: JSON knows no tuples.
        trials[name] = replace(log.known[name], values=values)
        return trials[name]

    lines = list(axes)
    first = best = trial(start)
    finished = True
    try:
        for _ in range(ROUNDS):
            before = best.score
            for _, moves in lines:
                for move in moves:
                    gained = False
                    while (changed := move(best.values)) is not None:
                        tried = trial(changed)
                        if tried.score < best.score + GAIN:
                            break
                        best, gained = tried, True
                    if gained:
                        break
            if best.score < before + GAIN:
                break
    except _Out:
        finished = False
    progress("trials", len(trials), len(trials))
    return Found(first, best, tuple(trials.values()), finished)


def _run(values: Values, measure: Callable[[Values], Measured]) -> Trial:
    began = time.monotonic()
    try:
        measured, error = measure(values), None
    except (ResourceError, Cancelled):
        raise
    except AlphaEditError as failure:
        measured, error = None, str(failure)
    return Trial(values, measured, round(time.monotonic() - began, 3), error)


def key(values: Mapping[str, Any]) -> str:
    """A setting as text, for comparison."""
    return json.dumps(dict(values), sort_keys=True, default=list)


def _cannot(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"Cannot keep trials in {path}: {error.strerror or error}.",
        remedy="Free some space, or choose another place.",
    )
