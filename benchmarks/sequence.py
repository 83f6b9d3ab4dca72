"""Sequential edits on the bundled model to a load of 0.15: every method, the same records.

    python -m benchmarks.sequence [--load 0.15] [--quick]

Writes results/sequence.json: the table in README.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.run import sequential
from alphaedit.editor.session import Editor
from alphaedit.methods.state import SequentialState
from alphaedit.world.facts import World
from alphaedit.world.records import probes, records
from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"
METHODS = ("alphaedit", "memit", "memit-history", "rome")


def main() -> None:
    """Run all methods and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=float, default=0.15, help="edits / d_in")
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a load of 0.02, 2 batches")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    args = parser.parse_args()
    load, batches = (0.02, 2) if args.quick else (args.load, args.batches)
    world = World.load()
    d_in = Editor.from_pretrained("bundled").handle.d_in(0)
    count = round(load * d_in)
    rows = records(world, count, seed=args.seed)
    chosen = [EditRecord.from_dict(row, f"record {i}") for i, row in enumerate(rows)]
    kept = probes(world, {r.subject for r in chosen}, 1000, seed=args.seed)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("sequence-quick.json" if args.quick else "sequence.json")
    results: dict[str, Any] = {}
    before = None
    editor = Editor.from_pretrained("bundled", seed=args.seed)
    for method in args.methods:
        editor.state = SequentialState()
        run = sequential(
            editor,
            chosen,
            method,
            batch_size=-(-count // batches),
            edits=count,
            seed=args.seed,
            kept=kept,
            before=before,
        )
        before = run.before
        editor.set_edits([])
        results[method] = run.to_json()
        shown = {k: round(v.value, 1) for k, v in run.metrics.items() if v is not None}
        print(method, json.dumps(shown), flush=True)
        out = {"benchmark": "sequence", "load": load, "edits": count, "batches": batches}
        out |= {"seed": args.seed, "results": results, **machine()}
        path.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
