"""Seconds of what a user waits for on a real model, SmolLM2-135M-Instruct: `make real` first.

    python -m benchmarks.real_speed [--data DIR]

Whole commands from process start (an empty cache, layers chosen but no second moments, everything
kept), edits inside a process, a batch of twenty, second moments, the evaluation of a hundred
CounterFact records, and the peak of memory beside the weights; in results/real_speed.json. The data
are as in `benchmarks.golden`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alphaedit.bench.datasets.registry import load
from alphaedit.bench.run import evaluate
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.model.devices import quick_bfloat16
from alphaedit.stats.statistics import ModelStatistics
from benchmarks.golden import DATA, RECORDS, SEARCHES, SETTINGS, figures, records
from benchmarks.machine import measured, write
from benchmarks.plain import plain_target
from benchmarks.real_models import SMOLLM2, missing

SUBJECTS = ("Danielle Darrieux", "Victor Hugo", "Jean Gabin", "Edith Piaf")
PROMPT, TARGET = "The mother tongue of {} is", "English"
EVALUATED, PLAIN = 100, 2
"""Records that are evaluated; facts that the plain loop is timed on."""
WAYS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam"},
    "adam in turns": {"optimizer": "adam", "turns": 2},
    "lbfgs": {"optimizer": "lbfgs"},
}


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall time."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def command(cache: Path, subject: str, out: Path) -> float:
    """Seconds of a whole `alphaedit edit`."""
    words = [sys.executable, "-m", "alphaedit", "edit", str(SMOLLM2.checkpoint), "-q"]
    words += ["--prompt", PROMPT, "--subject", subject, "--target", TARGET]
    words += ["--cache-dir", str(cache), "-o", str(out)]
    return seconds_of(lambda: subprocess.run(words, check=True, capture_output=True))


def commands() -> dict[str, float]:
    """From an empty cache, without second moments, and with everything kept."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        cache = place / "cache"
        found = {"first, from cold": command(cache, SUBJECTS[0], place / "one")}
        for file in [*cache.glob("moment-*"), *cache.glob("spectrum-*")]:
            file.unlink()
        found["layers known, no second moments"] = command(cache, SUBJECTS[1], place / "two")
        found["later"] = command(cache, SUBJECTS[2], place / "three")
    return found


def inside() -> dict[str, float]:
    """The second edit of a session, and the second moments of the chosen layers."""
    with tempfile.TemporaryDirectory() as folder:
        editor = Editor.from_pretrained(SMOLLM2.checkpoint, cache_dir=folder, progress=False)
        with measured() as memory:
            first = editor.edit(Fact(PROMPT, SUBJECTS[0], TARGET))
        layers = first.measured["values"]["layers"]
        later = seconds_of(lambda: editor.edit(Fact(PROMPT, SUBJECTS[3], TARGET)))
        editor.revert()
        editor.revert()
        fresh = ModelStatistics(editor.handle, "general", cache_dir=Path(folder) / "fresh")
        return {
            "edit": later,
            "second moments": seconds_of(lambda: fresh.prepare(layers)),
            "tokens": fresh.tokens,
            "peak bytes": memory.peak_bytes,
        }


def batches(data: Path) -> dict[str, Any]:
    """Twenty facts at once in layers 8 to 12, second moments at hand; and an evaluation.

    By the published settings, with prompts in two turns, and by quasi-Newton steps in place of
    Adam's. A processor without instructions for bfloat16 computes it step by step, which says
    nothing: it is left out there.
    """
    editor = Editor.from_pretrained(SMOLLM2.checkpoint, progress=False)
    editor.statistics.prepare(SETTINGS["layers"])
    facts = [fact for row in records(data) for fact in row.facts]
    found: dict[str, Any] = {}
    for way, asked in WAYS.items():
        for name, search in SEARCHES.items():
            if search and not quick_bfloat16(editor.handle.device):
                continue
            over = {**SETTINGS, **asked, "search_dtype": search}
            took = seconds_of(partial(editor.edit, facts, "alphaedit-published", **over))
            shares = figures(editor, records(data))
            found[f"{way}, {name}"] = {"seconds": took, **shares}
            print(way, name, took, flush=True)
            editor.revert()
    found["plain loop"] = plain(editor, facts)
    rows = list(load(data / RECORDS, limit=EVALUATED).records)
    found["evaluation"] = seconds_of(lambda: evaluate(editor, rows, generation=False))
    return found


def plain(editor: Editor, facts: Sequence[Fact]) -> dict[str, Any]:
    """The target searches of all `facts` one by one, as published code runs them.

    Seconds of the first few, times as many.
    """
    hp = editor.hyperparameters("alphaedit-published", None, facts, **SETTINGS)
    assert isinstance(hp, Hyperparameters)
    contexts = generate_contexts(editor.handle, hp.contexts, hp.context_tokens, 0)

    def search() -> None:
        for fact in facts[:PLAIN]:
            plain_target(editor.handle, fact, hp.layers[-1], contexts, hp)

    return {"seconds": seconds_of(search) * len(facts) / PLAIN, "facts timed": PLAIN}


def main() -> None:
    """Measure, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    data = parser.parse_args().data
    if reason := missing(SMOLLM2):
        sys.exit(reason)
    found: dict[str, Any] = {}
    for name, part in (
        ("commands", commands),
        ("inside", inside),
        ("batches", lambda: batches(data)),
    ):
        found[name] = part()
        print(name, found[name], flush=True)
    print(write("real_speed", found, quick=False))


if __name__ == "__main__":
    main()
