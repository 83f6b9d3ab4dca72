"""One edit on the bundled model: a whole process of the command line, and inside a running one.

python -m benchmarks.one_edit [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"


def inside(facts: list[Fact]) -> list[float]:
    """Seconds of each edit, answers before and after included, in one process."""
    editor = Editor.from_pretrained("bundled")
    layers = editor.hyperparameters("alphaedit").layers
    editor.statistics.prepare(layers)
    for layer in layers:
        editor.statistics.spectrum(layer)
    seconds = []
    for fact in facts:
        began = time.perf_counter()
        editor.edit(fact)
        seconds.append(time.perf_counter() - began)
    return seconds


def whole(fact: Fact) -> float:
    """Seconds of `alphaedit edit`, process start, evaluation and saving included."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "alphaedit", "edit", "bundled", "--prompt", fact.prompt]
        argv += ["--subject", fact.subject, "--target", fact.target, "-o", f"{folder}/edits", "-q"]
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        return time.perf_counter() - began


def main() -> None:
    """Time both, write results/one_edit.json; second moments are on disk already, as on any day."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 edits, one process")
    count, processes = (3, 1) if parser.parse_args().quick else (20, 5)
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=4)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    warm = inside(facts)
    cli = [whole(fact) for fact in facts[:processes]]
    result = {
        "benchmark": "one_edit",
        "edits": count,
        "first_edit_seconds": warm[0],
        "median_edit_seconds": statistics.median(warm[1:]),
        "slowest_edit_seconds": max(warm),
        "processes": processes,
        "median_process_seconds": statistics.median(cli),
        "slowest_process_seconds": max(cli),
        **machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "one_edit.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
