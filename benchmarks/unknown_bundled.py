"""The choice of layers on the bundled models, stripped of what says that a preset fits them.

    python -m benchmarks.unknown_bundled

Both were trained for this project, one in GPT-2's shape, one in Llama's. Twenty records of the
bundled world, one batch, by every stretch of the usual length with the settings that the choice
would give it; in results/unknown_bundled.json, with what is chosen.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.run import evaluate
from alphaedit.core.progress import silent
from alphaedit.editor.session import Editor
from alphaedit.locate.suggest import window
from alphaedit.locate.trials import Trials
from alphaedit.world.asset import path
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import write

MODELS = ("bundled", "bundled-small")
COUNT, SEED, TOKENS = 20, 5, 20_000
METRICS = ("efficacy", "generalization", "specificity", "score")


def stripped(name: str, folder: Path) -> tuple[Path, list[EditRecord]]:
    """A copy of the model that no preset knows, and records of its world."""
    for file in path(name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    world, subjects = World.load(), config.get("alphaedit_subjects")
    kept = {key: value for key, value in config.items() if not key.startswith("alphaedit")}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    drawn = records(world.largest(subjects) if subjects else world, COUNT, seed=SEED)
    return folder, [EditRecord.from_dict(row, f"record {i}") for i, row in enumerate(drawn)]


def measure(name: str, folder: Path) -> dict[str, Any]:
    """What is chosen, and the metrics of every stretch."""
    model, rows = stripped(name, folder)
    editor = Editor.from_pretrained(model, tokens=TOKENS, cache_dir=folder / "cache")
    handle = editor.handle
    trials = Trials(handle, editor.statistics, one_layer=False, over={}, seed=0, progress=silent)
    chosen = trials.best()
    length = len(window(handle.n_layers, handle.n_layers))
    editor.statistics.prepare(range(handle.n_layers - 1))
    found = []
    for end in range(length - 1, handle.n_layers - 1):
        layers = tuple(range(end - length + 1, end + 1))
        settings = trials.settings(layers, chosen.clamp)
        editor.edit([fact for row in rows for fact in row.facts], layers=layers, **settings)
        metrics = evaluate(editor, rows, generation=False)
        editor.revert()
        shares = {key: rate.value for key in METRICS if (rate := metrics[key])}
        found.append({"layers": layers, **shares})
        print(found[-1], flush=True)
    return {"chosen": chosen.layers, "stretches": found}


def main() -> None:
    """Measure both."""
    result = {}
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            result[name] = measure(name, Path(folder))
    print(write("unknown_bundled", result, quick=False))


if __name__ == "__main__":
    main()
