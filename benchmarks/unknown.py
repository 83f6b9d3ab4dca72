"""Edits of real models that no preset knows, with what trial edits choose: `make real` first.

    python -m benchmarks.unknown [--data DIR] [--model NAME ...] [--method NAME] [--stretches]

Three draws of twenty CounterFact records, one batch each, on each model; all in
results/unknown.json, those of another method than the default under its name.
With --stretches instead every stretch of layers of the usual length on the first draw, by the same
settings, to see how far the choice is from the best there is (results/stretches.json). The data are
samples of CounterFact (`counterfact/counterfact_250.json`), in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.core.defaults import WEIGHTS
from alphaedit.core.progress import silent
from alphaedit.editor.session import Editor
from alphaedit.locate.preset import MEASURED
from alphaedit.locate.suggest import window
from alphaedit.locate.trials import CLAMPS, DEEPEST, Trials
from benchmarks.golden import DATA, METRICS, RECORDS, figures
from benchmarks.machine import RESULTS, write
from benchmarks.real_models import GEMMA, SMOLLM2

DRAWS, COUNT = (0, 20, 40), 20
MODELS = {"smollm2": SMOLLM2, "gemma": GEMMA}


def draw(data: Path, start: int) -> list[EditRecord]:
    """Twenty records from `start` on."""
    return list(load(data / RECORDS).records)[start : start + COUNT]


def score(found: dict[str, float]) -> float:
    """Harmonic mean of the three shares, as CounterFact's score."""
    shares = [found[name] for name in METRICS]
    return 3 / sum(1 / share for share in shares) if min(shares) > 0 else 0.0


def edited(
    editor: Editor, rows: Sequence[EditRecord], method: str = WEIGHTS, **settings: Any
) -> dict[str, Any]:
    """Figures of one batch, which is undone."""
    began = time.perf_counter()
    facts = [fact for row in rows for fact in row.facts]
    edit = editor.edit(facts, method, preset=MEASURED, **settings)
    took = time.perf_counter() - began
    found: dict[str, Any] = figures(editor, list(rows))
    editor.revert()
    chosen = edit.measured.get("values", {})
    return {**found, "score": score(found), "seconds": took, "chosen": chosen}


def of_draws(editor: Editor, data: Path, method: str) -> dict[str, Any]:
    """Each draw unedited and edited, and their means."""
    found = []
    for start in DRAWS:
        rows = draw(data, start)
        unedited = figures(editor, rows)
        own = edited(editor, rows, method)
        found.append({"from": start, "unedited": unedited, "edited": own})
        print(found[-1], flush=True)
    means = {
        state: {
            name: sum(one[state][name] for one in found) / len(found)
            for name in found[0]["unedited"]
        }
        for state in ("unedited", "edited")
    }
    return {"draws": found, "mean": means}


def of_stretches(editor: Editor, data: Path) -> list[dict[str, Any]]:
    """The first draw by every stretch of the usual length, rates and clamp as chosen."""
    handle, rows = editor.handle, draw(data, DRAWS[0])
    trials = Trials(handle, editor.statistics, one_layer=False, over={}, seed=0, progress=silent)
    length = len(window(handle.n_layers, handle.n_layers))
    stretches = [
        tuple(range(end - length + 1, end + 1))
        for end in range(length - 1, round(DEEPEST * handle.n_layers) + 1)
    ]
    editor.statistics.prepare(range(stretches[-1][-1] + 1))
    found = []
    for layers in stretches:
        settings = trials.settings(layers, CLAMPS[0])
        own = edited(editor, rows, layers=layers, **settings)
        found.append({"layers": layers, **{k: v for k, v in own.items() if k != "chosen"}})
        print(found[-1], flush=True)
    return found


def main() -> None:
    """Measure what is asked for, and write its file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--method", default=WEIGHTS)
    parser.add_argument("--stretches", action="store_true", help="all stretches of one draw")
    parser.add_argument("--threads", type=int, help="by default what PyTorch takes")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    name = "stretches" if args.stretches else "unknown"
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    result = {key: rows for key, rows in before.items() if key.partition(",")[0] in MODELS}
    for model in args.model:
        editor = Editor.from_pretrained(MODELS[model].checkpoint, seed=0, progress=False)
        if args.stretches:
            result[model] = of_stretches(editor, args.data)
        else:
            label = model if args.method == WEIGHTS else f"{model}, {args.method}"
            result[label] = of_draws(editor, args.data, args.method)
    print(write(name, result, quick=False))


if __name__ == "__main__":
    main()
