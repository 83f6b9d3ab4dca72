"""Causal tracing of 100 facts on the bundled model, over all layers and subject tokens.

    python -m benchmarks.trace [--quick] [--plain FACTS]

Against one forward pass for each (noise, layer, token), which is timed on a few of the facts and
scaled by the tokens that it runs. Writes results/trace.json. On a busy machine, set
OMP_WAIT_POLICY=PASSIVE: threads that wait by spinning cost more there than they bring.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import torch

from alphaedit.core.fact import Fact
from alphaedit.locate.suggest import suggest_layers
from alphaedit.locate.trace import KINDS, POSITIONS, SAMPLES, draw_noise, trace, windows
from alphaedit.model.handle import ModelHandle
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import machine, write
from benchmarks.plain_trace import plain_trace

NAME = "bundled"


def main() -> None:
    """Trace, time both ways, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="10 facts")
    parser.add_argument("--plain", type=int, default=5, help="facts traced the plain way")
    args = parser.parse_args()
    count = 10 if args.quick else 100
    handle = ModelHandle.load(NAME)
    chosen = [r["requested_rewrite"] for r in records(World.load(), count)]
    facts = [Fact(r["prompt"], r["subject"], r["target_true"]["str"]) for r in chosen]
    before = machine()["machine"]["load_average_1min"]
    trace(handle, facts[:2], samples=1)
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        began = time.perf_counter()
        traced = trace(handle, facts, kind=kind)
        seconds = time.perf_counter() - began
        low, high = traced.band
        kinds[kind] = {
            "seconds": seconds,
            "window": traced.window,
            "clean": traced.clean,
            "corrupted": traced.corrupted,
            "indirect_effect": traced.indirect_effect.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        }
        print(kind, f"{seconds:.1f} s", flush=True)
        if kind == "hidden":
            hidden = traced
    encoded = [handle.tokens.encode_with_subject(f.text, f.subject_span) for f in facts]
    noise = draw_noise(handle, encoded)
    # Tokens run by the plain way, by which its time is scaled: (passes) x (tokens of each).
    tokens = [(len(e.ids) - e.subject_first) * len(e.ids) for e in encoded]
    sample = list(range(0, count, max(1, count // args.plain)))[: args.plain]
    share = sum(tokens[i] for i in sample) / sum(tokens)
    plain: dict[str, Any] = {"facts": len(sample), "share_of_all_tokens": share}
    gap = 0.0
    for name, batched in (("one_noise_a_pass", False), ("all_noises_in_a_pass", True)):
        began = time.perf_counter()
        for i in sample:
            clean, corrupted, restored = plain_trace(
                handle,
                facts[i],
                noise[i],
                list(handle.layers),
                windows(handle.n_layers, 1),
                batched=batched,
            )
            at = encoded[i].subject_last - encoded[i].subject_first
            ours = hidden.restored_by_fact[i, POSITIONS.index("last subject")]
            gap = max(gap, float((restored[:, at] - ours).abs().max()))
            gap = max(gap, abs(corrupted - float(hidden.corrupted_by_fact[i])))
            gap = max(gap, abs(clean - float(hidden.clean_by_fact[i])))
        seconds = time.perf_counter() - began
        plain[name] = {
            "seconds": seconds,
            "scaled_to_all_facts": seconds / share,
            "ratio": seconds / share / kinds["hidden"]["seconds"],
        }
    result = {
        "what": f"hidden states, MLP and attention outputs of {NAME}, {count} facts, {SAMPLES} "
        f"noises, {handle.n_layers} layers, all tokens from the subject's first on",
        "facts": count,
        "samples": SAMPLES,
        "mean_tokens": sum(len(e.ids) for e in encoded) / count,
        "states_restored": sum(len(e.ids) - e.subject_first for e in encoded) * handle.n_layers,
        "positions": list(POSITIONS),
        "kinds": {k: {n: _without_nan(v) for n, v in rows.items()} for k, rows in kinds.items()},
        "plain": {
            "note": "hidden states; timed on some of the facts and scaled to all by the tokens "
            "run: see facts and share_of_all_tokens",
            **plain,
        },
        "largest_difference_of_probabilities": gap,
        "suggested_layers": list(suggest_layers(hidden)),
        "load_average_before": before,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "note": "other work ran on the machine if load_average_before is not near zero",
    }
    path = write("trace", result, quick=args.quick)
    print(json.dumps({k: v for k, v in result.items() if k != "kinds"}, indent=1))
    print(torch.get_num_threads(), "threads;", path)


def _without_nan(value: Any) -> Any:
    """The same with null for positions that no fact has."""
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if value != value else value


if __name__ == "__main__":
    main()
