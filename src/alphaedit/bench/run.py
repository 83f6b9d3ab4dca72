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
    probability_metrics,
)
from alphaedit.bench.qa import (
    COUNTERFACTUAL,
    LONG,
    Unedited,
    long_metrics,
    qa_metrics,
    story_metrics,
    unedited_answers,
)
from alphaedit.core.arguments import as_count, as_flag, as_text, each_of
from alphaedit.core.bars import as_progress, close
from alphaedit.core.errors import DataError, GuardError
from alphaedit.core.progress import Progress, silent
from alphaedit.editor.inputs import as_seed
from alphaedit.editor.session import Editor
from alphaedit.editor.verdict import without_verdicts
from alphaedit.model.handle import ModelHandle

Probes = Sequence[tuple[str, str]]


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
            **_plain(self.metrics),
            "method": self.method,
            "batch_size": self.batch_size,
            "edits": self.edits,
            "load": self.load,
            "before": _plain(self.before),
            "curve": self.curve,
            "hyperparameters": self.hyperparameters,
            "null_space": self.null_space,
            "seconds": self.seconds,
            "versions": self.versions,
            "drift": self.drift,
            "stopped": self.stopped,
        }


def _plain(metrics: Metrics) -> dict[str, Any]:
    return {name: None if rate is None else rate.to_json() for name, rate in metrics.items()}


def metrics_for(
    handle: ModelHandle,
    records: Sequence[EditRecord],
    unedited: Unedited | None = None,
    *,
    generation: bool = True,
    progress: Progress = silent,
) -> Metrics:
    """The metrics that go with what the records carry: CounterFact's, or those of questions."""
    if all(record.schema in COUNTERFACTUAL for record in records):
        found = probability_metrics(handle, records, progress=progress)
        if generation:
            found |= story_metrics(handle, records, progress=progress)
        return found
    if all(record.schema == LONG for record in records):
        return {
            **qa_metrics(handle, records, unedited, generation=False, progress=progress),
            **(long_metrics(handle, records, progress=progress) if generation else {}),
        }
    return qa_metrics(handle, records, unedited, generation=generation, progress=progress)


def evaluate(
    editor: Editor,
    records: Sequence[EditRecord],
    *,
    unedited: Unedited | None = None,
    kept: Probes = (),
    generation: bool = True,
    seed: int = 0,
    references: References = attribute_references,
    progress: Progress = silent,
) -> Metrics:
    """All metrics of the model as it is now; `unedited` is what it said before any edit."""
    progress("evaluation", 0, 3)
    metrics = metrics_for(
        editor.handle, records, unedited, generation=generation, progress=progress
    )
    progress("evaluation", 1, 3)
    if kept:
        metrics["kept"] = kept_share(editor.handle, kept)
    progress("evaluation", 2, 3)
    if generation and any(record.generation_prompts for record in records):
        metrics |= generation_metrics(
            editor.handle, records, seed=seed, references=references, progress=progress
        )
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
    if isinstance(records, (str, Path)):
        name = str(records)
        if name.partition(":")[0] == "world":
            records = records_of(editor.handle, name, limit or 100, seed, schema)
        else:
            records = load(name, schema, limit=limit).records
    chosen = each_of("records", records, EditRecord)[:limit]
    if not chosen:
        raise DataError("There are no records to evaluate.", remedy="Give a data set, or records.")
    kept = kept_of(editor.handle, {record.subject for record in chosen}, seed=seed)
    try:
        return evaluate(
            editor, chosen, kept=kept, generation=generation, seed=seed, progress=report
        )
    finally:
        close(report)


def sequential(
    editor: Editor,
    records: Sequence[EditRecord],
    method: str,
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
    progress: Progress = silent,
    **hyperparameters: Any,
) -> RunResult:
    """Edit the first `edits` records in batches and evaluate on them at the end.

    Args:
        method: name of a method, or "none" to evaluate the unedited model.
        evaluate_every: also evaluate (without generation) after every so many batches.
        kept: (prompt, answer) probes of facts that are not edited.
        before: metrics of the unedited model, if measured already on the same records.

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
    chosen = list(records[:edits])
    seconds: dict[str, float] = {}
    options: dict[str, Any] = {
        "kept": kept,
        "unedited": unedited_answers(editor.handle, chosen, progress=progress),
        "seed": seed,
        "references": references,
        "progress": progress,
    }
    began = time.perf_counter()
    if before is None:
        before = evaluate(editor, chosen, generation=generation, **options)
    seconds["evaluation"] = time.perf_counter() - began
    curve: list[dict[str, Any]] = []
    null_space: dict[str, Any] = {}
    hp: dict[str, Any] = {}
    layer = done = 0
    drift: list[dict[str, float]] = []
    stopped: GuardError | None = None
    if method != "none":
        batches = [chosen[i : i + batch_size] for i in range(0, edits, batch_size)]
        for number, batch in enumerate(batches, start=1):
            progress("batches", number - 1, len(batches))
            try:
                facts = [fact for record in batch for fact in record.facts]
                with without_verdicts():
                    editor.edit(facts, method, preset=preset, **hyperparameters)
            except GuardError as stop:
                stopped = stop
                if not stop.kept:
                    break
            done += len(batch)
            edit = editor.edits[-1]
            drift.append(dict(edit.drift))
            for phase, spent in edit.seconds.items():
                seconds[phase] = seconds.get(phase, 0.0) + spent
            hp, null_space = dict(edit.hyperparameters), dict(edit.null_space)
            layer = hp["layers"][0]
            last = number == len(batches) or stopped is not None
            if evaluate_every and number % evaluate_every == 0 and not last:
                row = evaluate(editor, chosen[:done], generation=False, **options)
                curve.append({"edits": done, **_plain(row)})
            if stopped is not None:
                break
        if stopped is not None and not done:
            raise stopped
        progress("batches", len(batches), len(batches))
    began = time.perf_counter()
    metrics = before
    if method != "none":
        metrics = evaluate(editor, chosen[:done], generation=generation, **options)
    seconds["evaluation"] += time.perf_counter() - began
    if evaluate_every:
        curve.append({"edits": done, **_plain(metrics)})
    return RunResult(
        method=method,
        batch_size=batch_size,
        edits=done,
        load=done / editor.handle.d_in(layer),
        metrics=metrics,
        before=before,
        curve=curve,
        hyperparameters=hp,
        null_space=null_space,
        seconds=seconds,
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        drift=drift,
        stopped=str(stopped) if stopped else None,
    )
