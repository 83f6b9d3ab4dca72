"""Measure what a model can do besides facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.opening import Opening

if TYPE_CHECKING:
    from alphaedit.bench.ability import Result, Task
    from alphaedit.editor.session import Editor


@dataclass(frozen=True, kw_only=True)
class AbilityRequest(Opening):
    """Tasks to measure a model on.

    Attributes:
        edits: apply the edits in force in this ledger first.
        data: directory of the published tasks; by default the bundled models' own tasks.
        tasks: only these, by name.
        harness: tasks of lm-evaluation-harness instead, by name.
        count: questions of each task.
        shots: examples in front of each question.
        limit: questions of each harness task.

    Raises:
        ConfigError: tasks of both kinds.
    """

    edits: Path | None = None
    data: Path | None = None
    tasks: Sequence[str] = ()
    harness: Sequence[str] = ()
    count: int = 100
    shots: int = 4
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.harness and (self.data or self.tasks):
            raise ConfigError(
                "--harness has tasks of its own.", remedy="Leave --data and --tasks out."
            )


@dataclass(frozen=True, kw_only=True)
class AbilityResult:
    """What was measured.

    Attributes:
        request: what was asked for.
        editor: the model with the edits.
        tasks: scores by task; none with a harness.
        harness: metrics by task of the harness.
    """

    request: AbilityRequest
    editor: Editor = field(repr=False)
    tasks: Mapping[str, Result]
    harness: Mapping[str, Mapping[str, float]]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        if self.request.harness:
            return {"model": self.request.model, "harness": dict(self.harness)}
        return {
            "model": self.request.model,
            "edits": [edit.id for edit in self.editor.edits],
            "tasks": {
                name: {"f1": r.f1.to_json(), "accuracy": r.accuracy, "unread": r.unread}
                for name, r in self.tasks.items()
            },
            "seed": self.request.seed,
        }


def run(
    request: AbilityRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> AbilityResult:
    """Ask the questions of each task.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it.
        wrote: nothing is written.

    Raises:
        Cancelled: `cancel` was set.
        UnknownNameError: no such task.
        DataError: the published tasks cannot be read.
    """
    from alphaedit.bench.ability import harness_scores, run_task

    progress = watched(progress, cancel)
    made = _published(request) if request.data else None
    editor = request.open(progress, ledger=request.edits)
    if request.harness:
        scores = harness_scores(editor.handle, list(request.harness), limit=request.limit)
        return AbilityResult(request=request, editor=editor, tasks={}, harness=scores)
    if made is None:
        made = _of_world(request, editor)
    results = {task.name: run_task(editor.handle, task, progress=progress) for task in made}
    return AbilityResult(request=request, editor=editor, tasks=results, harness={})


def _published(request: AbilityRequest) -> list[Task]:
    from alphaedit.bench.ability import FORMS, published_tasks

    assert request.data is not None
    for name in request.tasks:
        if name not in FORMS:
            raise unknown_name("task", name, list(FORMS))
    chosen = list(request.tasks or FORMS)
    return published_tasks(
        request.data, chosen, count=request.count, shots=request.shots, seed=request.seed
    )


def _of_world(request: AbilityRequest, editor: Editor) -> list[Task]:
    from alphaedit.bench.ability import world_tasks

    made = world_tasks(editor.handle, count=request.count, seed=request.seed)
    known = [task.name for task in made]
    for name in request.tasks:
        if name not in known:
            raise unknown_name("task", name, known)
    return [task for task in made if not request.tasks or task.name in request.tasks]
