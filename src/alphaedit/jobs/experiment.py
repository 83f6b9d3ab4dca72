"""Run an experiment, from where an earlier run of it stopped, and make its page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.bench.experiments.spec import Spec
from alphaedit.bench.experiments.store import RunDirectory
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.opening import Loading, quiet_libraries
from alphaedit.jobs.reporting import versions

if TYPE_CHECKING:
    from alphaedit.report.results import Results

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class ExperimentRequest(Loading):
    """An experiment, and where its results go.

    Attributes:
        spec: the experiment; see `alphaedit.bench.experiments.spec.load`.
        out: directory of results; a run that was stopped goes on from there.
        tolerance: how exact second moments are; see `Editor.from_pretrained`.
        cache_dir: where second moments are kept.
        command: for the manifest, what began it.
    """

    spec: Spec
    out: Path
    tolerance: float | None = None
    cache_dir: Path | None = None
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """What was measured.

    Attributes:
        request: what was asked for.
        directory: all rows, and the state of each run.
        page: the report.
        failed: runs that failed, and why.
    """

    request: ExperimentRequest
    directory: RunDirectory
    page: Path
    failed: Mapping[str, str]

    def results(self) -> Results:
        """The numbers, side by side as the report has them."""
        from alphaedit.report.results import read

        (results,) = read([self.directory.path])
        return results

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "directory": str(self.directory.path),
            "report": str(self.page),
            "rows": len(self.directory.rows()),
            "failed": dict(self.failed),
            "results": [
                {
                    "model": group.model,
                    "records": group.records,
                    "method": column.label,
                    "edits": column.edits,
                    **{name: rate.to_json() for name, rate in column.numbers.items()},
                }
                for group in self.results().groups
                for column in group.columns
            ],
        }


def run(
    request: ExperimentRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> ExperimentResult:
    """Run what is missing, and write the page.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; the same request goes on, and at most one batch is done again.
        wrote: is told of each output that is complete.

    Raises:
        Cancelled: `cancel` was set.
        DataError: `out` holds something else, or a data set is broken.
        ConfigError: the experiment cannot be run.
    """
    from alphaedit.bench.experiments import runner
    from alphaedit.report.experiment import report

    quiet_libraries()
    directory = runner.run(
        request.spec,
        request.out,
        about={"command": request.command, "versions": versions()},
        progress=watched(progress, cancel),
        **request.loading(),
        cache_dir=request.cache_dir,
        tolerance=request.tolerance,
    )
    page = report([request.out], request.out / PAGE)
    wrote(page)
    failed = {state["cell"]: state["error"] for state in directory.cells() if state.get("error")}
    return ExperimentResult(request=request, directory=directory, page=page, failed=failed)
