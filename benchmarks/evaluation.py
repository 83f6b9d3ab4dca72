"""Time to evaluate 1,000 CounterFact records: batched, against one prompt at a time.

    python -m benchmarks.evaluation [--quick]

Probabilities only, no generation, on the bundled model. The plain way scores every prompt and
object by a pass of its own; it is timed on a part of the records and scaled. Both must agree.
Writes results/evaluation.json.
"""

from __future__ import annotations

import argparse
import time

import torch

from alphaedit.bench.data import EditRecord
from alphaedit.bench.metrics import probability_metrics
from alphaedit.model.handle import ModelHandle
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import write

KINDS = ("efficacy", "generalization", "specificity")


def mean_logprob(handle: ModelHandle, prompt: str, answer: str) -> float:
    """Mean log-probability of an answer's tokens, by one pass."""
    ids, target = handle.tokens.encode_continuation(prompt, answer)
    with torch.no_grad():
        logits = handle.model(input_ids=torch.tensor([[*ids, *target]])).logits[0]
    log_p = logits[len(ids) - 1 : -1].float().log_softmax(-1)
    return float(log_p.gather(1, torch.tensor(target)[:, None]).mean())


def plain(handle: ModelHandle, rows: list[EditRecord]) -> dict[str, float]:
    """The three shares, one prompt and one object at a time."""
    hits: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for row in rows:
        asked = [("efficacy", row.rewrite)]
        asked += [("generalization", p) for p in row.paraphrase_prompts]
        asked += [("specificity", p) for p in row.neighborhood_prompts]
        for kind, prompt in asked:
            new = mean_logprob(handle, prompt, row.target_new)
            true = mean_logprob(handle, prompt, row.target_true)
            hits[kind].append(true > new if kind == "specificity" else new > true)
    return {kind: 100 * sum(found) / len(found) for kind, found in hits.items()}


def main() -> None:
    """Time both ways and compare their numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="60 records, 10 of them plainly")
    args = parser.parse_args()
    count, part = (60, 10) if args.quick else (1000, 60)
    handle = ModelHandle.load("bundled")
    rows = [
        EditRecord.from_dict(r, f"record {i}") for i, r in enumerate(records(World.load(), count))
    ]
    probability_metrics(handle, rows[:5])  # first passes allocate
    began = time.perf_counter()
    found = probability_metrics(handle, rows)
    batched = time.perf_counter() - began
    began = time.perf_counter()
    slow = plain(handle, rows[:part])
    alone = (time.perf_counter() - began) * count / part
    fast = probability_metrics(handle, rows[:part])
    different = {
        k: (slow[k], r.value) for k in KINDS if (r := fast[k]) and abs(r.value - slow[k]) > 1e-9
    }
    result = {
        "records": count,
        "prompts": sum(1 + len(r.paraphrase_prompts) + len(r.neighborhood_prompts) for r in rows),
        "batched_seconds": batched,
        "plain_seconds": alone,
        "plain_timed_on": part,
        "ratio": alone / batched,
        "different": different,
        "metrics": {k: r.value for k in KINDS if (r := found[k])},
    }
    print(result)
    write("evaluation", result, quick=args.quick)


if __name__ == "__main__":
    main()
