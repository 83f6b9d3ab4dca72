"""Which neighbors change at a high load: those that are edited themselves, or others?

    python -m benchmarks.neighbors [--model bundled-small] [--edits 360] [--method NAME ...]

Where hundreds of a world's facts are edited, most neighbors of an edited fact were edited, too, and
are to change. Edits the world's facts in equal batches by each method, and asks the neighborhood
prompts of all of them apart. Writes results/neighbors.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import percent
from alphaedit.bench.metrics import score
from alphaedit.bench.sources import world_records
from alphaedit.editor.session import Editor
from alphaedit.editor.verdict import without_verdicts
from benchmarks.loads import FIRST_SEED
from benchmarks.machine import write

METHODS = ("gated", "alphaedit-weighted", "memit-history")
BATCHES = 24
SELF, OTHER, UNTOUCHED = (
    "of the neighbor itself the same was edited",
    "of its subject something else was edited",
    "of its subject nothing was edited",
)


def kinds(records: Sequence[EditRecord]) -> list[tuple[str, EditRecord, str]]:
    """Each neighborhood prompt, its record, and what was edited of the neighbor's subject."""
    by_subject: dict[str, list[EditRecord]] = {}
    for record in records:
        by_subject.setdefault(record.subject.casefold(), []).append(record)
    rows = []
    for record in records:
        for prompt in record.neighborhood_prompts:
            text = prompt.casefold()
            own = [one for name, many in by_subject.items() if name in text for one in many]
            # A neighbor has the same true object; so it was edited away if one of its facts had it.
            same = any(one.target_true == record.target_true for one in own)
            rows.append((prompt, record, SELF if same else OTHER if own else UNTOUCHED))
    return rows


def stays(editor: Editor, rows: Sequence[tuple[str, EditRecord, str]]) -> dict[str, Any]:
    """Of each kind, the share of prompts to which the true object is likelier, with interval."""
    both = [(prompt, record.target_new) for prompt, record, _ in rows]
    both += [(prompt, record.target_true) for prompt, record, _ in rows]
    scores = score(editor.responder, both)
    hits: dict[str, list[bool]] = {}
    for (_, _, kind), new, true in zip(rows, scores, scores[len(rows) :], strict=False):
        hits.setdefault(kind, []).append(true.mean_logprob > new.mean_logprob)
    rates = {kind: percent(own) for kind, own in sorted(hits.items())}
    return {
        kind: [round(v, 2) for v in (rate.value, rate.low, rate.high)] + [len(hits[kind])]
        for kind, rate in rates.items()
        if rate is not None
    }


def main() -> None:
    """Edit, ask, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bundled-small")
    parser.add_argument("--edits", type=int, default=360)
    parser.add_argument("--method", nargs="+", default=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    editor = Editor.from_pretrained(args.model, seed=0, progress=False)
    records = world_records(editor.handle, args.edits, FIRST_SEED)
    rows, facts = kinds(records), [record.fact for record in records]
    result: dict[str, Any] = {"model": args.model, "edits": args.edits, "batches": BATCHES}
    result["methods"] = {"unedited": stays(editor, rows)}
    for method in args.method:
        with without_verdicts():
            editor.edit_batches(facts, method, batch_size=-(-args.edits // BATCHES))
        result["methods"][method] = stays(editor, rows)
        editor.set_edits([])
        print(method, result["methods"][method], flush=True)
    print(write("neighbors", result, quick=False))


if __name__ == "__main__":
    main()
