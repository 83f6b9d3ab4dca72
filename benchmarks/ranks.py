"""A batch of edits on the bundled model by one rank on one core, and by two on two.

    python -m benchmarks.ranks [--quick]

Each rank has one thread. Writes results/ranks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import write

WORKER = """
import json, sys, time
from alphaedit import Editor, Fact
from alphaedit.core.ranks import from_environment, leave
from alphaedit.world.facts import World
from alphaedit.world.records import records
ranks = from_environment()
count = int(sys.argv[1])
chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=3)]
facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
editor = Editor.from_pretrained("bundled", ranks=ranks)
editor.edit(facts[:4])
editor.revert()
ranks.objects(0)
times = []
for _ in range(2):
    began = time.perf_counter()
    edit = editor.edit(facts)
    ranks.objects(0)
    times.append(time.perf_counter() - began)
    editor.revert()
if ranks.first:
    p = sum(a.p_target for a in edit.after) / len(facts)
    print(json.dumps({"seconds": min(times), "phases": edit.seconds, "p_target": p}))
leave()
"""


def run(ranks: int, count: int) -> dict[str, Any]:
    """Seconds of one batch, answers before and after included."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "worker.py"
        script.write_text(WORKER, encoding="utf-8")
        argv = [sys.executable]
        if ranks > 1:
            argv += ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
            argv += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*argv, str(script), str(count)],
            check=True,
            capture_output=True,
            text=True,
            env=environment,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run both and write the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 facts")
    quick = parser.parse_args().quick
    count = 10 if quick else 100
    one, two = run(1, count), run(2, count)
    speedup = one["seconds"] / two["seconds"]
    result = {"facts": count, "one": one, "two": two, "speedup": speedup, "of_ideal": speedup / 2}
    print(result)
    write("ranks", result, quick=quick)


if __name__ == "__main__":
    main()
