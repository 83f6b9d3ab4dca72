"""What the bundled models know and where: recall, tasks, causal tracing. Feeds their model card.

    python -m benchmarks.bundled [NAME ...] [--quick]

Writes results/bundled.json and docs/tracing-*.svg; models that are not named stay as they stand.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from matplotlib.figure import Figure

from alphaedit.core.fact import Fact
from alphaedit.locate.trace import POSITIONS, Trace, trace
from alphaedit.model.handle import ModelHandle
from alphaedit.world import phrasing
from alphaedit.world.asset import NAMES, path
from alphaedit.world.exam import examine
from alphaedit.world.facts import World
from benchmarks.machine import machine

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parent.parent / "docs"


def picture(name: str, traced: Trace) -> Figure:
    """Heat map of the indirect effect, positions by layers."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    effect = traced.indirect_effect
    seen = [i for i, row in enumerate(effect) if not row.isnan().all()]
    image = axes.imshow(effect[seen].numpy(), aspect="auto", cmap="Blues", vmin=0)
    axes.set_yticks(range(len(seen)), [POSITIONS[i] for i in seen])
    axes.set_xlabel("hidden state restored after block")
    axes.set_title(
        f"{name}: p(answer) {traced.clean:.2f} clean, {traced.corrupted:.2f} corrupted", fontsize=9
    )
    figure.colorbar(image, ax=axes, label="p returned")
    return figure


def main() -> None:
    """Examine and trace the models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few facts")
    parser.add_argument("names", nargs="*", choices=NAMES, default=list(NAMES), metavar="NAME")
    args = parser.parse_args()
    quick = args.quick
    file = RESULTS / ("bundled-quick.json" if quick else "bundled.json")
    stored = json.loads(file.read_text(encoding="utf-8"))["models"] if file.is_file() else {}
    results = {name: stored[name] for name in NAMES if name in stored}
    for name in args.names:
        about = json.loads((path(name) / "world.json").read_text(encoding="utf-8"))
        world = World.load().largest(about["recipe"]["subjects"])
        if quick:
            world = World(world.relations, world.facts[:100])
        handle = ModelHandle.load(name)
        exam = examine(handle, world)
        facts = [
            Fact(phrasing.train_phrasings(world.relations[f.relation])[0], f.subject, f.object)
            for f in world.facts[: 10 if quick else 100]
        ]
        traced = trace(handle, facts)
        if not quick:
            picture(name, traced).savefig(DOCS / f"tracing-{name}.svg")
        results[name] = {
            "exam": asdict(exam),
            "tracing": {
                "clean": traced.clean,
                "corrupted": traced.corrupted,
                "positions": POSITIONS,
                "indirect_effect": traced.indirect_effect.nan_to_num(0.0).tolist(),
                "facts": traced.facts,
            },
            **about,
        }
        print(name, json.dumps(results[name])[:800], flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"benchmark": "bundled", "models": results, **machine()}, indent=1)
    file.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
