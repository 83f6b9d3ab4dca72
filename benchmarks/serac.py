"""SERAC on CounterFact records: a scope trained on some, edits of others, and what they do.

python benchmarks/serac.py MODEL RECORDS --train 200 --edits 30 [--untrained] > serac.json
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from alphaedit import Editor
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.metrics import plain, probability_metrics
from alphaedit.jobs.train import TrainRequest, run
from alphaedit.methods.learned.record import ABOUT

NOTES = ("New Fact: {statement}.\nPrompt: {prompt}", "{statement}. {prompt}")
NEIGHBORS = 4


def fired(editor: Editor, prompts: list[str]) -> list[bool]:
    """Whether an edit is put in front of each prompt."""
    return [a != b for a, b in zip(editor.handle.rendered(prompts), prompts, strict=True)]


def share(hits: list[bool]) -> float:
    """In percent."""
    return round(100 * sum(hits) / len(hits), 1)


def rounded(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of a table."""
    names = ("efficacy", "generalization", "specificity", "score")
    return {name: round(metrics[name]["value"], 1) for name in names}


def measured(editor: Editor, records: list[Any], /, **how: Any) -> dict[str, Any]:
    """All records edited at once, and what the model says then."""
    began = time.perf_counter()
    editor.edit([record.fact for record in records], "serac", **how)
    seconds = time.perf_counter() - began
    found = {
        "edits": share(fired(editor, [r.rewrite for r in records])),
        "paraphrases": share(fired(editor, [p for r in records for p in r.paraphrase_prompts])),
        "neighbors": share(fired(editor, [p for r in records for p in r.neighborhood_prompts])),
    }
    metrics = plain(probability_metrics(editor.responder, records))
    editor.revert()
    return {**rounded(metrics), "fired": found, "seconds": round(seconds, 1)}


def main() -> None:
    """Train, edit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("records")
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--edits", type=int, default=30)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    records = list(load(given.records, None, limit=given.train + given.edits).records)
    for record in records:
        object.__setattr__(record, "neighborhood_prompts", record.neighborhood_prompts[:NEIGHBORS])
    learned, edited = records[: given.train], records[given.train :]
    folder = given.out or Path(tempfile.mkdtemp()) / "editor"
    if not (folder / ABOUT).is_file():
        facts = [record.fact for record in learned]
        run(TrainRequest(method="serac", model=given.model, out=folder, facts=facts))
    trained = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    editor = Editor.from_pretrained(given.model, progress=False)
    before = plain(probability_metrics(editor.responder, edited))
    result: dict[str, Any] = {
        "model": Path(given.model).name,
        "threads": torch.get_num_threads(),
        "train": len(learned),
        "edits": len(edited),
        "training": trained["curve"],
        "unedited": {
            n: before[n] and round(before[n]["value"], 1)
            for n in ("efficacy", "generalization", "specificity")
        },
    }
    for note in NOTES:
        result[f"trained, {note}"] = measured(editor, edited, editor=str(folder), note=note)
    result["untrained"] = measured(editor, edited, editor="untrained")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
