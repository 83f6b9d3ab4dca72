"""Memory-based editors beside changes of weights, in one table: what they reach, and what it costs.

    python -m benchmarks.memories [--model bundled|reader|smollm2] [--method NAME ...] [--quick]

On a bundled model 100 facts of its world, on SmolLM2 (`make real`) 50 CounterFact and 50 ZsRE
records, edited one batch after the other and measured after the last. One method after another,
each put into results/memories.json when it is measured. Methods that stand there already are left
as they are, unless they are named. Seconds of edits are of the processor, so that others on the
machine do not count; latencies are measured in turns with those of the same model with hooks and
memories silent. `python -m benchmarks.memories_page` makes the tables of docs/methods/memories.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.metrics import Metrics
from alphaedit.bench.oracle import oracle_metrics
from alphaedit.bench.qa import Unedited, qa_metrics, unedited_answers
from alphaedit.bench.routing import has_routers, memory_metrics, prompts_of, time_metrics
from alphaedit.bench.run import evaluate
from alphaedit.core.edit import Edit
from alphaedit.editor.session import Editor
from alphaedit.jobs.train import TrainRequest
from alphaedit.jobs.train import run as train
from alphaedit.methods.registry import get_method
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import plain
from benchmarks import machine
from benchmarks.golden import DATA, RECORDS
from benchmarks.memories_data import (
    BUNDLED,
    READER,
    REAL,
    SMOLLM,
    WORLD,
    ZSRE,
    DataSet,
    Plan,
    of_counterfact,
    of_world,
    of_zsre,
)
from benchmarks.real_models import SMOLLM2
from benchmarks.real_models import missing as missing_model

PLAIN = "unedited"
LABELS = tuple(dict.fromkeys((PLAIN, *BUNDLED, *READER, *SMOLLM)))
ORACLE = "{}, oracle"
BUNDLED_MODELS = {"bundled": "bundled", "reader": "bundled-reader"}
MODELS = (*BUNDLED_MODELS, "smollm2")
QUICK = 4
"""Facts of a quick run."""
SILENT = 12
"""Prompts whose time with hooks and memories silent is taken."""
PATHS = ("editor", "counterfactual")
"""Settings that are places on a machine."""


def asked_to_stay(record: EditRecord) -> EditRecord:
    """The record with its neighbors among what must be answered as before."""
    true = (record.target_true,)
    own = [Probe("locality", "neighbor", p, true) for p in record.neighborhood_prompts]
    return replace(record, probes=(*own, *record.probes))


def rounded(metrics: Metrics, names: Mapping[str, str]) -> dict[str, list[float]]:
    """Value and 95 % interval of some metrics, under the names that are given."""
    found = {names[name]: rate for name, rate in metrics.items() if name in names}
    return {
        name: [round(x, 2) for x in (rate.value, rate.low, rate.high)]
        for name, rate in found.items()
        if rate is not None
    }


SHOWN = {
    name: name
    for name in (
        *("efficacy", "edit_success", "generalization", "specificity"),
        *("fired_edits", "fired_paraphrases", "fired_neighbors"),
    )
}
EXACT = {
    "edit_success_generate": "rewrite",
    "generalization_generate": "paraphrase",
    "locality": "neighbors_kept",
}


def figures(
    editor: Editor, records: Sequence[EditRecord], before: Unedited, *, oracle: bool = False
) -> dict[str, Any]:
    """Probabilities and where edits act, then exact answers and those that stayed, in percent."""
    found = rounded(evaluate(editor, records, generation=False, oracle=oracle), SHOWN)
    if oracle:  # in use nobody tells, and that is where a memory fires
        found = {name: value for name, value in found.items() if not name.startswith("fired")}

    def exactly(some: Sequence[EditRecord]) -> Metrics:
        return qa_metrics(editor.responder, some, before)

    local = [asked_to_stay(record) for record in records]
    answers = oracle_metrics(local, exactly) if oracle else exactly(local)
    return {**found, **rounded(answers, EXACT)}


def request_ms(handle: ModelHandle, prompts: Sequence[str]) -> float:
    """Median milliseconds of the processor to the first token with hooks and memories silent."""
    spent = []
    generate(handle, prompts[:1], 1)
    for prompt in prompts[:: max(1, len(prompts) // SILENT)]:
        began = time.process_time()
        with plain():
            generate(handle, [prompt], 1)
        spent.append(1000 * (time.process_time() - began))
    return round(statistics.median(spent), 3)


def latency(editor: Editor, records: Sequence[EditRecord], requests: int) -> dict[str, Any]:
    """Milliseconds of an unedited pass; of hooks and memories, time in percent of that.

    Changes of weights add nothing, as they leave nothing to be run.
    """
    edits, _, others = prompts_of(records)
    if not editor.edits:
        return {"silent_ms": request_ms(editor.handle, edits)}
    if not has_routers(editor):
        return {}
    names = {name: name for name in ("request_time", "request_time_neighbors")}
    times = time_metrics(editor.handle, edits, others, requests=requests, tokens=2)
    return dict(rounded(times, names))


def saved_bytes(edits: Sequence[Edit]) -> int:
    """Size of all files of edits that are saved."""
    with tempfile.TemporaryDirectory() as folder:
        for number, edit in enumerate(edits):
            edit.save(Path(folder) / str(number))
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def edited(
    editor: Editor, plan: Plan, data: DataSet, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Edit all facts, batch after batch, and what that cost.

    Methods see the facts alone, not the prompts that they are tested by. What is measured on the
    model once (layers, radii, second moments) is not in the seconds.
    """
    facts = [replace(r.fact, paraphrases=(), neighborhood=()) for r in data.records]
    batches = [facts[at : at + plan.batch] for at in range(0, len(facts), plan.batch)]
    hp = editor.hyperparameters(plan.method, None, batches[0], **settings)
    if get_method(plan.method).needs.second_moments:
        editor.statistics.prepare(hp.layers)
        for layer in hp.layers:
            editor.statistics.spectrum(layer)
    began = time.process_time()
    made = [one.edit for one in editor.edit_in_batches(batches, plan.method, **settings)]
    seconds = time.process_time() - began
    edits = [edit for edit in made if edit is not None]
    solving = sum(
        spent for edit in edits for phase, spent in edit.seconds.items() if phase != "answers"
    )
    size = memory_metrics(editor)["bytes_per_edit"]
    return {
        "settings": {k: v for k, v in hp.model_dump(mode="json").items() if k not in PATHS},
        "seconds_per_100_edits": round(100 * seconds / len(facts), 2),
        "solve_seconds_per_100_edits": round(100 * solving / len(facts), 2),
        "bytes_per_edit": round(size.value) if size else 0,
        "saved_bytes_per_edit": round(saved_bytes(edits) / len(facts)),
    }


def trained_scope(data: DataSet, model: str, folder: Path, *, quick: bool) -> dict[str, Any]:
    """Train a scope into a folder, and what came of it on facts set aside."""
    facts = data.scope_facts()[: 60 if quick else None]
    settings = {"steps": 2, "every": 1, "held_out": 10} if quick else {}
    began = time.process_time()
    done = train(
        TrainRequest(method="serac", model=model, out=folder, facts=facts, settings=settings)
    )
    spent = time.process_time() - began
    return {"facts": len(facts), "seconds": round(spent, 1), "measured": done.place.result()}


class Table:
    """The rows of one data set.

    Attributes:
        model: name or path.
        data: what is edited.
        rows: by the method's label; those of `stored` that are of the same facts, and new ones.
        scope: folder that a scope is trained into, once, if a method asks for it.
    """

    def __init__(self, model: str, data: DataSet, stored: Any, scope: Path, *, quick: bool) -> None:
        self.model, self.data, self.scope, self.quick = model, data, scope, quick
        # Rows of other facts are no comparison.
        same = bool(stored) and stored["about"] == data.about
        self.rows: dict[str, Any] = dict(stored["rows"]) if same else {}
        self._before: Unedited | None = None
        self._trained: dict[str, Any] | None = None

    def wanted(self, named: Sequence[str] | None) -> list[str]:
        """Methods that are named, in that order, or all that are not measured yet."""
        known = (PLAIN, *self.data.plans)
        if named:
            return [label for label in dict.fromkeys(named) if label in known]
        return [label for label in known if label not in self.rows]

    def to_json(self) -> dict[str, Any]:
        """All of it, rows in the order of the table."""
        order = [name for label in LABELS for name in (label, ORACLE.format(label))]
        rows = {label: self.rows[label] for label in order if label in self.rows}
        return {"about": self.data.about, "rows": rows}

    def measure(self, label: str, editor: Editor) -> None:
        """Put a method's row into the table; `editor` has no edits, before and after."""
        if self._before is None:
            local = [asked_to_stay(record) for record in self.data.records]
            self._before = unedited_answers(editor.responder, local)
        began = time.perf_counter()
        if label == PLAIN:
            row = {"figures": figures(editor, self.data.records, self._before)}
            if self.data.requests:
                row["latency"] = latency(editor, self.data.records, self.data.requests)
        else:
            row = self._of_method(label, editor, self._before)
        row["minutes"] = round((time.perf_counter() - began) / 60, 2)
        about = machine.machine()
        row["threads"] = about["machine"]["threads_used"]
        row["load_average_1min"] = about["machine"]["load_average_1min"]
        row["versions"] = about["versions"]
        self.rows[label] = row

    def _of_method(self, label: str, editor: Editor, before: Unedited) -> dict[str, Any]:
        plan, records = self.data.plans[label], self.data.records
        row: dict[str, Any] = {"method": plan.method, "batch": plan.batch}
        settings = dict(plan.settings)
        if plan.scope:
            settings["editor"], row["trained"] = str(self.scope), self._scope_measures()
        try:
            row |= edited(editor, plan, self.data, settings)
            row["figures"] = figures(editor, records, before)
            if self.data.requests:
                row["latency"] = latency(editor, records, self.data.requests)
            if plan.oracle:
                told = figures(editor, records, before, oracle=True)
                self.rows[ORACLE.format(label)] = {"method": plan.method, "figures": told}
        finally:
            editor.set_edits([])
        return row

    def _scope_measures(self) -> dict[str, Any]:
        """What came of training the scope, which is done here the first time."""
        if self._trained is None:
            self._trained = trained_scope(self.data, self.model, self.scope, quick=self.quick)
        return self._trained


def data_sets(
    handle: ModelHandle, model: str, name: str, folder: Path, *, quick: bool
) -> dict[str, DataSet]:
    """What is edited into a model, by name."""
    if model in BUNDLED_MODELS:
        return {"world": of_world(handle, name, QUICK if quick else WORLD)}
    count = QUICK if quick else REAL
    return {"counterfact": of_counterfact(folder, count), "zsre": of_zsre(folder, count)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for, and write it down method by method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="bundled")
    parser.add_argument("--method", nargs="+", choices=LABELS, metavar="NAME", help=str(LABELS))
    parser.add_argument("--records", nargs="+", help="of SmolLM2's data sets; by default all")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real data")
    parser.add_argument("--quick", action="store_true", help="few facts, bundled-small")
    args = parser.parse_args(argv)
    name = "bundled-small" if args.quick else BUNDLED_MODELS.get(args.model, "")
    if args.model == "smollm2":
        gone = [str(path) for path in (RECORDS, ZSRE) if not (args.data / path).is_file()]
        if reason := missing_model(SMOLLM2) or ", ".join(gone):
            sys.exit(f"This cannot be measured here: {reason}.")
        name = str(SMOLLM2.checkpoint)
    torch.set_num_threads(1)
    path = machine.RESULTS / f"memories{'-quick' if args.quick else ''}.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    of_model = {model: result[model] for model in MODELS if model in result}
    editor = Editor.from_pretrained(name, seed=0, progress=False)
    tables = of_model.setdefault(args.model, {})
    sets = data_sets(editor.handle, args.model, name, args.data, quick=args.quick)
    with tempfile.TemporaryDirectory() as scopes:
        for records, data in sets.items():
            if args.records and records not in args.records:
                continue
            scope = Path(scopes) / records
            table = Table(name, data, tables.get(records), scope, quick=args.quick)
            for label in table.wanted(args.method):
                fresh = Editor(editor.handle, editor.statistics, seed=0, progress=False)
                table.measure(label, fresh)
                print(records, label, json.dumps(table.rows[label]), flush=True)
                tables[records] = table.to_json()
                machine.write("memories", of_model, quick=args.quick)


if __name__ == "__main__":
    main()
