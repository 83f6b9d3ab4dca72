"""Every candidate for a default, at every load: on facts that no search of settings saw.

    python -m benchmarks.loads                                     # bundled, loads 0.03 to 1.0
    python -m benchmarks.loads --model MODEL --records FILE --text TEXT [--preset NAME]

Facts are edited in equal batches one after the other, by the methods themselves, and measured at
each load. Methods that search target values share them: they are searched once for each draw, on
the unedited model, so that only the systems differ. The three draws of the first two loads are
three draws of the world, or three parts of the records; the first goes on to the larger loads.
Every measurement is a line of results/loads.jsonl, and a method that stands there with all its
loads is not run again. `--own` searches targets batch after batch on the edited model, as users'
edits do; its lines say so. `--ability` names a folder of the published tasks (sst2.json and so on),
which are then asked at each load. FILE holds records as `benchmarks.counterfacts` writes them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from alphaedit.bench.ability import Task, published_tasks, run_task
from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.run import evaluate
from alphaedit.bench.sources import known_facts, world_records
from alphaedit.core.fact import Fact
from alphaedit.editor.checkpoint import stored_dtype
from alphaedit.editor.in_weights import in_weights
from alphaedit.editor.session import Editor
from alphaedit.locate.preset import MEASURED
from alphaedit.methods import locate_then_edit
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.target_value import Targets
from alphaedit.model.route import plain
from alphaedit.stats.drift import HeldOut, held_out
from benchmarks import frontier
from benchmarks.frontier import NEIGHBORS, SHOWN, lines
from benchmarks.machine import RESULTS, machine

PLAIN = "unedited"
DRAWS = 3
SAMPLE = 100
"""Edited records that are measured, and of them the least that any load has."""
Row = tuple[torch.Tensor, torch.Tensor, list[float]]
"""A fact's target value, what it was without, and the losses of its search."""
SMOLLM2 = "SmolLM2-135M-Instruct"
FIRST_SEED = 301
"""Of the draws of the bundled world."""


@dataclass(frozen=True)
class Candidate:
    """A method of the table.

    Attributes:
        method: by its registered name.
        over: settings beside the preset's.
        searches: whether its target values are those that all share.
        only: the model that it is for, if it is not for all.
        in_weights: its hooks are measured as the neurons that a checkpoint gets, rounded to the
            dtype of the model's files.
        preset: another one than the others'; its targets are searched by that, too.
    """

    method: str
    over: Mapping[str, Any] = field(default_factory=dict)
    searches: bool = True
    only: str | None = None
    in_weights: bool = False
    preset: str | None = None


CANDIDATES = {
    "gated": Candidate("gated"),
    "gated, in weights": Candidate("gated", in_weights=True),
    "gated, layers by trials": Candidate("gated", only=SMOLLM2, preset=MEASURED),
    "alphaedit": Candidate("alphaedit"),
    "alphaedit-weighted": Candidate("alphaedit-weighted"),
    "alphaedit-weighted, half precision": Candidate(
        "alphaedit-weighted", {"search_dtype": "bfloat16"}, only=SMOLLM2
    ),
    "alphaedit-weighted, w = 20,000": Candidate(
        "alphaedit-weighted", {"moment_weight": 20_000.0}, only=SMOLLM2
    ),
    "alphaedit-weighted, layers by trials": Candidate(
        "alphaedit-weighted", only=SMOLLM2, preset=MEASURED
    ),
    "alphaedit, energy 0.9": Candidate(
        "alphaedit", {"energy": 0.9, "ridge_share": 0.1}, only=SMOLLM2
    ),
    "memit-history": Candidate("memit-history"),
    "memit-names": Candidate("memit-names"),
    "alphaedit-published": Candidate("alphaedit-published"),
    "emmet": Candidate("emmet"),
    "nas": Candidate("alphaedit", {"plugins": ["norm-anchor"]}),
    "encore": Candidate("memit", {"plugins": ["ridge", "early-stop"]}, searches=False),
    "ultraedit": Candidate("ultraedit", searches=False),
    "locft-bf": Candidate("locft-bf", searches=False),
    "locft-bf, tuned": Candidate(
        "locft-bf", {"layers": [27], "learning_rate": 2e-3}, searches=False, only=SMOLLM2
    ),
    "lora": Candidate("lora", searches=False),
}


@dataclass(frozen=True)
class Plan:
    """Facts in batches, and after how many of them the model is measured.

    Attributes:
        size: facts of a batch.
        at: numbers of edits, rising.
        shared: how many of `at` are asked of every draw; of the first, all.
    """

    size: int
    at: tuple[int, ...]
    shared: int = 2

    def of(self, draw: int) -> tuple[int, ...]:
        """The numbers of edits that a draw is measured at."""
        return self.at[: self.shared] if draw > 0 else self.at


@dataclass(frozen=True)
class Ground:
    """What the methods have in common."""

    editor: Editor
    plan: Plan
    preset: str | None
    text: HeldOut
    about: Mapping[str, Any]
    path: Path
    tasks: Sequence[Task] = ()


def shared(known: Mapping[Fact, Row]) -> Any:
    """Stands for the search: looks its results up."""

    def look_up(handle: Any, facts: Sequence[Fact], *rest: Any, **more: Any) -> Targets:
        rows = [known[bare(fact)] for fact in facts]
        return Targets(
            values=torch.stack([row[0] for row in rows], dim=1),
            clean=torch.stack([row[1] for row in rows], dim=1),
            losses=[row[2] for row in rows],
        )

    return mock.patch.object(locate_then_edit, "find_targets", look_up)


def bare(fact: Fact) -> Fact:
    """A fact without what it is measured by."""
    return replace(fact, paraphrases=(), neighborhood=())


def searched(
    ground: Ground,
    facts: Sequence[Fact],
    folder: Path | None,
    preset: str | None,
    dtype: str | None = None,
) -> dict[Fact, Row]:
    """Target values of all facts on the unedited model; kept in `folder`, if one is given."""
    handle, editor = ground.editor.handle, ground.editor
    over = {"search_dtype": dtype} if dtype else {}
    hp = editor.hyperparameters("alphaedit", preset, list(facts), **over)
    assert isinstance(hp, Hyperparameters)
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    part = "" if preset == ground.preset else f"-{preset}"
    part += f"-{hp.search_dtype}" if hp.search_dtype else ""
    file = folder / f"{ground.about['model']}{part}.pt" if folder else None
    found = frontier.searched(handle, facts, contexts, hp, file)
    rows = zip(found.values.T, found.clean.T, found.losses, strict=True)
    return dict(zip(facts, rows, strict=True))


def figures(
    ground: Ground, records: Sequence[EditRecord], kept: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Shares with their intervals, and what became of other text."""
    handle = ground.editor.handle
    step = max(1, len(records) // SAMPLE)
    near = None if handle.is_bundled else NEIGHBORS
    sample = [
        replace(record, neighborhood_prompts=record.neighborhood_prompts[:near])
        for record in records[::step]
    ]
    metrics = evaluate(ground.editor, sample, kept=kept, generation=False)
    drift = ground.text.drift(handle)
    shown = {
        name: [round(x, 2) for x in (rate.value, rate.low, rate.high)]
        for name in SHOWN
        if (rate := metrics.get(name))
    }
    for task in ground.tasks:
        found = run_task(ground.editor.responder, task).f1
        shown[f"ability:{task.name}"] = [round(x, 2) for x in (found.value, found.low, found.high)]
    return {**shown, "kl": round(drift.kl, 4), "perplexity": round(drift.perplexity, 3)}


@contextmanager
def as_asked(ground: Ground, candidate: Candidate) -> Iterator[None]:
    """The model as a candidate's edits are used, for the length of a block."""
    if not candidate.in_weights:
        yield
        return
    editor = ground.editor
    wider = in_weights(editor.handle, editor.statistics.corpus, editor.edits)
    assert wider is not None
    with plain(), wider.in_place(editor.handle, stored_dtype(editor.handle)):
        yield


def chain(
    ground: Ground,
    label: str,
    candidate: Candidate,
    draw: int,
    records: Sequence[EditRecord],
    kept: Sequence[tuple[str, str]],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Edit batch after batch, and measure at the loads that are asked for."""
    editor, at = ground.editor, ground.plan.of(draw)
    size = ground.plan.size
    batches = [
        [bare(record.fact) for record in records[i : i + size]] for i in range(0, at[-1], size)
    ]
    try:
        done, over = 0, dict(candidate.over)
        preset = candidate.preset or ground.preset
        for batch in editor.edit_in_batches(batches, candidate.method, preset=preset, **over):
            done += len(batch.facts)
            print(label, draw, done, flush=True)
            if done in at:
                with as_asked(ground, candidate):
                    measured = figures(ground, records[:done], kept)
                yield done, measured
    finally:
        editor.set_edits([])


def write(ground: Ground, row: Mapping[str, Any]) -> None:
    """One line more."""
    line = json.dumps({**ground.about, **row, "torch": machine()["versions"]["torch"]})
    with ground.path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


def standing(ground: Ground, label: str, draw: int, own: bool) -> set[int]:
    """The numbers of edits at which a method's draw stands in the file."""
    asked = {**ground.about, "method": label, "draw": draw, "own": own}
    return {row["edits"] for row in lines(ground.path) if asked.items() <= row.items()}


def run(
    ground: Ground,
    draw: int,
    records: Sequence[EditRecord],
    labels: Sequence[str],
    targets: Path | None,
    own: bool,
) -> None:
    """All methods asked for on one draw, but for what stands in the file."""
    plan, handle = ground.plan, ground.editor.handle
    kept = known_facts(handle, {record.subject for record in records}, 0)
    known: dict[tuple[str | None, str | None], dict[Fact, Row]] = {}
    for label in labels:
        candidate = CANDIDATES.get(label)
        if candidate is not None and candidate.only not in (None, ground.about["model"]):
            continue
        missing = set(plan.of(draw)) - standing(ground, label, draw, own)
        if not missing:
            continue
        about = {"method": label, "draw": draw, "own": own}
        if candidate is None:
            for edits in plan.of(draw):
                write(ground, {**about, "edits": edits, **figures(ground, records[:edits], kept)})
            continue
        looked_up: Callable[[], Any] = nullcontext
        if candidate.searches and not own:
            way = candidate.preset or ground.preset, candidate.over.get("search_dtype")
            if way not in known:
                facts = [bare(record.fact) for record in records]
                known[way] = searched(ground, facts, targets, *way)
            looked_up = partial(shared, known[way])
        with looked_up():
            for edits, row in chain(ground, label, candidate, draw, records, kept):
                if edits in missing:
                    write(ground, {**about, "edits": edits, **row})


def draws(
    editor: Editor, plan: Plan, file: Path | None, count: int
) -> Iterator[tuple[int, list[EditRecord]]]:
    """Records of each draw: all that its loads ask for."""
    if file is None:
        for draw in range(count):
            most = plan.of(draw)[-1]
            yield draw, world_records(editor.handle, most, FIRST_SEED + draw)
        return
    every = list(load(file).records)
    part = plan.at[plan.shared - 1]
    for draw in range(count):
        most = plan.of(draw)[-1]
        yield draw, (every[draw * part :] + every[: draw * part])[:most]


def planned(d_in: int, *, real: bool, quick: bool, only: Sequence[float] = ()) -> Plan:
    """Batches and loads by the width of the keys; or `only` these loads, of every draw."""
    if quick:
        return Plan(3, (3, 6, 9))
    loads = (0.033, 0.1, 0.3) if real else (0.03, 0.15, 0.5, 1.0)
    size = round(loads[0] * d_in)
    at = tuple(size * round(load * d_in / size) for load in only or loads)
    return Plan(size, at, len(only) or 2)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--records", type=Path, help="records to edit, for a real model")
    parser.add_argument("--text", type=Path, help="held-out text, for a real model")
    parser.add_argument("--preset", help="by default the one that fits the model")
    parser.add_argument("--method", nargs="+", choices=(PLAIN, *CANDIDATES), help="only these")
    parser.add_argument("--loads", type=float, nargs="+", default=(), help="only these")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--targets", type=Path, help="folder to keep target values in")
    parser.add_argument("--own", action="store_true", help="search on the edited model")
    parser.add_argument("--ability", type=Path, help="folder of the published tasks")
    parser.add_argument("--quick", action="store_true", help="nine facts of bundled-small")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    name = "bundled-small" if args.quick else args.model
    editor = Editor.from_pretrained(name, seed=0, progress=False)
    real, width = args.records is not None, editor.handle.d_in(0)
    plan = planned(width, real=real, quick=args.quick, only=args.loads)
    ground = Ground(
        editor,
        plan,
        args.preset,
        held_out(editor.handle, str(args.text) if args.text else None, seed=0),
        {
            "model": Path(name).name,
            "records": args.records.name if args.records else "world",
            "batch": plan.size,
        },
        RESULTS / ("loads-quick.jsonl" if args.quick else "loads.jsonl"),
        published_tasks(args.ability) if args.ability else (),
    )
    for draw, records in draws(editor, plan, args.records, args.draws):
        run(ground, draw, records, args.method or [PLAIN, *CANDIDATES], args.targets, args.own)


if __name__ == "__main__":
    main()
