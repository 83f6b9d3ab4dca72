r"""Numbers of experiments on a real model, out of the directories of their runs.

    alphaedit experiment main-table --model .models/SmolLM2-135M-Instruct \
        --records counterfact.json --set edits=250 --set batch_size=20 -o results/real-main-table
    python -m benchmarks.real_experiments results/real-*

Writes `results/real_experiments.json` and copies the pictures beside docs/experiments.md. Tables
are put into the page by `python -m benchmarks.real_page`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from alphaedit.report.experiment import report
from alphaedit.report.results import Results, read
from benchmarks.machine import RESULTS, machine

PICTURES = RESULTS.parents[1] / "docs" / "experiments"
SHOWN = ("radar", "shift", "curves", "pairs", "sweep", "spectrum")
SETTINGS = ("edits", "batch_size", "every", "sample", "seeds", "methods", "held_out")


def of(results: Results) -> dict[str, Any]:
    """What a run was, and its numbers after the last edit and on the way there."""
    spec = results.spec
    (group,) = results.groups
    model, records = group.title.split(", ")
    rows = [
        {
            "label": column.label,
            "edits": column.edits,
            "error": column.error,
            "numbers": {k: [round(x, 4) for x in (r.value, r.low, r.high)] for k, r in
                        column.numbers.items()},
            "curve": {
                edits: {k: round(r.value, 4) for k, r in numbers.items()}
                for edits, numbers in column.curve.items()
            },
        }
        for column in group.columns
    ]  # fmt: skip
    kept = {k: spec[k] for k in SETTINGS if spec.get(k) is not None}
    if "held_out" in kept:
        kept["held_out"] = Path(kept["held_out"]).name
    return {
        "experiment": spec["name"],
        "model": model,
        "records": records,
        **kept,
        "unfinished": len(results.unfinished),
        "rows": rows,
    }


def main() -> None:
    """Write runs into the file, in the place of older ones of their names, and copy pictures."""
    path_of_file = RESULTS / "real_experiments.json"
    found: dict[str, Any] = {}
    if path_of_file.is_file():
        found = json.loads(path_of_file.read_text(encoding="utf-8"))["runs"]
    for path in map(Path, sys.argv[1:]):
        report([path], path / "report.html")
        (results,) = read([path])
        found[path.name] = of(results)
        for picture in sorted((path / "pictures").glob("*.svg")):
            # Runs had others beside them: their seconds do not compare.
            if picture.stem in SHOWN:
                shutil.copy(picture, PICTURES / f"{path.name}-{picture.name}")
    text = json.dumps({**machine(), "runs": found}, indent=1)
    path_of_file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
