"""Target values for 100 facts on the bundled model: the batched search against the plain loop.

python -m benchmarks.targets [--quick]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import machine
from benchmarks.plain import plain_target

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Time both, compare the losses, write results/targets.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 facts")
    count = 10 if parser.parse_args().quick else 100
    editor = Editor.from_pretrained("bundled")
    hp = editor.hyperparameters("alphaedit")
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=3)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    contexts = generate_contexts(editor.handle, hp.contexts, hp.context_tokens, 0)
    layer = hp.layers[-1]
    find_targets(editor.handle, facts[:2], layer, contexts, hp)
    began = time.perf_counter()
    fast = find_targets(editor.handle, facts, layer, contexts, hp)
    fast_seconds = time.perf_counter() - began
    began = time.perf_counter()
    plain = [plain_target(editor.handle, fact, layer, contexts, hp) for fact in facts]
    plain_seconds = time.perf_counter() - began
    values = torch.stack([value for value, _ in plain], dim=1)
    gap = (fast.values - values).norm(dim=0) / values.norm(dim=0)
    same_steps = sum(len(a) == len(b) for a, (_, b) in zip(fast.losses, plain, strict=True))
    loss_gap = max(
        abs(x - y)
        for a, (_, b) in zip(fast.losses, plain, strict=True)
        for x, y in zip(a, b, strict=False)
    )
    result = {
        "benchmark": "targets",
        "facts": count,
        "steps": hp.steps,
        "layer": layer,
        "plain_seconds": plain_seconds,
        "batched_seconds": fast_seconds,
        "ratio": plain_seconds / fast_seconds,
        "largest_relative_difference_of_values": float(gap.max()),
        "largest_difference_of_losses": loss_gap,
        "facts_with_same_number_of_steps": same_steps,
        **machine(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "targets.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
