"""Twenty CounterFact edits of a real model, beside what the published code makes of them.

    make real && python -m benchmarks.golden [--data DIR] [--published CHECKPOINT ABOUT]

One batch into SmolLM2-135M-Instruct by `alphaedit-published` in float32 and with the search in
bfloat16, measured like the unedited model; all in results/golden.json. The published code's figures
stand there as they were measured, and stay: it needs an environment of its own. A checkpoint that
it edited with the same settings (this project's tokenizer and config beside it) is measured by
--published, with a JSON file that says where it comes from. The data are samples of CounterFact
(`counterfact/counterfact_250.json`) and WikiText-2 (`text/wiki.valid.raw`), in ../shared/data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.run import evaluate
from alphaedit.core.fact_text import says
from alphaedit.editor.session import Editor
from alphaedit.model.generate import generate
from benchmarks.machine import RESULTS, write
from benchmarks.real_models import FOLDER, SMOLLM2
from benchmarks.real_models import missing as missing_model

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
RECORDS = Path("counterfact", "counterfact_250.json")
TEXT = Path("text", "wiki.valid.raw")
COUNT, TOKENS, SEED = 20, 8192, 0
SETTINGS: dict[str, Any] = {
    "layers": (8, 9, 10, 11, 12),
    "threshold": 0.02,
    "ridge": 10.0,
    "learning_rate": 0.5,
    "steps": 25,
    "clamp": 0.75,
    "weight_decay": 0.5,
    "kl_factor": 0.0625,
    "stop_loss": 0.05,
    "contexts": 5,
    "context_tokens": 10,
}
METRICS = ("efficacy", "generalization", "specificity")
SEARCHES = {"float32": None, "bfloat16": "bfloat16"}
ANSWER_TOKENS = 8


def missing(data: Path = DATA) -> str:
    """Why this cannot be measured here; empty if all is at hand."""
    gone = [str(name) for name in (RECORDS, TEXT) if not (data / name).is_file()]
    if gone:
        return f"the real data are not beside the project (../shared/data): {', '.join(gone)}"
    return missing_model(SMOLLM2)


def stored() -> dict[str, Any]:
    """What was measured last; empty if nothing was."""
    path = RESULTS / "golden.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def records(data: Path = DATA) -> list[EditRecord]:
    """The first records."""
    return list(load(data / RECORDS, limit=COUNT).records)


def open_model(checkpoint: Path = SMOLLM2.checkpoint, data: Path = DATA) -> Editor:
    """An editor whose second moments are of the text as one document, as the others read it."""
    whole = (data / TEXT).read_bytes().decode("utf-8").strip()
    corpus = FOLDER / f"{TEXT.stem}.jsonl"
    corpus.write_text(json.dumps({"text": whole}) + "\n", encoding="utf-8")
    return Editor.from_pretrained(
        checkpoint, corpus=str(corpus), tokens=TOKENS, seed=SEED, progress=False
    )


def figures(editor: Editor, rows: list[EditRecord]) -> dict[str, float]:
    """CounterFact's shares, and how often the new object is written greedily."""
    found = evaluate(editor, rows, generation=False)
    asked = {
        "exact": [(row.rewrite, row.target_new) for row in rows],
        "exact_paraphrases": [(p, row.target_new) for row in rows for p in row.paraphrase_prompts],
    }
    shares = {name: rate.value for name in METRICS if (rate := found[name])}
    for name, pairs in asked.items():
        texts = generate(editor.handle, [prompt for prompt, _ in pairs], ANSWER_TOKENS)
        right = [says(text, new) for text, (_, new) in zip(texts, pairs, strict=True)]
        shares[name] = 100 * sum(right) / len(right)
    return {name: round(value, 4) for name, value in shares.items()}


def edited(editor: Editor, rows: list[EditRecord], search: str | None) -> dict[str, Any]:
    """Figures of one batch, which is undone; the second moments are not in the seconds."""
    editor.statistics.prepare(SETTINGS["layers"])
    facts = [fact for row in rows for fact in row.facts]
    began, busy = time.perf_counter(), time.process_time()
    editor.edit(facts, "alphaedit-published", **SETTINGS, search_dtype=search)
    took = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - busy,
    }
    found = figures(editor, rows)
    editor.revert()
    return {**found, **took}


def published(checkpoint: Path, about: Path, data: Path) -> dict[str, Any]:
    """Figures of a checkpoint that the published code edited, its seconds, and where it is from."""
    origin = json.loads(about.read_text(encoding="utf-8"))
    found = figures(open_model(checkpoint, data), records(data))
    took = {name: origin.pop(name) for name in ("seconds", "cpu_seconds")}
    return {**found, **took, "origin": origin}


def measure(data: Path, theirs: dict[str, Any] | None) -> dict[str, Any]:
    """All figures."""
    rows = records(data)
    editor = open_model(data=data)
    return {
        "model": {"name": SMOLLM2.name, "gguf": SMOLLM2.file, "sha256": SMOLLM2.sha256},
        "records": {"file": RECORDS.name, "sha256": _digest(data / RECORDS), "first": COUNT},
        "text": {"file": TEXT.name, "sha256": _digest(data / TEXT), "tokens": TOKENS},
        "settings": {"method": "alphaedit-published", "seed": SEED, **SETTINGS},
        "unedited": figures(editor, rows),
        "published": theirs,
        "ours": {name: edited(editor, rows, search) for name, search in SEARCHES.items()},
    }


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Measure, and write results/golden.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    parser.add_argument(
        "--published",
        type=Path,
        nargs=2,
        metavar=("CHECKPOINT", "ABOUT"),
        help="what the published code edited, and a JSON file about it",
    )
    args = parser.parse_args()
    if reason := missing(args.data):
        sys.exit(reason)
    theirs = stored().get("published")
    if args.published:
        checkpoint, about = args.published
        theirs = published(checkpoint, about, args.data)
    # One thread, as the published code had: seconds of a core are what can be compared.
    torch.set_num_threads(1)
    print(write("golden", measure(args.data, theirs), quick=False))


if __name__ == "__main__":
    main()
