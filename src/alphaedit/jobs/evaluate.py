"""Edit records of a data set in batches, and evaluate at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.core import defaults
from alphaedit.core.errors import DataError
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Late, Wrote, untold
from alphaedit.jobs.opening import Opening
from alphaedit.jobs.reporting import spectra, versions

if TYPE_CHECKING:
    from alphaedit.bench.run import RunResult
    from alphaedit.editor.guard import Guard
    from alphaedit.editor.session import Editor

DEFAULT_EDITS = 100


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest(Opening):
    """Records to edit and evaluate, and how; nothing of the edits is kept.

    Attributes:
        records: a data set's path or "hf:NAME", or "world" ("world:zsre" for another schema).
        text: what a data set holds, if it is not read from a file; `records` only names it.
        text_name: what to call it in messages.
        method: name of an editing method, or "none": the unedited model.
        batch_size: records edited at a time.
        edits: how many records; by default 100, or all if there are fewer.
        sample: draw records of a data set by the seed, instead of the first ones.
        schema: of the records; by default told from the first.
        every: also evaluate after every so many batches.
        start: start with the edits in force in this ledger.
        oracle: tell memories which edit each prompt belongs to, see `bench.oracle`.
        pre_check: leave out records whose new objects the unedited model says already.
        strict: also measure by the stricter probes, see `bench.strict`.
        judge: also let a model judge answers: an address, or a model to load.
        judge_model: the model's name at that address.
        encoder: also compare long answers with what they should be, by this sentence encoder.
        generation: measure fluency and consistency too, which sample text.
        preset: name of a preset; by default the one that fits the model.
        hyperparameters: single values in place of the preset's.
        guard: measures the rest of the model after each batch, and acts.
        report: write an HTML report here.
        command: for the report, what made it.
    """

    records: str
    text: str | None = None
    text_name: str = "text"
    method: str = defaults.METHOD
    batch_size: int = 100
    edits: int | None = None
    sample: bool = False
    schema: str | None = None
    every: int | None = None
    start: Path | None = None
    oracle: bool = False
    pre_check: bool = False
    strict: bool = False
    judge: str | None = None
    judge_model: str | None = None
    encoder: str | None = None
    generation: bool = True
    preset: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    guard: Guard | None = None
    report: Path | None = None
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class EvaluateResult:
    """What was measured.

    Attributes:
        request: what was asked for.
        editor: the model with the edits.
        run: every number, with the setting it belongs to.
        left_out: records that the pre-check left out.
        report: the report, if it was written.
        failed: outputs that could not be written, and why.
    """

    request: EvaluateRequest
    editor: Editor = field(repr=False)
    run: RunResult
    report: Path | None
    failed: Mapping[str, Exception]
    left_out: int = 0

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values, metrics at the top under the papers' names."""
        edits = self.editor.edits
        return {
            **self.run.to_json(),
            "model": self.request.model,
            "records": self.request.records,
            "seed": self.request.seed,
            "left_out": self.left_out,
            "from": [edit.id for edit in edits[: len(edits) - _batches(self.run)]],
            "report": str(self.report) if self.report else None,
        }


def run(
    request: EvaluateRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> EvaluateResult:
    """Evaluate, edit batch by batch, evaluate again, write.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it.
        wrote: is told of each output that is complete.

    Raises:
        Cancelled: `cancel` was set.
        UnknownNameError: no such method or schema.
        DataError: the records cannot be used, or are too few; found before a model is loaded.
        GuardError: a guard undid the first batch.
    """
    from alphaedit.bench.run import NONE
    from alphaedit.bench.sources import WORLD, records_of
    from alphaedit.methods.registry import get_method

    progress = watched(progress, cancel)
    method = request.method
    if method not in (NONE, defaults.METHOD):
        method = get_method(method).name
    of_world = request.records.partition(":")[0] == WORLD
    chosen = None if of_world else _of_data_set(request)
    began = time.perf_counter()
    editor = request.open(progress, ledger=request.start, guard=request.guard)
    loaded = time.perf_counter() - began
    edits, seed = request.edits, request.seed
    if chosen is None:
        count = edits or DEFAULT_EDITS
        chosen = records_of(editor.handle, request.records, count, seed, request.schema)
    drawn = len(chosen)
    if request.pre_check:
        chosen, edits = _checked(editor, chosen, progress)
    result = _edited(request, editor, chosen, method, edits, progress)
    result.seconds["model"] = loaded
    if request.judge is not None:
        measured = chosen[: result.edits or edits or len(chosen)]
        _judge(request, request.judge, editor, measured, result, progress)
    late = Late(wrote)
    page = late.write(
        "report", request.report, lambda path: write_report(path, request, editor, result)
    )
    return EvaluateResult(
        request=request,
        editor=editor,
        run=result,
        report=page,
        failed=late.failed,
        left_out=drawn - len(chosen),
    )


def _checked(
    editor: Editor, drawn: Sequence[EditRecord], progress: Progress
) -> tuple[list[EditRecord], int]:
    """Records that the unedited model gets wrong, and how many."""
    from alphaedit.bench.strict import unsaid

    left = unsaid(editor.handle, drawn, progress=progress)
    return left, len(left)


def _of_data_set(request: EvaluateRequest) -> list[EditRecord]:
    """The records of a data set; as many as are asked for."""
    name = request.records if request.text is None else request.text_name
    edits = request.edits
    seed = request.seed if request.sample else None
    limit = edits or DEFAULT_EDITS
    records = list(load(name, request.schema, limit=limit, seed=seed, text=request.text).records)
    if edits is not None and len(records) < edits:
        raise DataError(
            f"{edits} edits are asked for, and {name} holds {len(records)} records.",
            remedy=f"Give --edits {len(records)}, or a larger file.",
        )
    return records


def _edited(
    request: EvaluateRequest,
    editor: Editor,
    records: Sequence[EditRecord],
    method: str,
    edits: int | None,
    progress: Progress,
) -> RunResult:
    """Edit and measure."""
    from alphaedit.bench.run import sequential
    from alphaedit.bench.similarity import TextEncoder
    from alphaedit.bench.sources import kept_of
    from alphaedit.bench.strict import before_edits, strict_metrics

    how: dict[str, Any] = {"generation": request.generation, "progress": progress}
    asked = list(records[: edits or len(records)])
    first = before_edits(editor.handle, asked, **how) if request.strict else None
    result = sequential(
        editor,
        records,
        method,
        batch_size=request.batch_size,
        edits=edits or len(records),
        seed=request.seed,
        evaluate_every=request.every,
        kept=kept_of(editor.handle, {r.subject for r in records}, seed=request.seed),
        oracle=request.oracle,
        encoder=None if request.encoder is None else TextEncoder.load(request.encoder),
        preset=request.preset,
        **how,
        **request.hyperparameters,
    )
    if first is not None:
        result.before.update(first.metrics)
        if result.edits:
            done = asked[: result.edits]
            result.metrics.update(
                strict_metrics(editor.handle, done, "new", concluded=first.concluded, **how)
            )
    return result


def _judge(
    request: EvaluateRequest,
    judge: str,
    editor: Editor,
    measured: Sequence[EditRecord],
    result: RunResult,
    progress: Progress,
) -> None:
    """Add the metrics of a judge."""
    from alphaedit.bench.judge import judged_metrics, open_judge

    with_judge = open_judge(judge, request.judge_model, device=request.device)
    result.metrics.update(judged_metrics(editor.handle, measured, with_judge, progress=progress))


def _batches(run: RunResult) -> int:
    return -(-run.edits // run.batch_size)


def write_report(path: Path, request: EvaluateRequest, editor: Editor, run: RunResult) -> None:
    """Write the HTML report of a run."""
    from alphaedit.report.page import Changed, Curve, Report, write

    made = _batches(run)
    changed = [
        Changed(fact.text, fact.target, before, after)
        for edit in (editor.edits[-made:] if made else [])
        for fact, before, after in zip(edit.facts, edit.before, edit.after, strict=True)
    ]
    write(
        Report(
            title=f"Evaluation of {run.method}",
            subtitle=f"{run.edits} records of {request.records} edited into {request.model} in "
            f"batches of {run.batch_size}: a load of {run.load:.3f} edits for each dimension of "
            "the keys.",
            command=request.command,
            changed=changed,
            metrics={"unedited": run.before, run.method: run.metrics},
            curves=[Curve(run.method, tuple(run.curve))] if len(run.curve) > 1 else [],
            spectra=spectra(editor, run.hyperparameters),
            hyperparameters=run.hyperparameters,
            seconds=run.seconds,
            versions=versions(),
        ),
        path,
    )
