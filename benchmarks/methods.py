"""Seconds per 100 edits of every method on the bundled model, and where they go.

python -m benchmarks.methods [--quick]
"""

from __future__ import annotations

import argparse
import time

from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.methods.registry import methods
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import write


def main() -> None:
    """Edit the facts in one batch by each method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 facts")
    quick = parser.parse_args().quick
    count = 10 if quick else 100
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=5)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    editor = Editor.from_pretrained("bundled")
    editor.statistics.prepare(range(editor.handle.n_layers - 1))
    for layer in range(4):
        editor.statistics.spectrum(layer)
    rows = {}
    for name, method in methods().items():
        # Hooks and memories are in benchmarks.memories; trained editors need a training first.
        if method.installs or method.needs.trained_network:
            continue
        fresh = Editor(editor.handle, editor.statistics)
        began = time.perf_counter()
        edit = fresh.edit(facts, name)
        whole = time.perf_counter() - began
        fresh.revert()
        spent = sum(edit.seconds.values())
        shares = {phase: seconds / spent for phase, seconds in edit.seconds.items()}
        rows[name] = {
            "seconds_per_100": spent * 100 / count,
            "with_answers_before_and_after": whole * 100 / count,
            "shares": shares,
        }
        print(f"{name:20} {rows[name]['seconds_per_100']:8.2f}  {shares}", flush=True)
    write("methods", {"facts": count, "methods": rows}, quick=quick)


if __name__ == "__main__":
    main()
