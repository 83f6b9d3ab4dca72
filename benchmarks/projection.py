"""What the projection does for each method: with and without `project`, at growing loads.

    python -m benchmarks.projection [--methods memit rome ...] [--quick]

Sequential edits on the bundled model; at each load a sample of the edits made so far and kept facts
are measured. Writes results/projection.json and docs/projection.svg; goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alphaedit.bench.data import EditRecord
from alphaedit.bench.run import evaluate
from alphaedit.editor.session import Editor
from alphaedit.world.facts import World
from alphaedit.world.records import probes, records
from benchmarks.machine import machine

HERE = Path(__file__).parent
METHODS = ("memit", "memit-history", "emmet", "prune", "rect", "rome", "ft")
LOADS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
MEASURES = ("efficacy", "generalization", "specificity", "kept")
SAMPLE = 120
PROJECTED: dict[str, dict[str, Any]] = {"ft": {"learning_rate": 0.002}}
"""Settings with projection: inside the null space, small gradient steps get nowhere."""


def run(
    editor: Editor, method: str, plugins: tuple[str, ...], rows: list[EditRecord], loads: Any
) -> list[dict[str, float]]:
    """Metrics at each load."""
    d_in, world = editor.handle.d_in(0), World.load()
    kept = probes(world, {r.subject for r in rows}, 400)
    curve, done = [], 0
    over: dict[str, Any] = {"plugins": plugins, "energy": 0.9}
    over |= PROJECTED.get(method, {}) if plugins else {}
    for load in loads:
        count = round(load * d_in)
        while done < count:
            batch = rows[done : min(done + 62, count)]
            editor.edit([r.fact for r in batch], method, **over)
            done += len(batch)
        step = max(1, done // SAMPLE)
        found = evaluate(editor, rows[:done:step], kept=kept, generation=False)
        values = {name: rate.value for name, rate in found.items() if rate is not None}
        curve.append({"load": load, "edits": done, **{m: values[m] for m in MEASURES}})
        print(method, plugins, curve[-1], flush=True)
    editor.set_edits([])
    return curve


def picture(results: dict[str, Any]) -> Figure:
    """One row of panels for each measure, a column for each method; dashed without projection."""
    figure = Figure(figsize=(2.1 * len(results), 7), layout="constrained")
    grid = figure.subplots(len(MEASURES), len(results), sharex=True, sharey="row", squeeze=False)
    for column, (method, runs) in enumerate(results.items()):
        grid[0][column].set_title(method, fontsize=9)
        for row, measure in enumerate(MEASURES):
            axes = grid[row][column]
            for kind, style, color in (("plain", "--", "#d55e00"), ("project", "-", "#0072b2")):
                curve = runs[kind]
                xs, ys = [p["load"] for p in curve], [p[measure] for p in curve]
                axes.plot(xs, ys, style, color=color, marker=".", label=kind)
            axes.grid(alpha=0.3)
            if column == 0:
                axes.set_ylabel(measure)
    for axes in grid[-1]:
        axes.set_xlabel("load")
    grid[0][0].legend(fontsize=8)
    return figure


def main() -> None:
    """Run what is missing, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--quick", action="store_true", help="loads 0.01 and 0.02, memit only")
    args = parser.parse_args()
    methods, loads = (["memit"], (0.01, 0.02)) if args.quick else (args.methods, LOADS)
    path = HERE / "results" / ("projection-quick.json" if args.quick else "projection.json")
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    editor = Editor.from_pretrained("bundled")
    count = round(max(loads) * editor.handle.d_in(0))
    found = records(World.load(), count)
    rows = [EditRecord.from_dict(row, f"record {i}") for i, row in enumerate(found)]
    for method in methods:
        for kind, plugins in (("plain", ()), ("project", ("project",))):
            if kind in results.get(method, {}):
                continue
            fresh = Editor(editor.handle, editor.statistics)
            curve = run(fresh, method, plugins, rows, loads)
            results.setdefault(method, {})[kind] = curve
            out = {"benchmark": "projection", "results": results, **machine()}
            path.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    whole = {m: runs for m, runs in results.items() if len(runs) == 2}
    if not args.quick:
        picture(whole).savefig(HERE.parent / "docs" / "projection.svg")


if __name__ == "__main__":
    main()
