"""Edit facts into a model, and tell what that did."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.bench.data import EditRecord
from alphaedit.core import defaults
from alphaedit.core.errors import GuardError, VerdictWarning
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.facts import Source, in_chat, records_of
from alphaedit.jobs.late import Late, Wrote, untold
from alphaedit.jobs.ledgers import asked_json
from alphaedit.jobs.opening import Opening
from alphaedit.jobs.reporting import spectra, versions
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.bench.metrics import Metrics
    from alphaedit.core.edit import Answer, Edit
    from alphaedit.core.ranks import Ranks
    from alphaedit.editor.guard import Guard
    from alphaedit.editor.measured import Asked
    from alphaedit.editor.session import Editor

KEPT = 100
"""Facts of the bundled world that are asked before and after an edit."""


@dataclass(frozen=True, kw_only=True)
class EditRequest(Opening):
    """Facts to edit, how, and where to keep the result; without a place this is a dry run.

    Attributes:
        facts: the facts.
        rows: records of CounterFact's schema that measure them, by number, where there are some.
        method: name of an editing method.
        preset: name of a preset; by default the one that fits the model.
        hyperparameters: single values in place of the preset's.
        batch_size: facts of a batch; all of them by default.
        chat: ask in a conversation.
        guard: measures the rest of the model after each batch, and acts.
        start: go on from the edits in force in this ledger; by default those of `ledger`.
        ledger: record each batch here; it is begun if there is none.
        why: message for the ledger's log.
        sign: private ssh key to sign entries of the ledger with.
        checkpoint: save the edited model here.
        report: write an HTML report here.
        command: for the report, what made it.
        generation: measure fluency and consistency too, which sample text; by default with a
            report, and for bundled models.
    """

    facts: Sequence[Fact]
    rows: Mapping[int, EditRecord] = field(default_factory=dict)
    method: str = defaults.METHOD
    preset: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    chat: bool = False
    guard: Guard | None = None
    start: Path | None = None
    ledger: Path | None = None
    why: str = ""
    sign: Path | None = None
    checkpoint: Path | None = None
    report: Path | None = None
    command: str = ""
    generation: bool | None = None

    @property
    def starts_from(self) -> Path | None:
        """The ledger whose edits in force are applied first."""
        goes_on = self.ledger is not None and Ledger.at(self.ledger)
        return self.start or (self.ledger if goes_on else None)

    @property
    def grows(self) -> bool:
        """Whether `ledger` may be there already: it is then the one that edits go on from."""
        start = self.starts_from
        if start is None or self.ledger is None:
            return True
        return start.resolve() == self.ledger.resolve()


@dataclass(frozen=True, kw_only=True)
class EditResult:
    """What was edited, and what that did.

    Attributes:
        request: what was asked for.
        editor: the model with the edits.
        facts: as they were asked; in a conversation, if that was wanted.
        before: what the model said to them.
        asked: what it says now, and whether they hold.
        metrics_before: metrics of the model before; empty on ranks after the first.
        metrics: metrics of the model now.
        made: the edits, one for each batch.
        stopped: why a guard ended the run.
        seconds: time by phase.
        written: outputs that were written, by name; None if not asked for or failed.
        failed: outputs that could not be written, and why.
    """

    request: EditRequest
    editor: Editor = field(repr=False)
    facts: Sequence[Fact]
    before: Sequence[Answer]
    asked: Sequence[Asked]
    metrics_before: Metrics
    metrics: Metrics
    made: Sequence[Edit]
    stopped: GuardError | None
    seconds: Mapping[str, float]
    written: Mapping[str, Path | None]
    failed: Mapping[str, Exception]

    @property
    def after(self) -> list[Answer]:
        """What the model says now."""
        return [reply.answer for reply in self.asked]

    @property
    def preset(self) -> str | None:
        """Name of the preset that was used; None where the model itself was looked at."""
        from alphaedit.locate.preset import MEASURED, in_a_row, matching

        last = self.made[-1]
        edits = in_a_row(self.editor.edits, last.method, 0)
        name = self.request.preset
        name = name or matching(self.editor.handle, method=last.method, edits=edits)
        return None if name == MEASURED or last.measured else name

    @property
    def fails(self) -> list[Asked]:
        """Facts that the model does not say at the end; those of an undone batch too."""
        return [reply for reply in self.asked if not reply.holds]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, metrics at the top under the papers' names."""
        from alphaedit.bench.metrics import plain

        last, request = self.made[-1], self.request
        answers = zip(self.facts, self.before, self.asked, strict=True)
        return {
            **plain(self.metrics),
            "before": plain(self.metrics_before),
            "model": request.model,
            "method": last.method,
            "preset": self.preset,
            "hyperparameters": dict(last.hyperparameters),
            "null_space": {name: dict(row) for name, row in last.null_space.items()},
            "facts": [
                {
                    **fact.to_dict(),
                    "before": asdict(old),
                    "after": asdict(new.answer),
                    "holds": new.holds,
                }
                for fact, old, new in answers
            ],
            "holds": len(self.facts) - len(self.fails),
            "fails": asked_json(self.fails),
            "edits": [made.id for made in self.made],
            "guard": self._guarded(),
            "seconds": dict(self.seconds),
            "seed": request.seed,
            "dry_run": request.ledger is None and request.checkpoint is None,
            **{name: str(path) if path else None for name, path in self.written.items()},
        }

    def _guarded(self) -> dict[str, Any] | None:
        """What the guard measured after each batch, and whether it ended the run."""
        guard = self.request.guard
        if guard is None:
            return None
        return {
            **asdict(guard),
            "drift": [dict(made.drift) for made in self.made],
            "stopped": self.stopped.message if self.stopped else None,
            "edited": sum(len(made.facts) for made in self.made),
        }


def run(
    request: EditRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
    ranks: Ranks | None = None,
) -> EditResult:
    """Measure, edit batch by batch, measure again, write.

    Each batch is recorded in the ledger as soon as it is made. Of several ranks only the first
    measures, records and writes.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; batches that are in the ledger stay there.
        wrote: is told of each output that is complete.
        ranks: processes that share the work.

    Raises:
        Cancelled: `cancel` was set.
        GuardError: a guard undid the first batch.
        FactError, ConfigError, ModelError, ResourceError: with the remedy.
    """
    began = time.perf_counter()
    editor = request.open(
        watched(progress, cancel), ledger=request.starts_from, guard=request.guard, ranks=ranks
    )
    if request.ledger is not None:
        editor.track(request.ledger, model=request.model, sign=request.sign)
    work = _Work(request, editor, wrote)
    work.seconds["model"] = time.perf_counter() - began
    with telling_what_is_recorded(editor):
        work.go()
    return work.result(wrote)


class _Work:
    """One run, and what it has found so far."""

    def __init__(self, request: EditRequest, editor: Editor, wrote: Wrote) -> None:
        self.request, self.editor, self.wrote = request, editor, wrote
        self.source = Source(list(request.facts), request.rows)
        self.over = {**request.hyperparameters, "why": request.why}
        if request.chat:
            self.source = in_chat(self.source, editor.handle)
            self.over = {"contexts": 0, **self.over}
        self.seconds: dict[str, float] = {}
        self.stopped: GuardError | None = None

    def go(self) -> None:
        """Measure, edit batch by batch, measure again."""
        from alphaedit.bench.sources import kept_of

        editor, facts, seed = self.editor, self.source.facts, self.request.seed
        generation = self.request.generation
        if generation is None:
            generation = self.request.report is not None or editor.handle.is_bundled
        began = time.perf_counter()
        self.before: tuple[Answer, ...] = editor.answers(facts)
        records = records_of(self.source, self.before)
        probes = kept_of(editor.handle, {f.subject for f in facts}, seed=seed, count=KEPT)
        measuring = {"kept": probes, "generation": generation, "seed": seed}
        self.metrics_before = self._evaluate(records, measuring)
        self.seconds["evaluation"] = time.perf_counter() - began
        began = time.perf_counter()
        self._edit()
        self.seconds["edit"] = time.perf_counter() - began
        for made in self.made:
            for phase, spent in made.seconds.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        began = time.perf_counter()
        self.asked = self._asked_now()
        self.metrics = self._evaluate(records, measuring)
        self.seconds["evaluation"] += time.perf_counter() - began
        if editor.ranks.first:
            self._warn()

    def _edit(self) -> None:
        """All batches, or those up to where the guard ends the run."""
        from alphaedit.editor.batches import split

        editor, facts = self.editor, self.source.facts
        first = len(editor.edits)
        try:
            for batch in editor.edit_in_batches(
                split(facts, self.request.batch_size or len(facts)),
                self.request.method,
                phase="facts",
                preset=self.request.preset,
                **self.over,
            ):
                self.stopped = batch.stop
        finally:
            if editor.ledger is not None and len(editor.edits) > first:
                self.wrote(editor.ledger.path)
        self.made: list[Edit] = editor.edits[first:]
        if self.stopped and not self.made:
            raise self.stopped

    def _asked_now(self) -> list[Asked]:
        """What the model says after all batches; of one batch the edit itself knows it."""
        from alphaedit.editor.measured import Asked

        facts = self.source.facts
        last = self.made[-1]
        if list(last.facts) == list(facts):
            replies = zip(facts, last.after, last.verdict, strict=True)
            return [Asked(fact, answer, holds) for fact, answer, holds in replies]
        return self.editor.asked(facts)

    def _warn(self) -> None:
        """Say which facts do not hold, and what to do next."""
        from alphaedit.editor.verdict import are_texts, complaint, losses_of

        ledger = self.editor.ledger
        undo = f"undo it: alphaedit revert {ledger.path}" if ledger else "do not keep it"
        losses = losses_of(self.made)
        if losses is not None and len(losses) < len(self.source.facts):  # a guard ended the run
            losses = None
        message = complaint(self.asked, losses, undo=undo, in_text=are_texts(self.made))
        if message is not None:
            warnings.warn(VerdictWarning(message), stacklevel=4)

    def _evaluate(self, records: Sequence[EditRecord], measuring: Mapping[str, Any]) -> Metrics:
        """Metrics now; only the first rank needs them."""
        from alphaedit.bench.run import evaluate

        if not self.editor.ranks.first:
            return {}
        return evaluate(self.editor, records, progress=self.editor.progress, **measuring)

    def result(self, wrote: Wrote) -> EditResult:
        """Write what was asked for, and tell all of it."""
        request, late = self.request, Late(wrote)
        save = partial(self.editor.save_pretrained, only_ours=True)
        written = {
            "out": request.ledger,
            "checkpoint": late.write("checkpoint", request.checkpoint, save),
            "report": late.write("report", request.report, self._write_report),
        }
        return EditResult(
            request=request,
            editor=self.editor,
            facts=self.source.facts,
            before=self.before,
            asked=self.asked,
            metrics_before=self.metrics_before,
            metrics=self.metrics,
            made=self.made,
            stopped=self.stopped,
            seconds=self.seconds,
            written=written,
            failed=late.failed,
        )

    def _write_report(self, path: Path) -> None:
        from alphaedit.report.page import Changed, Report, write

        last, facts = self.made[-1], self.source.facts
        count = len(facts)
        after = (reply.answer for reply in self.asked)
        write(
            Report(
                title="What was edited, and what it did",
                subtitle=f"{count} {'fact' if count == 1 else 'facts'} edited into "
                f"{self.request.model} by {last.method}.",
                command=self.request.command,
                changed=[
                    Changed(f.text, f.target, b, a)
                    for f, b, a in zip(facts, self.before, after, strict=True)
                ],
                metrics={"unedited": self.metrics_before, "edited": self.metrics},
                spectra=spectra(self.editor, last.hyperparameters),
                hyperparameters=dict(last.hyperparameters),
                seconds=self.seconds,
                versions=versions(),
            ),
            path,
        )


@contextmanager
def telling_what_is_recorded(editor: Editor) -> Iterator[None]:
    """Let every error of the block say which of its edits are in the ledger already."""
    first = len(editor.edits)
    try:
        yield
    except Exception as error:
        made = editor.edits[first:]
        if editor.ledger is not None and made:
            error.add_note(recorded(editor.ledger.path, made))
        raise


def recorded(ledger: Path, edits: Sequence[Edit]) -> str:
    """A sentence on edits that are in a ledger, whatever failed after that."""
    ids = ", ".join(edit.id for edit in edits)
    what = f"edit {ids} is" if len(edits) == 1 else f"{len(edits)} edits are ({ids})"
    return f"In {ledger} {what} recorded: the same command again would record it twice."
