"""Are the layers that `alphaedit trace --suggest-layers` names as good as the best there are?

    python -m benchmarks.layers [--edits 100] [--quick]

Edits the same records with every stretch of one to five neighboring layers of the bundled model,
all else as its preset says, and compares with the stretch suggested from a trace. Writes
results/layers.json; goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.metrics import probability_metrics
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.locate.suggest import MOST_LAYERS, suggest_layers
from alphaedit.locate.trace import trace
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import machine

PATH = Path(__file__).parent / "results" / "layers.json"
MEASURES = ("efficacy", "generalization", "specificity")
TRACED = 50


def measured(editor: Editor, rows: list[EditRecord], layers: tuple[int, ...]) -> dict[str, float]:
    """Metrics after one batch, and their harmonic mean."""
    editor.edit([r.fact for r in rows], "alphaedit", layers=layers)
    found = probability_metrics(editor.handle, rows)
    editor.revert()
    values = {m: rate.value for m in MEASURES if (rate := found[m]) is not None}
    shares = list(values.values())
    score = len(shares) / sum(1 / v for v in shares) if min(shares) > 0 else 0.0
    return {**values, "score": score}


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="ten edits, single layers")
    args = parser.parse_args()
    path, longest, edits = PATH, MOST_LAYERS, args.edits
    if args.quick:
        path, longest, edits = PATH.with_stem("layers-quick"), 1, 10
        path.unlink(missing_ok=True)
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    editor = Editor.from_pretrained("bundled")
    n = editor.handle.n_layers
    found = records(World.load(), edits + TRACED)
    rows = [EditRecord.from_dict(row, f"record {i}") for i, row in enumerate(found)]
    known = [Fact(r.prompt, r.subject, r.target_true) for r in rows[edits:]]
    suggested = suggest_layers(trace(editor.handle, known))
    editor.statistics.prepare(range(n))
    for length in range(1, longest + 1):
        for first in range(n - length + 1):
            layers = tuple(range(first, first + length))
            name = ",".join(map(str, layers))
            if name in results:
                continue
            fresh = Editor(editor.handle, editor.statistics)
            results[name] = measured(fresh, rows[:edits], layers)
            print(name, results[name], flush=True)
            best = max(results, key=lambda key: results[key]["score"])
            chosen = ",".join(map(str, suggested))
            out = {
                "benchmark": "layers",
                "edits": edits,
                "suggested": chosen,
                "best": best,
                "behind": {
                    m: results[best][m] - results[chosen][m] if chosen in results else None
                    for m in (*MEASURES, "score")
                },
                "results": results,
                **machine(),
            }
            path.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
