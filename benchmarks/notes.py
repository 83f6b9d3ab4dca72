"""Memories in text on a model of your own: what they reach, when they fire, what they cost.

    python -m benchmarks.notes .models/SmolLM2-135M-Instruct --counterfact counterfact.json \
        --zsre zsre.json --mquake mquake.json [--edits 50] [--parts memory counterfact ...]

Parts: `memory` (look-up among 10,000 statements), `counterfact`, `zsre`, `chat` (ZsRE's questions
in conversations) and `mquake`. Seconds are of the processor, so that others on the machine do not
count. Each part is put into results/notes.json in the place of an older one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.metrics import Metrics
from alphaedit.bench.qa import unedited_answers
from alphaedit.bench.run import evaluate
from alphaedit.core.change import MemoryChange
from alphaedit.editor.session import Editor
from alphaedit.editor.verdict import without_verdicts
from alphaedit.methods.registry import installer
from alphaedit.methods.steps.encoder import embed, mean_key
from alphaedit.methods.steps.notes import Note
from alphaedit.model.chat import templated
from alphaedit.model.generate import generate
from benchmarks.machine import RESULTS, machine

PATH = RESULTS / "notes.json"
METHODS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "ike": ("ike", {}, False),
    "ike, oracle": ("ike", {}, True),
    "ike, 0 demonstrations": ("ike", {"demonstrations": 0}, False),
    "rag": ("rag", {}, False),
    "rag, oracle": ("rag", {}, True),
    "memprompt": ("memprompt", {}, False),
}
LOOK_UPS: dict[str, tuple[str, dict[str, Any]]] = {
    "by subject": ("rag", {}),
    "by distance of keys": ("rag", {"scope": "distance"}),
    "by distance of words": ("rag", {"scope": "distance", "encoder": "words"}),
    "by letters (memprompt)": ("memprompt", {}),
    "by keys (memprompt)": ("memprompt", {"lookup": "model"}),
    "by words (memprompt)": ("memprompt", {"lookup": "words"}),
}
PLAIN = "unedited"
NEIGHBORS = 3
"""Of CounterFact's ten of each record, for time."""
MANY = 10_000
CHAT_TOKENS = 32


def rates(metrics: Metrics) -> dict[str, Any]:
    """Values with their intervals, rounded."""
    return {
        name: [round(x, 1) for x in (rate.value, rate.low, rate.high)]
        for name, rate in metrics.items()
        if rate is not None and not name.endswith("_magnitude")
    }


@contextmanager
def edited(
    editor: Editor, records: Sequence[EditRecord], name: str, over: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The records edited in one batch, and what that cost; undone behind the block.

    Settings are measured on the model beforehand, once, as for all edits that follow.
    """
    facts = [fact for record in records for fact in record.facts]
    began = time.process_time()
    editor.hyperparameters(name, **over)
    chosen = time.process_time() - began
    with without_verdicts():
        began = time.process_time()
        edit = editor.edit(facts, name, **over)
        whole = time.process_time() - began
    answers = edit.seconds.get("answers", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        place = edit.save(Path(folder) / "edit")
        files = [place] if place.is_file() else list(place.rglob("*"))
        size = sum(file.stat().st_size for file in files if file.is_file())
    (change,) = edit.patch.changes
    try:
        yield {
            "settings_seconds_once": round(chosen, 2),
            "seconds_per_100_edits": round(100 * (whole - answers) / len(facts), 3),
            "seconds_per_100_edits_with_answers": round(100 * whole / len(facts), 2),
            "bytes_per_edit": round(size / len(facts)),
            "layer": change.options["layer"],
            "distance": change.options["distance"],
            "scope": change.options["scope"],
        }
    finally:
        editor.revert()


def seconds_each(render: Callable[[Sequence[str]], list[str]], prompts: Sequence[str]) -> float:
    """Median seconds of a look-up, one prompt at a time."""
    spent = []
    for prompt in prompts:
        began = time.process_time()
        render([prompt])
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def fired(editor: Editor, records: Sequence[EditRecord], *, answers: bool = True) -> dict[str, Any]:
    """Share of prompts that a note is put in front of, in percent, and what a look-up takes."""
    groups = {
        "edits": [record.rewrite for record in records],
        "paraphrases": [p for record in records for p in record.paraphrase_prompts],
        "neighbors": [p for r in records for p in r.neighborhood_prompts]
        + [p.prompt for r in records for p in r.probes if p.kind == "locality"],
    }
    handle, out = editor.handle, {}
    for name, prompts in groups.items():
        now = handle.rendered(prompts)
        hits = [a != b for a, b in zip(now, prompts, strict=True)]
        out[f"fired_on_{name}"] = round(100 * sum(hits) / len(hits), 1)
        if name != "paraphrases":
            ms = 1000 * seconds_each(handle.rendered, prompts[:50])
            out[f"look_up_ms_{name}"] = round(ms, 2)
        if name == "edits" and answers:
            longer = [
                len(handle.tokens.encode(a)) - len(handle.tokens.encode(b))
                for a, b in zip(now, prompts, strict=True)
            ]
            out["tokens_in_front"] = round(statistics.mean(longer), 1)
            out["answer_ms"] = round(
                1000 * seconds_each(lambda p: generate(handle, p, 8), prompts[:20]), 1
            )
    return out


def of_records(editor: Editor, records: list[EditRecord], *, questions: bool) -> dict[str, Any]:
    """All methods on one data set."""
    unedited = unedited_answers(editor.handle, records)
    rows: dict[str, Any] = {}

    def measured(oracle: bool) -> dict[str, Any]:
        return rates(
            evaluate(editor, records, unedited=unedited, generation=questions, oracle=oracle)
        )

    plain = [record.rewrite for record in records][:20]
    took = seconds_each(lambda p: generate(editor.handle, p, 8), plain)
    rows[PLAIN] = {**measured(False), "answer_ms": round(1000 * took, 1)}
    print(rows, flush=True)
    for label, (name, over, oracle) in METHODS.items():
        began = time.process_time()
        with edited(editor, records, name, over) as cost:
            fires = {} if oracle else fired(editor, records)
            rows[label] = {**measured(oracle), **fires, **cost}
        print(f"{label}: {time.process_time() - began:.0f} s", rows[label], flush=True)
    looked_up = {}
    for label, (name, over) in LOOK_UPS.items():
        with edited(editor, records, name, over) as cost:
            looked_up[label] = {**fired(editor, records, answers=False), **cost}
        print(label, looked_up[label], flush=True)
    return {"edits": len(records), "rows": rows, "look_ups": looked_up}


def in_chat(editor: Editor, records: list[EditRecord]) -> dict[str, Any]:
    """Questions as a user's turn: share of answers that hold the new object, in percent."""
    handle = editor.handle
    groups = {
        "edits": [(r.rewrite, r.target_new) for r in records],
        "paraphrases": [(p, r.target_new) for r in records for p in r.paraphrase_prompts],
    }
    asked = {
        PLAIN: None,
        "rag": ("rag", {}),
        "rag, system message": ("rag", {"place": "system"}),
        "ike": ("ike", {}),
        "memprompt": ("memprompt", {}),
    }
    rows: dict[str, Any] = {}

    def said() -> dict[str, float]:
        out = {}
        for name, pairs in groups.items():
            prompts = [templated(handle.tokenizer, prompt) for prompt, _ in pairs]
            texts = generate(handle, prompts, CHAT_TOKENS)
            hits = [
                target.casefold() in text.casefold()
                for text, (_, target) in zip(texts, pairs, strict=True)
            ]
            out[name] = round(100 * sum(hits) / len(hits), 1)
        return out

    for label, how in asked.items():
        if how is None:
            rows[label] = said()
            continue
        with edited(editor, records, *how):
            rows[label] = said()
        print(label, rows[label], flush=True)
    return {"edits": len(records), "answer_tokens": CHAT_TOKENS, "rows": rows}


def of_hops(editor: Editor, records: list[EditRecord]) -> dict[str, Any]:
    """MQuAKE's questions, all edits of the cases in one memory."""
    rows: dict[str, Any] = {PLAIN: rates(evaluate(editor, records))}
    print(rows, flush=True)
    for label, over in {"mello": {}, "mello, judged by words": {"judge": "words"}}.items():
        began = time.process_time()
        with edited(editor, records, "mello", over) as cost:
            rows[label] = {**rates(evaluate(editor, records)), **cost}
            questions = [p.prompt for r in records for p in r.probes if p.kind == "multi_hop"]
            now = editor.handle.rendered(questions)
            fires = [a != b for a, b in zip(now, questions, strict=True)]
            rows[label]["fired_on_questions"] = round(100 * sum(fires) / len(fires), 1)
            rows[label]["look_up_ms"] = round(
                1000 * seconds_each(editor.handle.rendered, questions[:5])
            )
        print(f"{label}: {time.process_time() - began:.0f} s", rows[label], flush=True)
    with edited(editor, records, "rag", {}) as cost:
        rows["rag"] = {**rates(evaluate(editor, records)), **cost}
    return {"cases": len(records), "rows": rows}


def of_many(editor: Editor, layer: int = 7) -> dict[str, Any]:
    """Seconds of a look-up among many statements, one prompt at a time; keys are random."""
    handle, generator = editor.handle, torch.Generator().manual_seed(0)
    mean = mean_key(handle, layer)
    notes = [
        Note(f"Person{i} Name{i % 97}", f"The mother tongue of Person{i} Name{i % 97} is", "Welsh")
        for i in range(MANY)
    ]
    texts = tuple(note.text for note in notes)
    keys = torch.randn(MANY, len(mean), generator=generator)
    prompts = [notes[i].prompt for i in range(0, MANY, MANY // 20)]
    others = [f"The capital of Country{i} is" for i in range(20)]
    rows: dict[str, Any] = {"encoding_ms": round(1000 * seconds_each(
        lambda p: list(embed(handle, p, layer)), prompts), 2)}  # fmt: skip
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "rag, by subject": ("rag", {"scope": "subject"}),
        "rag, by distance": ("rag", {"scope": "distance"}),
        "memprompt, by letters": ("memprompt", {"scope": "distance", "lookup": "edits"}),
    }
    for label, (name, over) in settings.items():
        options = {
            "layer": layer, "distance": 0.5, "place": "user", "count": 1, "edits": 0.1,
            "template": "{notes}\n{prompt}", "chat_template": "{notes}\n{prompt}", **over,
        }  # fmt: skip
        change = MemoryChange(
            name, torch.arange(MANY), {"key": keys}, {"mean": mean}, texts, options
        )
        install = installer(name)
        assert install is not None
        began = time.process_time()
        undo = install(handle, [change])
        took = time.process_time() - began
        rows[label] = {
            "install_seconds": round(took, 2),
            "hit_ms": round(1000 * seconds_each(handle.rendered, prompts), 2),
            "miss_ms": round(1000 * seconds_each(handle.rendered, others), 2),
        }
        undo()
        print(label, rows[label], flush=True)
    return {"statements": MANY, "rows": rows}


def main() -> None:
    """Measure the parts that are asked for, and put them into results/notes.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    for name in ("counterfact", "zsre", "mquake"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--cases", type=int, default=15, help="of MQuAKE")
    parser.add_argument(
        "--parts", nargs="+", default=["memory", "counterfact", "zsre", "chat", "mquake"]
    )
    args = parser.parse_args()
    editor = Editor.from_pretrained(args.model, progress=False)

    def read(path: Path, schema: str, count: int) -> list[EditRecord]:
        found = load(str(path), schema, limit=count).records
        few = [record.neighborhood_prompts[:NEIGHBORS] for record in found]
        return [replace(r, neighborhood_prompts=n) for r, n in zip(found, few, strict=True)]

    for part in args.parts:
        if part == "memory":
            found = of_many(editor)
        elif part == "counterfact":
            chosen = read(args.counterfact, "counterfact", args.edits)
            found = of_records(editor, chosen, questions=False)
        elif part == "zsre":
            found = of_records(editor, read(args.zsre, "zsre", args.edits), questions=True)
        elif part == "chat":
            found = in_chat(editor, read(args.zsre, "zsre", args.edits))
        else:
            found = of_hops(editor, read(args.mquake, "mquake", args.cases))
        result = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else {}
        result |= {"benchmark": "notes", "model": Path(args.model).name, part: found, **machine()}
        PATH.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
