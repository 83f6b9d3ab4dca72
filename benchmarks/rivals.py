"""Settings for methods that search no target values, on a model that no preset knows them for.

    python -m benchmarks.rivals --model MODEL --records FILE --text TEXT [--method NAME ...]
    python -m benchmarks.rivals --best

Each setting edits the same facts in two batches, one after the other, and is a line of
results/rivals.jsonl; those that stand there are not run again. `--best` prints the setting of each
method with the highest harmonic mean of what is said, said in other words, and kept. FILE holds
records of which none is reported on, as `benchmarks.counterfacts` writes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import torch

from alphaedit.bench.datasets.registry import load
from alphaedit.bench.sources import known_facts
from alphaedit.editor.session import Editor
from alphaedit.stats.drift import held_out
from benchmarks.frontier import lines
from benchmarks.loads import Candidate, Ground, Plan, chain, write
from benchmarks.machine import RESULTS

BATCH = 51
EARLY, EVERY = [4, 5, 6, 7, 8], list(range(30))
"""Layers of SmolLM2 135M."""
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "lora": (
        *({"layers": EARLY, "learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3)),
        {"layers": EVERY, "learning_rate": 1e-4},
    ),
    "locft-bf": (
        *({"layers": [layer], "learning_rate": 5e-4} for layer in (12, 20, 27)),
        *({"layers": [layer], "learning_rate": 2e-3} for layer in (12, 20, 27)),
    ),
    "ultraedit": tuple({"layers": EARLY, "learning_rate": rate} for rate in (1e-4, 1e-3, 1e-2)),
}
ASKED = ("efficacy_generate", "generalization_generate", "kept")


def score(row: Mapping[str, Any]) -> float:
    """Harmonic mean of what a setting's line says is said, rephrased and kept, in percent."""
    mean: float = harmonic_mean([row[name][0] for name in ASKED])
    return mean


def best(path: Path) -> dict[str, dict[str, Any]]:
    """The line of each method that scores highest."""
    rows: dict[str, dict[str, Any]] = {}
    for row in lines(path):
        name = row["method"]
        if name not in rows or score(row) > score(rows[name]):
            rows[name] = row
    return rows


def main() -> None:
    """Try what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=".models/SmolLM2-135M-Instruct")
    parser.add_argument("--records", type=Path, help="records to edit")
    parser.add_argument("--text", type=Path, help="held-out text")
    parser.add_argument("--method", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--best", action="store_true", help="print what the file says, and end")
    args = parser.parse_args()
    path = RESULTS / "rivals.jsonl"
    if args.best:
        for name, row in best(path).items():
            print(name, row["settings"], {key: row[key] for key in (*ASKED, "kl")})
        return
    if args.records is None or args.text is None:
        parser.error("--records and --text are needed")
    torch.set_num_threads(1)
    editor = Editor.from_pretrained(args.model, seed=0, progress=False)
    records = list(load(args.records).records)[: 2 * BATCH]
    kept = known_facts(editor.handle, {record.subject for record in records}, 0)
    text = held_out(editor.handle, str(args.text), seed=0)
    about = {"model": Path(args.model).name, "records": args.records.name, "batch": BATCH}
    ground = Ground(editor, Plan(BATCH, (2 * BATCH,), 1), None, text, about, path)
    for method in args.method:
        for settings in SETTINGS[method]:
            asked = {**about, "method": method, "settings": settings}
            if any(asked.items() <= row.items() for row in lines(path)):
                continue
            candidate = Candidate(method, settings)
            for edits, row in chain(ground, method, candidate, 0, records, kept):
                write(ground, {"method": method, "settings": settings, "edits": edits, **row})


if __name__ == "__main__":
    main()
