"""Prompts of a fact in turns: what a search finds that reads a part of them in every step.

    python -m benchmarks.turns [--quick]
    python -m benchmarks.turns --model .models/SmolLM2-135M-Instruct --records FILE [--first 100]

The same facts in one batch, all else equal, with 1, 2 and 3 turns: 100 facts of the bundled world,
or 40 of FILE (as `benchmarks.counterfacts` writes it) from the `--first` on, with the settings that
the model itself chose. Seconds are of the processor, on one thread. Row after row into
results/turns.json; other models' stay.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.run import evaluate
from alphaedit.bench.sources import world_records
from alphaedit.editor.session import Editor
from benchmarks import machine

METHOD, TURNS = "memit-history", (1, 2, 3)
WORLD, REAL, QUICK, SEED = 100, 40, 6, 5
SHOWN = (
    *("efficacy", "generalization", "specificity"),
    *("efficacy_generate", "generalization_generate"),
)


def row_of(editor: Editor, records: Sequence[EditRecord], turns: int) -> dict[str, Any]:
    """Figures of one batch, which is undone."""
    facts = [replace(record.fact, paraphrases=(), neighborhood=()) for record in records]
    began = time.process_time()
    edit = editor.edit(facts, METHOD, turns=turns)
    spent = time.process_time() - began
    metrics = evaluate(editor, records, generation=False)
    editor.revert()
    figures = {name: rate for name in SHOWN if (rate := metrics.get(name)) is not None}
    return {
        "turns": turns,
        "seconds": round(spent, 1),
        "steps": edit.hyperparameters["steps"],
        **{
            name: [round(x, 1) for x in (rate.value, rate.low, rate.high)]
            for name, rate in figures.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--records", type=Path, help="records to edit, for a real model")
    parser.add_argument("--first", type=int, default=0, help="of FILE's records")
    parser.add_argument("--quick", action="store_true", help="six facts of bundled-small")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    editor = Editor.from_pretrained(
        "bundled-small" if args.quick else args.model, seed=0, progress=False
    )
    if args.records:
        records = list(load(args.records).records)[args.first : args.first + REAL]
    else:
        records = world_records(editor.handle, QUICK if args.quick else WORLD, SEED)
    path = machine.RESULTS / f"turns{'-quick' if args.quick else ''}.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    models = dict(stored.get("models", {}))
    hp = editor.hyperparameters(METHOD, None, [record.fact for record in records])
    editor.statistics.prepare(hp.layers)
    name, rows = Path(args.model).name, []
    for turns in TURNS[: 2 if args.quick else None]:
        rows.append(row_of(editor, records, turns))
        print(name, json.dumps(rows[-1]), flush=True)
        models[name] = {"facts": len(records), "layers": list(hp.layers), "rows": rows}
        machine.write("turns", {"models": models}, quick=args.quick)


if __name__ == "__main__":
    main()
