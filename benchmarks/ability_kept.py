"""What general ability is left after hundreds of edits: the published tasks, before and after.

    python -m benchmarks.ability_kept --model MODEL --records FILE --text TEXT --ability FOLDER
        [--method NAME ...] [--preset NAME] [--targets DIR]

Edits all of FILE's facts in batches, as `benchmarks.loads` does with targets of the unedited model,
and asks the tasks in FOLDER (sst2.json and so on), the same questions before and after. Writes
results/ability_kept.json, anew after each method.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.ability import Task, published_tasks, run_task
from alphaedit.core.defaults import METHOD
from alphaedit.editor.session import Editor
from alphaedit.stats.drift import held_out
from benchmarks.loads import PLAIN, Ground, bare, draws, planned, searched, shared
from benchmarks.machine import RESULTS, write


def asked(editor: Editor, tasks: Sequence[Task]) -> dict[str, list[float]]:
    """F1 of each task in percent, with its interval."""
    scores = {}
    for task in tasks:
        rate = run_task(editor.responder, task).f1
        scores[task.name] = [round(x, 2) for x in (rate.value, rate.low, rate.high)]
        print(task.name, scores[task.name], flush=True)
    return scores


def main() -> None:
    """Ask, edit, ask again, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--records", type=Path, required=True, help="records to edit")
    parser.add_argument("--text", type=Path, required=True, help="held-out text")
    parser.add_argument("--ability", type=Path, required=True, help="folder of the tasks")
    parser.add_argument("--method", nargs="+", default=["gated", METHOD])
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
    rows: dict[str, Any] = {PLAIN: {"tasks": asked(editor, tasks), "perplexity": text.perplexity}}
    for method in args.method:
        with shared(known):
            for batch in editor.edit_in_batches(batches, method, preset=args.preset):
                print(method, len(batch.facts), flush=True)
        perplexity = text.drift(editor.handle).perplexity
        rows[method] = {"tasks": asked(editor, tasks), "perplexity": perplexity}
        editor.set_edits([])
        print(write("ability_kept", {**about, "edits": len(facts), "rows": rows}, quick=False))


if __name__ == "__main__":
    main()
