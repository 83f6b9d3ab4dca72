"""A sequential run: edit records in batches, evaluate at the end and, if asked, on the way."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from alphaedit.bench.data import EditRecord
from alphaedit.bench.metrics import (
    Metrics,
    References,
    attribute_references,
    generation_metrics,
    kept_share,
    plain,
    probability_metrics,
)
from alphaedit.bench.oracle import oracle_metrics
from alphaedit.bench.qa import (
    COUNTERFACTUAL,
    LONG,
    Unedited,
    long_metrics,
    qa_metrics,
    story_metrics,
    unedited_answers,
)
from alphaedit.bench.routing import routing_metrics
from alphaedit.bench.similarity import TextEncoder
from alphaedit.core.arguments import as_count, as_flag, as_text, each_of
from alphaedit.core.bars import as_progress, close
from alphaedit.core.edit import Edit
from alphaedit.core.errors import DataError, GuardError
from alphaedit.core.progress import Progress, silent
from alphaedit.editor.inputs import as_seed
from alphaedit.editor.session import Editor
from alphaedit.editor.standard import method_for
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder

Probes = Sequence[tuple[str, str]]
NONE = "none"
"""In place of a method: the unedited model."""


@dataclass(frozen=True)
class RunResult:
    """What a run measured; every number with the setting it belongs to.

    `drift` is what a guard measured after each batch, `stopped` why it ended the run.
    """

    method: str
    batch_size: int
    edits: int
    load: float
    metrics: Metrics
    before: Metrics
    curve: list[dict[str, Any]] = field(default_factory=list)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    null_space: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    drift: list[dict[str, float]] = field(default_factory=list)
    stopped: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, metrics at the top level under the paper's names."""
        return {
            **plain(self.metrics),
            "method": self.method,
            "batch_size": self.batch_size,
            "edits": self.edits,
            "load": self.load,
            "before": plain(self.before),
            "curve": self.curve,
            "hyperparameters": self.hyperparameters,
            "null_space": self.null_space,
            "seconds": self.seconds,
            "versions": self.versions,
            "drift": self.drift,
            "stopped": self.stopped,
        }


def metrics_for(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    unedited: Unedited | None = None,
    *,
    generation: bool = True,
    encoder: TextEncoder | None = None,
    progress: Progress = silent,
) -> Metrics:
    """The metrics that go with what the records carry: CounterFact's, or those of questions."""
    if all(record.schema in COUNTERFACTUAL for record in records):
        metrics = probability_metrics(responder, records, progress=progress)
        if generation:
            metrics |= story_metrics(responder, records, progress=progress)
        return metrics
    if all(record.schema == LONG for record in records):
        metrics = qa_metrics(responder, records, unedited, generation=False, progress=progress)
        if generation:
            metrics |= long_metrics(responder, records, encoder=encoder, progress=progress)
        return metrics
    return qa_metrics(responder, records, unedited, generation=generation, progress=progress)


def evaluate(
    editor: Editor,
    records: Sequence[EditRecord],
    *,
    unedited: Unedited | None = None,
    kept: Probes = (),
    generation: bool = True,
    seed: int = 0,
    references: References = attribute_references,
    oracle: bool = False,
    encoder: TextEncoder | None = None,
    progress: Progress = silent,
) -> Metrics:
    """All metrics of the model as it is now; `unedited` is what it said before any edit.

    An `encoder` compares long answers with what they should be.
    With `oracle`, memories are told which edit each prompt of a record belongs to; see
    `bench.oracle`. Kept facts and sampled text are of the memory as it is in use.
    """
    progress("evaluation", 0, 3)

    def measured(some: Sequence[EditRecord]) -> Metrics:
        report = silent if oracle else progress
        how: dict[str, Any] = {"generation": generation, "encoder": encoder, "progress": report}
        return metrics_for(editor.responder, some, unedited, **how)

    metrics = oracle_metrics(records, measured, progress=progress) if oracle else measured(records)
    progress("evaluation", 1, 3)
    if kept:
        metrics["kept"] = kept_share(editor.responder, kept, full_stop=editor.handle.is_bundled)
    progress("evaluation", 2, 3)
    if generation and any(record.generation_prompts for record in records):
        metrics |= generation_metrics(
            editor.responder, records, seed=seed, references=references, progress=progress
        )
    metrics |= routing_metrics(editor, records, timed=generation, progress=progress)
    progress("evaluation", 3, 3)
    return metrics


def measure(
    editor: Editor,
    records: Any,
    *,
    limit: int | None = None,
    schema: str | None = None,
    generation: bool = False,
    seed: int = 0,
    oracle: bool = False,
    encoder: str | Path | None = None,
    progress: Progress | bool | None = None,
) -> Metrics:
    """All metrics of an editor's model as it is now, on records or a data set.

    Args:
        records: records, a data set's path or "hf:NAME", or "world" for records about the bundled
            world ("world:zsre" for another schema).
        limit: how many of them; by default all of a data set, and 100 of the world.
        schema: of the data set; by default told from its first record.
        generation: also the metrics that sample text (fluency, consistency), which take long.
        seed: of what is drawn and sampled.
        oracle: tell memories which edit each prompt belongs to, as IKE's published figures were
            measured, in place of looking it up.
        encoder: folder or name of a sentence encoder that compares long answers with what they
            should be; needs `generation`.
        progress: as for `Editor.from_pretrained`; by default the editor's own.

    Raises:
        DataError: the data set cannot be read.
    """
    from alphaedit.bench.datasets.registry import load
    from alphaedit.bench.sources import kept_of, records_of

    report = editor.progress if progress is None else as_progress(progress)
    if limit is not None:
        as_count("limit", limit)
    as_text("schema", schema or "")
    seed = as_seed(seed)
    as_flag("generation", generation)
    as_flag("oracle", oracle)
    if isinstance(records, (str, Path)):
        name = str(records)
        if name.partition(":")[0] == "world":
            records = records_of(editor.handle, name, limit or 100, seed, schema)
        else:
            records = load(name, schema, limit=limit).records
    chosen = each_of("records", records, EditRecord)[:limit]
    if not chosen:
        raise DataError("There are no records to evaluate.", remedy="Give a data set, or records.")
    probes = kept_of(editor.handle, {record.subject for record in chosen}, seed=seed)
    how: dict[str, Any] = {"generation": generation, "seed": seed, "oracle": oracle}
    if encoder is not None:
        how["encoder"] = TextEncoder.load(encoder)
    try:
        return evaluate(editor, chosen, kept=probes, progress=report, **how)
    finally:
        close(report)


def sequential(
    editor: Editor,
    records: Sequence[EditRecord],
    method: str,
    /,  # settings of methods may have these names
    *,
    batch_size: int,
    edits: int,
    seed: int = 0,
    evaluate_every: int | None = None,
    kept: Probes = (),
    generation: bool = True,
    references: References = attribute_references,
    preset: str | None = None,
    before: Metrics | None = None,
    oracle: bool = False,
    encoder: TextEncoder | None = None,
    progress: Progress = silent,
    **hyperparameters: Any,
) -> RunResult:
    """Edit the first `edits` records in batches and evaluate on them at the end.

    Args:
        method: name of a method, "auto", or "none" to evaluate the unedited model.
        evaluate_every: also evaluate (without generation) after every so many batches.
        kept: (prompt, answer) probes of facts that are not edited.
        before: metrics of the unedited model, if measured already on the same records.
        oracle: tell memories which edit each prompt belongs to, see `bench.oracle`.
        encoder: compares long answers with what they should be.

    Raises:
        DataError: fewer records than edits, or impossible sizes.
    """
    if batch_size < 1 or edits < 1:
        raise DataError("Batch size and number of edits must be at least 1.")
    if edits > len(records):
        raise DataError(
            f"{edits} edits are asked for, and there are {len(records)} records.",
            remedy="Ask for fewer, or give a larger file.",
        )
    if method != NONE:
        method = method_for(method, editor.handle, editor.edits, hyperparameters, preset).name
    run = _Sequence(
        editor,
        list(records[:edits]),
        method,
        batch_size,
        evaluate_every,
        generation,
        {
            "kept": kept,
            "seed": seed,
            "references": references,
            "oracle": oracle,
            "encoder": encoder,
            "progress": progress,
        },
    )
    run.go(before, {"preset": preset, **hyperparameters})
    return run.result()


class _Sequence:
    """One sequential run, and what it has measured so far."""

    def __init__(
        self,
        editor: Editor,
        records: list[EditRecord],
        method: str,
        batch_size: int,
        every: int | None,
        generation: bool,
        options: dict[str, Any],
    ) -> None:
        self.editor, self.records, self.method = editor, records, method
        self.batch_size, self.every, self.generation = batch_size, every, generation
        self.options = options
        self.progress: Progress = options["progress"]
        self.seconds: dict[str, float] = {}
        self.curve: list[dict[str, Any]] = []
        self.drift: list[dict[str, float]] = []
        self.done = 0
        self.last: Edit | None = None
        self.stopped: GuardError | None = None

    def go(self, before: Metrics | None, how: dict[str, Any]) -> None:
        """Measure, edit batch by batch, measure again."""
        self.options["unedited"] = unedited_answers(
            self.editor.responder, self.records, progress=self.progress
        )
        began = time.perf_counter()
        self.before = self._evaluate(self.generation) if before is None else before
        self.seconds["evaluation"] = time.perf_counter() - began
        self.metrics = self.before
        edits = self.method != NONE
        if edits:
            self._edit(how)
        began = time.perf_counter()
        if edits:
            self.metrics = self._evaluate(self.generation)
        self.seconds["evaluation"] += time.perf_counter() - began
        if self.every:
            self.curve.append({"edits": self.done, **plain(self.metrics)})

    def _edit(self, how: dict[str, Any]) -> None:
        size = self.batch_size
        batches = [self.records[at : at + size] for at in range(0, len(self.records), size)]
        facts = [[fact for record in batch for fact in record.facts] for batch in batches]
        self.progress("batches", 0, len(batches))
        made = self.editor.edit_in_batches(facts, self.method, **how)
        for number, (records, batch) in enumerate(zip(batches, made, strict=False), start=1):
            self.stopped = batch.stop
            if batch.edit is not None:
                self._count(batch.edit, len(records))
            last = number == len(batches) or self.stopped is not None
            if self.every and number % self.every == 0 and not last:
                row = self._evaluate(generation=False)
                self.curve.append({"edits": self.done, **plain(row)})
            if not last:
                self.progress("batches", number, len(batches))
        if self.stopped is not None and not self.done:
            raise self.stopped
        self.progress("batches", len(batches), len(batches))

    def _count(self, edit: Edit, records: int) -> None:
        self.last = edit
        self.done += records
        self.drift.append(dict(edit.drift))
        for phase, spent in edit.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    def _evaluate(self, generation: bool) -> Metrics:
        """Metrics now: of the records edited so far, or of all before the first."""
        measured = self.records[: self.done] if self.done else self.records
        return evaluate(self.editor, measured, generation=generation, **self.options)

    def result(self) -> RunResult:
        """All that was measured."""
        hp = dict(self.last.hyperparameters) if self.last else {}
        return RunResult(
            method=self.method,
            batch_size=self.batch_size,
            edits=self.done,
            load=self.done / self.editor.handle.d_in((hp.get("layers") or [0])[0]),
            metrics=self.metrics,
            before=self.before,
            curve=self.curve,
            hyperparameters=hp,
            null_space=dict(self.last.null_space) if self.last else {},
            seconds=self.seconds,
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            drift=self.drift,
            stopped=str(self.stopped) if self.stopped else None,
        )
