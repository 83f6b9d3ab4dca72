"""Learned editors, each measured on subjects that it was not trained on.

    python -m benchmarks.learned [--part PART ...] [--row ROW ...] [--editors FOLDER] [--quick]

Parts: single (100 facts, each alone and undone before the next), sequence (100 one after the
other), batch (1,000 at once) on the bundled model; small (100 facts, each alone), fours (200 in
batches of four) and tasks (one that was not trained on) on bundled-small; zsre on SmolLM2 (`make
real`). Editors that do not come with the package
are trained first, into build/editors; what was begun there goes on. Row after row is put into
results/learned.json; rows that stand there are left, unless they are named. Seconds are of the
processor. `python -m benchmarks.learned_page` makes the tables of docs/methods/learned.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import mean, percent
from alphaedit.bench.metrics import Metrics
from alphaedit.bench.qa import Unedited, qa_metrics, unedited_answers
from alphaedit.bench.run import evaluate
from alphaedit.core.errors import VerdictWarning
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.jobs.train import TrainRequest
from alphaedit.jobs.train import run as train
from alphaedit.methods.learned import asset
from alphaedit.methods.learned.editor import EditorNetwork
from alphaedit.methods.learned.measuring import Hits
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.record import ABOUT
from alphaedit.methods.learned.step_size import scaled, sizes_until
from alphaedit.methods.registry import get_method
from alphaedit.methods.steps.gradients import for_each_row
from alphaedit.model.handle import ModelHandle
from benchmarks import machine
from benchmarks.golden import DATA
from benchmarks.learned_data import (
    ASKED_OF,
    BY_NETWORK,
    PLANS,
    SMALL,
    TRAININGS,
    UNTIL,
    Plan,
    Training,
    facts_named,
    of_zsre,
    rows_of,
)
from benchmarks.memories import EXACT, SHOWN, asked_to_stay, rounded
from benchmarks.memories_data import ZSRE
from benchmarks.real_models import SMOLLM2
from benchmarks.real_models import missing as missing_model

PLAIN, REAL = "unedited", "zsre"
EDITORS = Path("build", "editors")
REAL_TRAINING = Training(
    "mend",
    REAL,
    {
        **{"steps": 800, "every": 100, "batch": 4, "held_out": 30, "neighbors": 2, "warm": 100},
        "learning_rate": 5e-4,
    },
)
REAL_PLANS = {
    "mend": Plan("mend", editor="mend-smollm2"),
    "mend, until 0.69": Plan("mend", editor="mend-smollm2", settings=UNTIL),
}
CHANCES = ("efficacy", "generalization", "specificity")
AT_ONCE = 8
QUICK_TRAINING = {"steps": 2, "every": 1, "held_out": 10, "batch": 3}


class Bench:
    """Editors and rows of one model.

    Attributes:
        name: of the model, or its path.
        folder: of trained editors.
        results: rows by part and label.
    """

    def __init__(self, name: str, folder: Path, results: dict[str, Any], *, quick: bool) -> None:
        self.name, self.folder, self.results, self.quick = name, folder, results, quick
        self.editor = Editor.from_pretrained(name, seed=0, progress=False)

    def save(self) -> None:
        """Write all that is measured."""
        machine.write("learned", self.results, quick=self.quick)

    def trained(self, name: str, training: Training, facts: Sequence[Fact]) -> Path:
        """The folder of an editor; it is trained if it is not there, and what that gave is kept."""
        place = self.folder / (f"{name}-quick" if self.quick else name)
        own = self.results.setdefault("trainings", {})
        if (place / ABOUT).is_file() and not (place / "training").is_dir():
            own.setdefault(name, _told(place, None))
            return place
        settings = {**training.settings, **(QUICK_TRAINING if self.quick else {})}
        began = time.process_time()
        train(
            TrainRequest(
                method=training.method,
                model=self.name,
                out=place,
                facts=list(facts),
                settings=settings,
            )
        )
        own[name] = _told(place, time.process_time() - began)
        self.save()
        return place

    def row(self, part: str, plan: Plan, records: Sequence[EditRecord]) -> dict[str, Any]:
        """Edit by a plan, and measure."""
        settings = dict(plan.settings)
        if plan.editor is not None:
            settings["editor"] = str(self._editor_of(plan.editor))
        began = time.perf_counter()
        editor = self._fresh()
        alone = part in ("single", REAL)
        prepared(editor, plan, records[0].fact, settings)
        row = {"method": plan.method, "settings": dict(plan.settings)}
        if part.partition(",")[0] in BY_NETWORK:
            row |= by_network(editor, plan, records, settings)
        elif alone:
            row |= each_alone(editor, plan, records, settings)
        else:
            row |= all_in_force(editor, plan, records, settings, every=ASKED_OF.get(part, 1))
            editor.set_edits([])
        row["minutes"] = round((time.perf_counter() - began) / 60, 2)
        row["load_average_1min"] = machine.machine()["machine"]["load_average_1min"]
        return row

    def unedited(self, part: str, records: Sequence[EditRecord]) -> dict[str, Any]:
        """What the model says before any edit."""
        records = records[:: ASKED_OF.get(part, 1)]
        editor = self._fresh()
        if part.partition(",")[0] in BY_NETWORK:
            found = evaluate(editor, records, generation=False)
            return {"figures": shown({name: found[name] for name in CHANCES})}
        return {"figures": shown(figures(editor, records, said_before(editor, records)))}

    def _fresh(self) -> Editor:
        """The model without edits."""
        assert self.editor.handle.fingerprint() == self.editor.base, "edits are in force"
        return Editor(self.editor.handle, self.editor.statistics, seed=0, progress=False)

    def _editor_of(self, name: str) -> Path:
        if name == "mend-smollm2":
            return self.trained(name, REAL_TRAINING, of_zsre(DATA)[1])
        training = TRAININGS[name]
        facts = facts_named(training.facts, self.editor.handle, quick=self.quick)
        return self.trained(name, training, facts)


def _told(place: Path, seconds: float | None) -> dict[str, Any]:
    """What an editor says of its training, and its seconds if it was made just now."""
    about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
    names = ("method", "facts", "steps", "settings", "measured", "curve")
    told = {name: about[name] for name in names}
    return {**told, "seconds": None if seconds is None else round(seconds)}


def prepared(editor: Editor, plan: Plan, fact: Fact, settings: Mapping[str, Any]) -> None:
    """Measure what a method wants to know of the model once, so that it is in no edit's seconds."""
    hp = editor.hyperparameters(plan.method, None, [fact], **settings)
    if get_method(plan.method).needs.second_moments:
        editor.statistics.prepare(hp.layers)
        for layer in hp.layers:
            editor.statistics.spectrum(layer)


def bare(record: EditRecord) -> Fact:
    """The fact without the prompts that it is tested by."""
    return replace(record.fact, paraphrases=(), neighborhood=())


def figures(editor: Editor, records: Sequence[EditRecord], before: Unedited) -> Metrics:
    """Probabilities, exact answers, and neighbors that are answered as before."""
    chances = evaluate(editor, records, generation=False)
    answers = qa_metrics(editor.responder, [asked_to_stay(record) for record in records], before)
    found = {name: rate for name, rate in chances.items() if name in SHOWN}
    return {**found, **{EXACT[name]: rate for name, rate in answers.items() if name in EXACT}}


def said_before(editor: Editor, records: Sequence[EditRecord]) -> Unedited:
    """What the model says to neighbors now."""
    return unedited_answers(editor.responder, [asked_to_stay(record) for record in records])


def shown(metrics: Metrics) -> dict[str, list[float]]:
    """Values with their 95 % intervals."""
    return rounded(metrics, {name: name for name in metrics})


@contextmanager
def spent(into: list[float]) -> Iterator[None]:
    """Append the seconds of the processor that a block takes; phases of edits count them, too."""
    began = time.process_time()
    with patch("alphaedit.methods.timer.time.perf_counter", time.process_time):
        yield
    into.append(time.process_time() - began)


def each_alone(
    editor: Editor, plan: Plan, records: Sequence[EditRecord], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Edit each fact, measure it, and undo it."""
    before = said_before(editor, records)
    whole: list[float] = []
    solving: list[float] = []
    parts: list[Metrics] = []
    for record in records:
        with spent(whole):
            edit = editor.edit([bare(record)], plan.method, **settings)
        solving.append(sum(s for phase, s in edit.seconds.items() if phase != "answers"))
        parts.append(figures(editor, [record], before))
        editor.set_edits([])
    return {
        "edits": len(records),
        "seconds_per_edit": round(statistics.median(whole), 4),
        "solve_seconds_per_edit": round(statistics.median(solving), 4),
        "figures": shown(pooled(parts)),
    }


def all_in_force(
    editor: Editor,
    plan: Plan,
    records: Sequence[EditRecord],
    settings: Mapping[str, Any],
    *,
    every: int,
) -> dict[str, Any]:
    """Edit all facts, batch after batch, and ask each `every`-th when all are edited."""
    asked = records[::every]
    before = said_before(editor, asked)
    facts = [bare(record) for record in records]
    size = plan.batch or len(facts)
    batches = [facts[at : at + size] for at in range(0, len(facts), size)]
    whole: list[float] = []
    with spent(whole):
        made = [one.edit for one in editor.edit_in_batches(batches, plan.method, **settings)]
    solving = sum(
        seconds
        for edit in made
        if edit is not None
        for phase, seconds in edit.seconds.items()
        if phase != "answers"
    )
    return {
        "edits": len(facts),
        "asked": len(asked),
        "batch": size,
        "seconds": round(whole[0], 2),
        "solve_seconds": round(solving, 2),
        "figures": shown(figures(editor, asked, before)),
    }


def by_network(
    editor: Editor, plan: Plan, records: Sequence[EditRecord], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Each fact alone as in `each_alone`, some at a time: passes with a change for each row."""
    method = get_method(plan.method)
    assert isinstance(method, LearnedMethod)
    handle = editor.handle
    place, about = asset.find(plan.method, settings.get("editor"), handle.fingerprint())
    network = asset.load(place, about, method.network).eval()
    hits = measured_hits(handle, network, [r.fact for r in records], settings.get("until"))
    kinds = dict(zip(CHANCES, (hits.own, hits.paraphrase, hits.neighbor), strict=True))
    return {
        "edits": len(records),
        "figures": shown({name: percent(own) for name, own in kinds.items()}),
    }


def measured_hits(
    handle: ModelHandle, network: EditorNetwork, facts: Sequence[Fact], until: float | None
) -> Hits:
    """Which prompts go as they should, each fact edited alone."""
    hits = Hits()
    for at in range(0, len(facts), AT_ONCE):
        part = facts[at : at + AT_ONCE]
        changes = network.propose(handle, part).changes
        if until:
            changes = scaled(changes, sizes_until(handle, part, changes, until))
        pairs = {layer: (change.left, change.right) for layer, change in changes.items()}
        hits.count(handle, part, partial(for_each_row, handle, pairs))
    return hits


def pooled(parts: Sequence[Metrics]) -> Metrics:
    """Of all prompts together, from figures of each record."""
    names = dict.fromkeys(name for part in parts for name in part)
    whole: Metrics = {}
    for name in names:
        rates = [rate for part in parts if (rate := part.get(name)) is not None]
        hits = [rate.value * rate.n / 100 for rate in rates]
        if all(abs(hit - round(hit)) < 1e-6 for hit in hits):
            right, asked = sum(map(round, hits)), sum(rate.n for rate in rates)
            whole[name] = percent([True] * right + [False] * (asked - right))
        else:  # shares of tokens
            whole[name] = mean([rate.value for rate in rates])
    return whole


def measured(bench: Bench, part: str, label: str, plan: Plan | None, records: Any) -> None:
    """Put one row into the results."""
    rows = bench.results.setdefault(part, {})
    rows[label] = bench.unedited(part, records) if plan is None else bench.row(part, plan, records)
    order = [PLAIN, *PLANS.get(part.partition(",")[0], REAL_PLANS)]
    bench.results[part] = {name: rows[name] for name in order if name in rows}
    print(part, label, json.dumps(rows[label]), flush=True)
    bench.save()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for, and write it down row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", nargs="+", choices=(*PLANS, REAL), default=list(PLANS))
    parser.add_argument("--row", nargs="+", metavar="ROW", help="only these, and anew")
    parser.add_argument("--editors", type=Path, default=EDITORS, help="folder of trained editors")
    parser.add_argument("--quick", action="store_true", help="few facts, bundled-small")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    # Facts that do not hold are what is measured.
    warnings.simplefilter("ignore", VerdictWarning)
    path = machine.RESULTS / f"learned{'-quick' if args.quick else ''}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own = ("trainings", REAL, *PLANS)
    results = {name: rows for name, rows in stored.items() if name.partition(",")[0] in own}
    real = REAL in args.part
    if real and (reason := missing_model(SMOLLM2) or _missing_records()):
        sys.exit(f"This cannot be measured here: {reason}.")
    benches: dict[str, Bench] = {}
    for part in [REAL] if real else args.part:
        name = "bundled-small" if args.quick or part in SMALL else "bundled"
        name = str(SMOLLM2.checkpoint) if real else name
        if name not in benches:
            benches[name] = Bench(name, args.editors, results, quick=args.quick)
        bench = benches[name]
        plans = REAL_PLANS if real else PLANS[part]
        sets = (
            {REAL: of_zsre(DATA)[0]}
            if real
            else rows_of(part, bench.editor.handle, quick=args.quick)
        )
        for title, records in sets.items():
            for label, plan in {PLAIN: None, **plans}.items():
                stands = label in results.get(title, {})
                if label in args.row if args.row else not stands:
                    measured(bench, title, label, plan, records)


def _missing_records() -> str | None:
    return None if (DATA / ZSRE).is_file() else f"there is no {ZSRE}"


if __name__ == "__main__":
    main()
