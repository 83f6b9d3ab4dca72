"""What experiments measure, by name: each gives numbers, and may keep texts or points beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import Rate
from alphaedit.core.errors import unknown_name
from alphaedit.core.progress import Progress, silent
from alphaedit.editor.session import Editor

Numbers = dict[str, Rate | float | int | None]
Probes = Sequence[tuple[str, str]]


@dataclass
class Context:
    """A model at one moment of a run, and what it is measured on.

    Attributes:
        records: those edited so far, or the sample of them that is measured.
        coming: all records of the run.
        kept: (prompt, answer) of facts that are not edited.
        layer: the last edited layer.
        before: what a measure kept of the unedited model, by measure.
    """

    editor: Editor
    records: Sequence[EditRecord]
    coming: Sequence[EditRecord]
    kept: Probes
    layer: int
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    progress: Progress = silent


@dataclass(frozen=True)
class Outcome:
    """Numbers by metric, and what is kept beside them as JSON values."""

    numbers: Numbers
    extra: Mapping[str, Any] | None = None


class Measure(Protocol):
    """Something that can be measured; `before` sees the unedited model at the start of a run."""

    def before(self, context: Context) -> Any:
        """What to remember of the unedited model."""

    def now(self, context: Context) -> Outcome:
        """Measure the model as it is."""


class _Plain:
    """A measure that needs nothing of the unedited model."""

    def __init__(self, now: Callable[[Context], Outcome]) -> None:
        self._now = now

    def before(self, context: Context) -> Any:
        """Nothing."""
        return None

    def now(self, context: Context) -> Outcome:
        """See Measure."""
        return self._now(context)


def measures() -> dict[str, Measure]:
    """All measures by name."""
    from alphaedit.bench.experiments import measuring

    return dict(measuring.MEASURES)


def get_measure(name: str) -> Measure:
    """The measure called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    known = measures()
    if name not in known:
        raise unknown_name("measure", name, list(known))
    return known[name]
