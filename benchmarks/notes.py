"""Memories in text on a model of your own: what they reach, when they fire, what they cost.

    python -m benchmarks.notes .models/SmolLM2-135M-Instruct --counterfact counterfact.json \
        --zsre zsre.json --mquake mquake.json [--edits 50] [--parts memory counterfact ...]

Parts: `counterfact`, `zsre`, `mquake`, `chat` (ZsRE's questions in conversations) and `memory`
(look-up among 10,000 statements). Seconds are of the processor, so that others on the machine do
not count. Each part is put into results/notes.json in the place of an older one.

A memory changes prompts alone, so every text that methods make of a prompt is scored once,
whichever methods make it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.intervals import percent
from alphaedit.bench.qa import asked_directly, matches
from alphaedit.core.change import MemoryChange
from alphaedit.editor.session import Editor
from alphaedit.methods.base import Problem
from alphaedit.methods.registry import get_method, installer
from alphaedit.methods.steps.encoder import embed, mean_key
from alphaedit.methods.steps.notes import Note
from alphaedit.model.chat import templated
from alphaedit.model.generate import generate, generate_ids
from alphaedit.model.route import asked_about, plain
from alphaedit.model.scoring import Score, score
from benchmarks.machine import RESULTS, machine

PATH = RESULTS / "notes.json"
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ike": ("ike", {}),
    "ike, 0 demonstrations": ("ike", {"demonstrations": 0}),
    "rag, bare": ("rag", {"template": "{notes}\n{prompt}"}),
    "memprompt": ("memprompt", {}),
}
"""By default `rag` writes what `ike` writes without demonstrations, word for word."""
LOOK_UPS: dict[str, tuple[str, dict[str, Any]]] = {
    "by subject": ("rag", {}),
    "by distance of keys": ("rag", {"scope": "distance"}),
    "by distance of words": ("rag", {"scope": "distance", "encoder": "words"}),
    "by letters (memprompt)": ("memprompt", {}),
    "by keys (memprompt)": ("memprompt", {"lookup": "model"}),
    "by words (memprompt)": ("memprompt", {"lookup": "words"}),
}
PLAIN, LOOKED_UP = "unedited", "look-ups"
NEIGHBORS = 2
"""Of CounterFact's ten of each record, for time."""
MANY = 10_000
ANSWER_TOKENS = 16
TIMED = 5


def share(hits: Sequence[bool]) -> list[float]:
    """Percent with its 95 % interval."""
    rate = percent(hits)
    assert rate is not None
    return [round(x, 1) for x in (rate.value, rate.low, rate.high)]


def seconds_each(render: Callable[[Sequence[str]], Any], prompts: Sequence[str]) -> float:
    """Median seconds of the processor, one prompt at a time."""
    spent = []
    for prompt in prompts:
        began = time.process_time()
        render([prompt])
        spent.append(time.process_time() - began)
    return statistics.median(spent)


@contextmanager
def remembered(
    editor: Editor, records: Sequence[EditRecord], name: str, over: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The records in a memory for the length of a block, and what that cost.

    Settings are measured on the model once, before any edit; that is timed by itself.
    """
    facts = [fact for record in records for fact in record.facts]
    began = time.process_time()
    hp = editor.hyperparameters(name, **over)
    chosen = time.process_time() - began
    began = time.process_time()
    problem = Problem(editor.handle, facts, hp, editor.statistics, editor.state)
    with plain():
        (change,) = get_method(name).solve(problem).patch.changes
    solved = time.process_time() - began
    size = sum(t.numel() * t.element_size() for t in change.tensors().values())
    size += len(json.dumps(change.about(), ensure_ascii=False).encode("utf-8"))
    install = installer(name)
    assert install is not None
    undo = install(editor.handle, [change])
    try:
        yield {
            "settings_seconds_once": round(chosen, 2),
            "seconds_per_100_edits": round(100 * solved / len(facts), 3),
            "bytes_per_edit": round(size / len(facts)),
            "layer": change.options["layer"],
            "distance": change.options["distance"],
        }
    finally:
        undo()


def prompts_of(record: EditRecord) -> dict[str, list[str]]:
    """A record's prompts by what they test."""
    local = [probe.prompt for probe in record.probes if probe.kind == "locality"]
    return {
        "edits": [record.rewrite],
        "paraphrases": list(record.paraphrase_prompts),
        "neighbors": [*record.neighborhood_prompts[:NEIGHBORS], *local],
    }


Texts = dict[str, list[list[str]]]
"""By what they test, the texts of each record."""


class Records:
    """Records of one data set, and scores of all texts that were made of their prompts."""

    def __init__(self, editor: Editor, records: list[EditRecord], *, choice: bool) -> None:
        self.editor, self.records, self.choice = editor, records, choice
        self.prompts: Texts = {
            kind: [prompts_of(record)[kind] for record in records]
            for kind in prompts_of(records[0])
        }
        self._scores: dict[tuple[str, str], Score] = {}
        self._first: dict[str, int] = {}

    def rendered(self, *, oracle: bool = False) -> Texts:
        """Prompts as the memory in force puts them."""
        out: Texts = {kind: [] for kind in self.prompts}
        for i, record in enumerate(self.records):
            with asked_about([record.fact.text]) if oracle else nullcontext():
                for kind, prompts in self.prompts.items():
                    out[kind].append(self.editor.handle.rendered(prompts[i]))
        return out

    def measured(self, texts: Texts) -> dict[str, Any]:
        """What the model makes of texts: the new object or the old, and exact answers."""
        pairs = [
            (text, target)
            for kind, of_kind in texts.items()
            for record, own in zip(self.records, of_kind, strict=True)
            for text in own
            for target in self._targets(record, kind)
        ]
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._scores]
        with plain():
            self._scores.update(zip(new, score(self.editor.handle, new), strict=True))
        out: dict[str, Any] = {}
        for kind, name in (("edits", "efficacy"), ("paraphrases", "generalization")):
            each = [
                [self._scores[text, target] for target in self._targets(record, kind)]
                for record, own in zip(self.records, texts[kind], strict=True)
                for text in own
            ]
            out[f"{name}_generate"] = share([one[0].exact for one in each])
            if self.choice:
                hits = [one[0].mean_logprob > one[1].mean_logprob for one in each]
                out[name] = share(hits)
        out["specificity" if self.choice else "same_first_token"] = share(self._kept(texts))
        return out

    def _targets(self, record: EditRecord, kind: str) -> list[str]:
        if self.choice:
            return [record.target_new, record.target_true]
        return [] if kind == "neighbors" else [record.target_new]

    def _kept(self, texts: Texts) -> list[bool]:
        """Neighbors: the old object is likelier than the new, or the first token is as before."""
        both = list(zip(self.records, self.prompts["neighbors"], texts["neighbors"], strict=True))
        if self.choice:
            scores = [
                [self._scores[text, target] for target in (record.target_new, record.target_true)]
                for record, _, own in both
                for text in own
            ]
            return [old.mean_logprob > new.mean_logprob for new, old in scores]
        pairs = [pair for _, before, now in both for pair in zip(before, now, strict=True)]
        new = [t for t in dict.fromkeys(t for pair in pairs for t in pair) if t not in self._first]
        handle = self.editor.handle
        for at in range(0, len(new), TIMED):
            with plain():
                found = generate_ids(handle, [handle.tokens.encode(t) for t in new[at:][:TIMED]], 1)
            first = [ids[0] if ids else -1 for ids in found]
            self._first.update(zip(new[at:], first, strict=False))
        return [self._first[before] == self._first[now] for before, now in pairs]

    def fired(self, texts: Texts) -> dict[str, Any]:
        """Share of prompts that a note is put in front of, and what that costs."""
        render, encode = self.editor.handle.rendered, self.editor.handle.tokens.encode
        out: dict[str, Any] = {}
        for kind, of_kind in texts.items():
            before = [prompt for own in self.prompts[kind] for prompt in own]
            now = [text for own in of_kind for text in own]
            pairs = list(zip(before, now, strict=True))
            out[f"fired_on_{kind}"] = share([a != b for a, b in pairs])
            out[f"look_up_ms_{kind}"] = round(1000 * seconds_each(render, before[:50]), 2)
            if kind == "edits":
                longer = [len(encode(b)) - len(encode(a)) for a, b in pairs]
                out["tokens_in_front"] = round(statistics.mean(longer), 1)
        return out

    def report(
        self, labels: Sequence[str], known: dict[str, Any], save: Callable[[Any], None]
    ) -> None:
        """Methods by their labels, into what is known of others; saved after each."""
        editor, first = self.editor, [own[0] for own in self.prompts["edits"]][:TIMED]
        rows, looked_up = known.setdefault("rows", {}), known.setdefault("look_ups", {})
        known["edits"] = len(self.records)

        def answer_ms() -> float:
            return round(1000 * seconds_each(lambda p: generate(editor.handle, p, 8), first), 1)

        if PLAIN in labels:
            rows[PLAIN] = {**self.measured(self.prompts), "answer_ms": answer_ms()}
            save(known)
        for label, (name, over) in LOOK_UPS.items() if LOOKED_UP in labels else ():
            with remembered(editor, self.records, name, over) as cost:
                looked_up[label] = {**self.fired(self.rendered()), **cost}
            save(known)
        for label, (name, over) in METHODS.items():
            if label not in labels:
                continue
            with remembered(editor, self.records, name, over) as cost:
                texts, right = self.rendered(), self.rendered(oracle=True)
                rows[label] = {**self.measured(texts), **self.fired(texts), **cost}
                rows[label]["answer_ms"] = answer_ms()
                if name in ("ike", "rag"):
                    rows[f"{label}, oracle"] = self.measured(right)
            print(label, rows[label], rows.get(f"{label}, oracle"), flush=True)
            save(known)


def in_chat(editor: Editor, records: list[EditRecord]) -> dict[str, Any]:
    """Questions as a user's turn: share of answers that hold the new object, in percent."""
    handle = editor.handle
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "rag": ("rag", {}),
        "rag, system message": ("rag", {"place": "system"}),
        "ike": ("ike", {}),
        "memprompt": ("memprompt", {}),
    }
    prompts = [templated(handle.tokenizer, record.rewrite) for record in records]

    def said() -> list[float]:
        texts = generate(handle, prompts, ANSWER_TOKENS)
        pairs = zip(texts, records, strict=True)
        return share([r.target_new.casefold() in text.casefold() for text, r in pairs])

    rows: dict[str, Any] = {PLAIN: said()}
    for label, (name, over) in asked.items():
        with remembered(editor, records, name, over):
            rows[label] = said()
        print(label, rows[label], flush=True)
    return {"edits": len(records), "answer_tokens": ANSWER_TOKENS, "rows": rows}


def of_hops(editor: Editor, records: list[EditRecord]) -> dict[str, Any]:
    """MQuAKE's questions, answered directly; all edits of the cases in one memory."""
    handle = editor.handle
    asked = [
        (i, asked_directly(probe.prompt), probe.answers)
        for i, record in enumerate(records)
        for probe in record.probes
        if probe.kind == "multi_hop"
    ]
    prompts = [prompt for _, prompt, _ in asked]

    def said() -> dict[str, Any]:
        began = time.process_time()
        now = handle.rendered(prompts)
        looked_up = time.process_time() - began
        with plain():
            texts = generate(handle, now, ANSWER_TOKENS)
        by_case: dict[int, list[bool]] = {}
        for (i, _, answers), text in zip(asked, texts, strict=True):
            by_case.setdefault(i, []).append(matches(text, answers))
        return {
            "multi_hop": share([any(hits) for hits in by_case.values()]),
            "fired": share([a != b for a, b in zip(now, prompts, strict=True)]),
            "look_up_ms": round(1000 * looked_up / len(prompts), 1),
        }

    rows = {PLAIN: said()}
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "rag": ("rag", {}),
        "mello": ("mello", {}),
        "mello, judged by words": ("mello", {"judge": "words"}),
    }
    for label, (name, over) in settings.items():
        with remembered(editor, records, name, over):
            rows[label] = said()
        print(label, rows[label], flush=True)
    return {"cases": len(records), "questions": len(prompts), "rows": rows}


def of_many(editor: Editor, layer: int = 7) -> dict[str, Any]:
    """Milliseconds of a look-up among many statements, one prompt at a time; keys are random."""
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
    encoding = seconds_each(lambda p: embed(handle, p, layer), prompts)
    rows: dict[str, Any] = {"encoding_ms": round(1000 * encoding, 2)}
    settings: dict[str, tuple[str, dict[str, Any]]] = {
        "rag, by subject": ("rag", {"scope": "subject"}),
        "rag, by distance": ("rag", {"scope": "distance"}),
        "memprompt, by letters": ("memprompt", {"scope": "distance", "lookup": "edits"}),
    }
    both = {name: "{notes}\n{prompt}" for name in ("template", "chat_template")}
    for label, (name, over) in settings.items():
        known = {"layer": layer, "distance": 0.5, "place": "user", "count": 1, "edits": 0.1}
        options = {**known, **both, **over}
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
    parser.add_argument("--cases", type=int, default=10, help="of MQuAKE")
    parts = ["counterfact", "zsre", "mquake", "chat", "memory"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    labels = [PLAIN, LOOKED_UP, *METHODS]
    parser.add_argument("--methods", nargs="+", default=labels, choices=labels)
    args = parser.parse_args()
    editor = Editor.from_pretrained(args.model, progress=False)

    def read(path: Path, schema: str, count: int) -> list[EditRecord]:
        return list(load(str(path), schema, limit=count).records)

    for part in args.parts:
        result = json.loads(PATH.read_text(encoding="utf-8")) if PATH.is_file() else {}

        def save(found: Any, part: str = part, result: dict[str, Any] = result) -> None:
            head = {"benchmark": "notes", "model": Path(args.model).name, **machine()}
            text = json.dumps({**result, **head, part: found}, indent=1)
            PATH.write_text(text + "\n", encoding="utf-8")

        if part == "memory":
            save(of_many(editor))
        elif part == "chat":
            save(in_chat(editor, read(args.zsre, "zsre", args.edits)))
        elif part == "mquake":
            save(of_hops(editor, read(args.mquake, "mquake", args.cases)))
        else:
            choice = part == "counterfact"
            chosen = read(args.counterfact if choice else args.zsre, part, args.edits)
            Records(editor, chosen, choice=choice).report(args.methods, result.get(part, {}), save)


if __name__ == "__main__":
    main()
