"""What general ability is left after hundreds of edits: the published tasks, before and after.

    python -m benchmarks.ability_kept --model MODEL --records FILE --text TEXT --ability FOLDER
        [--method NAME ...] [--preset NAME] [--targets DIR]

Edits all of FILE's facts in batches, as `benchmarks.loads` does with targets of the unedited model
(names are those of its candidates), and asks the tasks in FOLDER (sst2.json and so on), the same
questions before and after. Writes results/ability_kept.json after each method; those that stand
there are not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.ability import Task, published_tasks, run_task
from alphaedit.core.defaults import WEIGHTS
from alphaedit.editor.session import Editor
from alphaedit.stats.drift import held_out
from benchmarks.loads import (
    CANDIDATES,
    PLAIN,
    Ground,
    as_asked,
    bare,
    draws,
    planned,
    searched,
    shared,
)
from benchmarks.machine import RESULTS, write

DEFAULT = ("gated", "gated, in weights", WEIGHTS)


def asked(editor: Editor, tasks: Sequence[Task]) -> dict[str, list[float]]:
    """F1 of each task in percent, with its interval."""
    scores = {}
    for task in tasks:
        rate = run_task(editor.responder, task).f1
        scores[task.name] = [round(x, 2) for x in (rate.value, rate.low, rate.high)]
        print(task.name, scores[task.name], flush=True)
    return scores


def standing(about: Mapping[str, Any], edits: int) -> dict[str, Any]:
    """What the file has of this model and number of edits."""
    path = RESULTS / "ability_kept.json"
    if not path.is_file():
        return {}
    before = json.loads(path.read_text(encoding="utf-8"))
    rows: dict[str, Any] = before["rows"]
    return rows if {**about, "edits": edits}.items() <= before.items() else {}


def main() -> None:
    """Ask, edit, ask again, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--records", type=Path, required=True, help="records to edit")
    parser.add_argument("--text", type=Path, required=True, help="held-out text")
    parser.add_argument("--ability", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--method", nargs="+", choices=tuple(CANDIDATES), default=DEFAULT)
    parser.add_argument("--preset", help="by default the one that fits the model")
    parser.add_argument("--targets", type=Path, help="folder to keep target values in")
    args = parser.parse_args()
    torch.set_num_threads(1)
    editor = Editor.from_pretrained(args.model, seed=0, progress=False)
    plan = planned(editor.handle.d_in(0), real=True, quick=False)
    _, records = next(draws(editor, plan, args.records, 1))
    facts = [bare(record.fact) for record in records]
    text = held_out(editor.handle, str(args.text), seed=0)
    about = {"model": Path(args.model).name}
    ground = Ground(editor, plan, args.preset, text, about, RESULTS / "loads.jsonl")
    known = searched(ground, facts, args.targets, args.preset)
    tasks = published_tasks(args.ability)
    batches = [facts[at : at + plan.size] for at in range(0, len(facts), plan.size)]
    rows = standing(about, len(facts))
    if PLAIN not in rows:
        rows[PLAIN] = {"tasks": asked(editor, tasks), "perplexity": text.perplexity}
    for label in args.method:
        if label in rows:
            continue
        candidate = CANDIDATES[label]
        preset, over = candidate.preset or args.preset, dict(candidate.over)
        with shared(known) if candidate.searches else nullcontext():
            for batch in editor.edit_in_batches(batches, candidate.method, preset=preset, **over):
                print(label, len(batch.facts), flush=True)
        with as_asked(ground, candidate):
            perplexity = text.drift(editor.handle).perplexity
            rows[label] = {"tasks": asked(editor, tasks), "perplexity": perplexity}
        editor.set_edits([])
        print(write("ability_kept", {**about, "edits": len(facts), "rows": rows}, quick=False))


if __name__ == "__main__":
    main()
