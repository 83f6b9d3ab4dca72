"""The studio: one loaded model that people ask, edit and look into, and the runs that do so."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import (
    AlphaEditError,
    AlphaEditWarning,
    ConfigError,
    LedgerError,
    ResourceError,
    StoppingError,
)
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.opening import Opening
from alphaedit.jobs.runs import RUNNING, Run, Runs
from alphaedit.jobs.serve import LOG, ServeRequest, Service
from alphaedit.jobs.timeline import Timeline
from alphaedit.ledger.known import remember
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor
    from alphaedit.jobs.preview import PreviewResult
    from alphaedit.stats.drift import HeldOut

BASE, EDITED = "base", "edited"
PREVIEWS = 4
"""Previews that may still be kept; the oldest go first."""
Work = Callable[[Run, Progress], Any]


@dataclass(frozen=True, kw_only=True)
class StudioRequest(Opening):
    """What is opened.

    Attributes:
        ledger: directory of the ledger that is worked on; it is begun with the first edit.
        folder: below it the page may write exports.
        results: directory of results of experiments that are shown.
        max_new_tokens: most tokens of an answer.
        held_out_tokens: how much text drift is measured on.
    """

    ledger: Path
    folder: Path = field(default_factory=Path.cwd)
    results: Path | None = None
    max_new_tokens: int = 512
    held_out_tokens: int = 4096

    def check(self) -> None:
        """Refuse what cannot be opened; no model is loaded for it.

        Raises:
            LedgerError: the ledger is broken.
            ConfigError: a directory is none.
        """
        if Ledger.at(self.ledger):
            Ledger(self.ledger)
        elif self.ledger.exists() and not self.ledger.is_dir():
            raise ConfigError(f"{self.ledger} is no directory.", remedy="Give another one.")
        for name, path in (("exports", self.folder), ("results", self.results)):
            if path is not None and not path.is_dir():
                raise ConfigError(f"--{name}: {path} is no directory.", remedy="Make it first.")


class Studio(Service):
    """A service that also edits: requests of the page, and runs, one after the other.

    One thread owns the model. It answers what is asked, and between that does one run at a time;
    each leaves the model as it was. Only the ledger lasts: `keep` writes there, if it is still as
    it was when the preview began.

    Attributes:
        editor: the model; for the thread that owns it.
        runs: what was asked for, and what became of it.
        timeline: of the ledger.
        opened: what was asked for at the start.
    """

    def __init__(self, editor: Editor, request: StudioRequest) -> None:
        self.opened, self.editor = request, editor
        self.runs = Runs()
        self.timeline = Timeline(request.ledger)
        begun = {EDITED: request.ledger} if Ledger.at(request.ledger) else {}
        super().__init__(
            editor,
            ServeRequest(
                model=request.model,
                name=BASE,
                ledgers=begun,
                seed=request.seed,
                max_new_tokens=request.max_new_tokens,
            ),
        )
        if not begun:
            self.models.give(EDITED, [])
        self.timeline.know(edit for edit, _ in self.models.edits(EDITED))
        self._previews: dict[str, PreviewResult] = {}
        self._writing = threading.Lock()
        self._held_out: HeldOut | None = None
        self._well_known: list[tuple[str, str, str]] | None = None

    def start(
        self,
        kind: str,
        title: str,
        work: Work,
        *,
        asked: Mapping[str, Any] | None = None,
        command: str = "",
    ) -> Run:
        """List a run, to be done when its turn comes.

        Raises:
            StoppingError: the studio is closing.
        """
        run = self.runs.add(Run(kind, title, asked or {}, command))
        try:
            self.call(partial(self._do, run, work))
        except StoppingError as error:
            self.runs.end(run, error=error)
            raise
        return run

    def _do(self, run: Run, work: Work) -> None:
        """Do a run in the thread that owns the model, and close it whatever happens."""
        if run.over:
            return

        def begin(run: Run) -> None:
            run.state, run.began = RUNNING, time.time()

        self.runs.change(run, begin)
        try:
            with warnings.catch_warnings(record=True) as given:
                warnings.simplefilter("always")
                try:
                    result = work(run, partial(self.runs.report, run))
                finally:
                    texts = [
                        str(warning.message)
                        for warning in given
                        if issubclass(warning.category, AlphaEditWarning)
                    ]
                    run.notes = list(dict.fromkeys(texts))
            self.runs.end(run, result)
        except AlphaEditError as error:
            self.runs.end(run, error=error)
        except BaseException as error:  # whatever it is: the next run must be done
            LOG.exception("a run failed")
            self.runs.end(run, error=_failure(error))

    def partly(self, run: Run, partial: Any) -> None:
        """Tell what is known of a run's result so far."""
        run.cancel.check()

        def note(run: Run) -> None:
            run.partial = partial

        self.runs.change(run, note)

    def held_out(self, progress: Progress) -> HeldOut:
        """Held-out text and what the unedited model predicts on it; for runs."""
        from alphaedit.stats.drift import held_out

        if self._held_out is None:
            progress("held-out text", 0, 1)
            with self.models.lent([]):
                self._held_out = held_out(
                    self.editor.handle, seed=self.opened.seed, tokens=self.opened.held_out_tokens
                )
            progress("held-out text", 1, 1)
        return self._held_out

    def well_known(self, progress: Progress) -> list[tuple[str, str, str]] | None:
        """Facts that the unedited model says; None for bundled models; for runs."""
        if self.editor.handle.is_bundled:
            return None
        if self._well_known is None:
            from alphaedit.locate.well_known import facts_said

            progress("well-known facts", 0, 1)
            with self.models.lent([]):
                self._well_known = facts_said(self.editor.handle)
            progress("well-known facts", 1, 1)
        return self._well_known

    def hold(self, run: Run, preview: PreviewResult) -> None:
        """Remember a preview, so that it can be asked and kept."""
        with self._writing:
            self._previews[run.id] = preview
            before = self.models.edits(EDITED)
            self.models.give(preview_name(run.id), [*before, *preview.made])
            for old in list(self._previews)[:-PREVIEWS]:
                self._drop(old)

    def _drop(self, name: str) -> None:
        self._previews.pop(name, None)
        self.models.take(preview_name(name))

    def preview(self, name: str) -> PreviewResult:
        """A preview that may still be kept.

        Raises:
            LedgerError: it was kept or discarded, or is too old.
        """
        try:
            return self._previews[name]
        except KeyError:
            raise LedgerError(
                "This preview is no longer there: it was kept or discarded, or later ones have "
                "taken its place.",
                remedy="Preview again.",
            ) from None

    @property
    def previews(self) -> list[str]:
        """Ids of the runs whose previews may still be kept."""
        return list(self._previews)

    def keep(self, name: str, why: str = "") -> dict[str, Any]:
        """Record the edits of a preview in the ledger.

        Raises:
            LedgerError: it is no longer there, or the ledger was changed meanwhile.
            ResourceError: the ledger cannot be written.
        """
        from alphaedit.editor.versioned import open_ledger
        from alphaedit.ledger.history import root

        with self._writing:
            preview = self.preview(name)
            if not Ledger.at(self.opened.ledger) and preview.version == root(self.editor.base).id:
                open_ledger(self.opened.ledger, self.editor.base, model=self.opened.model)
            self.timeline.know(edit for edit, _ in preview.made)
            what: dict[str, Any] = {"add": preview.made, "why": why, "expect": preview.version}
            entry = self.timeline.write(lambda ledger: ledger.commit("edit", **what))
            self.models.follow(EDITED, self.opened.ledger)
            self._drop(name)
        self.runs.touch()
        return {
            "entry": entry.number,
            "version": entry.version,
            "edits": list(entry.add),
            "ledger": str(self.opened.ledger),
        }

    def discard(self, name: str) -> None:
        """Forget a preview.

        Raises:
            LedgerError: it is no longer there.
        """
        with self._writing:
            self.preview(name)
            self._drop(name)
        self.runs.touch()

    def changed(self) -> None:
        """Tell those who watch that the ledger was changed."""
        self.runs.touch()

    def stop(self, grace: float = 0.0) -> bool:
        """End; runs are cancelled, and what is not in the ledger is gone."""
        self.close()
        for row in self.runs.listed()[1]:
            if row["ended"] is None:
                self.runs.stop(row["id"])
        return super().stop(grace)


def _failure(error: BaseException) -> BaseException:
    """What is told of an error that is none of ours."""
    from alphaedit.model.memory import is_out_of_memory

    if is_out_of_memory(error):
        return ResourceError(
            "Memory does not suffice for this run.",
            remedy="Edit fewer facts of a batch, or close other programs. The model is as it was.",
        )
    return error


def preview_name(run: str) -> str:
    """Name of the model that has the edits of a preview."""
    return f"preview:{run}"


def run(
    request: StudioRequest, *, progress: Progress = silent, cancel: Cancel | None = None
) -> Studio:
    """Load the model, read the ledger, and wait for what is asked.

    Raises:
        ConfigError, LedgerError: found before the model is loaded.
        FingerprintError: the ledger is of another model.
        ModelError, ResourceError: the model cannot be loaded.
        Cancelled: `cancel` was set.
    """
    request.check()
    editor = request.open(watched(progress, cancel))
    studio = Studio(editor, request)
    if Ledger.at(request.ledger):
        remember(Ledger(request.ledger), request.model)
    return studio
