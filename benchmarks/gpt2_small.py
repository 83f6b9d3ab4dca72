"""A batch of AlphaEdit edits on a model of GPT-2-small's shape: the plain pipeline against ours.

    python -m benchmarks.gpt2_small [--quick] [--bundled]

12 layers of 768, 50,257 tokens, random weights; layers 3 to 7 edited, 25 steps with no early stop,
6 prompts and the KL prompt for each fact. The plain pipeline does what the published code does: a
search fact by fact with full forward passes, keys and residuals by full passes layer by layer, a
dense d x d solve, and a last pass a layer for the cache of keys. Writes results/gpt2_small.json,
or with --bundled, on that model with its preset, results/bundled_batch.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from alphaedit.core.fact import Fact
from alphaedit.linalg.subspace import null_space
from alphaedit.methods.base import Problem, Solution
from alphaedit.methods.config import Hyperparameters, build
from alphaedit.methods.presets import preset
from alphaedit.methods.registry import get_method
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.rows import rows_of
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.machine import measured, write
from benchmarks.plain import plain_target

LAYERS = (3, 4, 5, 6, 7)
VALUES: dict[str, Any] = {
    "layers": LAYERS,
    "steps": 25,
    "learning_rate": 0.1,
    "weight_decay": 0.5,
    "kl_factor": 0.0625,
    "clamp": 0.75,
    "stop_loss": 0.0,
    "contexts": 5,
    "context_tokens": 10,
    "energy": 0.9,
    "ridge": 10.0,
}


def model(quick: bool) -> ModelHandle:
    """GPT-2-small's shape with random weights and the bundled tokenizer."""
    tokenizer = ModelHandle.load("bundled").tokenizer
    size = {"n_embd": 96, "n_head": 4, "vocab_size": 4096} if quick else {"vocab_size": 50257}
    torch.manual_seed(0)
    config = GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    return ModelHandle.load(GPT2LMHeadModel(config), tokenizer)


def hooked(
    handle: ModelHandle, layer: int, last_layer: int, rows: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """Keys of a layer and hidden states leaving the last edited one, by one full forward pass."""
    ids, mask = handle.tokens.pad([row.ids for row in rows], "right")
    last = torch.tensor([row.subject_last for row in rows])
    index = torch.arange(len(rows))
    found: dict[str, Tensor] = {}

    def key(module: object, args: tuple[Tensor, ...]) -> None:
        found["key"] = args[0][index, last].clone()

    def hidden(module: object, args: object, output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        found["hidden"] = out[index, last].clone()

    hooks = [
        handle.edited_module(layer).register_forward_pre_hook(key),
        handle.block(last_layer).register_forward_hook(hidden),
    ]
    try:
        with torch.no_grad():
            handle.model(input_ids=ids, attention_mask=mask)
    finally:
        for hook in hooks:
            hook.remove()
    return found["key"], found["hidden"]


def plain_edit(
    handle: ModelHandle,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    hp: Hyperparameters,
    projectors: dict[int, Tensor],
    caches: dict[int, Tensor],
    ridge: float,
) -> dict[str, float]:
    """Edit in place as published code does; seconds by phase."""
    began = time.perf_counter()
    z = torch.stack([plain_target(handle, f, hp.layers[-1], contexts, hp)[0] for f in facts], dim=1)
    seconds = {"targets": time.perf_counter() - began, "keys": 0.0, "solve": 0.0}
    for number, layer in enumerate(hp.layers):
        began = time.perf_counter()
        keys, now = [], []
        for fact in facts:
            rows = [row for row in rows_of(handle, 0, fact, contexts) if not row.is_kl]
            found, _ = hooked(handle, layer, hp.layers[-1], rows)
            keys.append(0.5 * found[0] + 0.5 * found[1:].mean(dim=0))
            now.append(
                hooked(handle, layer, hp.layers[-1], rows[:1])[1][0]
            )  # the second pass, for residuals
        k, residual = torch.stack(keys, dim=1), (z - torch.stack(now, dim=1))
        residual = residual / (len(hp.layers) - number)
        seconds["keys"] += time.perf_counter() - began
        began = time.perf_counter()
        p = projectors[layer]
        left = p @ (k @ k.T + caches[layer]) + ridge * torch.eye(len(p))
        delta = torch.linalg.solve(left, p @ k @ residual.T).T
        handle.set_weight(layer, handle.weight(layer) + delta)
        seconds["solve"] += time.perf_counter() - began
    began = time.perf_counter()
    for layer in hp.layers:
        keys = []
        for fact in facts:
            rows = [row for row in rows_of(handle, 0, fact, contexts) if not row.is_kl]
            keys.append(hooked(handle, layer, hp.layers[-1], rows)[0].mean(dim=0))
        k = torch.stack(keys, dim=1)
        caches[layer] += k @ k.T
    seconds["keys"] += time.perf_counter() - began
    return seconds


def main() -> None:
    """Run both on the same facts and write seconds by phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow model, 3 facts")
    parser.add_argument("--bundled", action="store_true", help="the bundled model and its preset")
    args = parser.parse_args()
    quick = args.quick
    few, many = (3, 6) if quick else (10, 100)
    handle = ModelHandle.load("bundled") if args.bundled else model(quick)
    chosen = [r["requested_rewrite"] for r in records(World.load(), many, seed=3)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    stats = ModelStatistics(handle, "bundled", tokens=4_000 if quick else 20_000)
    hp = build(VALUES, "benchmark")
    if args.bundled:
        hp = build({**preset("bundled", "alphaedit"), "ridge_share": None}, "benchmark")
    stats.prepare(hp.layers)
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    state = SequentialState(contexts=contexts)
    half = hp.model_copy(update={"search_dtype": "bfloat16"})
    lengths = [len(r.ids) for f in facts[:few] for r in rows_of(handle, 0, f, contexts)]

    def ours(batch: Sequence[Fact], hp: Hyperparameters = hp) -> tuple[float, Solution]:
        problem = Problem(handle, batch, hp, stats, state)
        with measured() as spent:
            solution = get_method("alphaedit").solve(problem)
        return spent.seconds, solution

    ours(facts[:2])
    changes: dict[str, Tensor] = {}
    result: dict[str, Any] = {
        "shape": {"layers": handle.n_layers, "width": handle.d_out(0), "inner": handle.d_in(0)},
        "rows_a_fact": hp.contexts + 2,
        "mean_tokens_a_row": statistics.mean(lengths),
        "steps": hp.steps,
        "ours": {},
    }
    for count in (few, many):
        seconds, solution = ours(facts[:count])
        phases = dict(solution.seconds)
        result["ours"][str(count)] = {"seconds_per_edit": seconds / count, "phases": phases}
        print(count, seconds / count, phases, flush=True)
        if count == few:
            changes = {name: change.matrix() for name, change in solution.patch.weights.items()}
    seconds, solution = ours(facts[:many], half)
    result["bfloat16"] = {"seconds_per_edit": seconds / many, "phases": dict(solution.seconds)}
    print("bfloat16", result["bfloat16"], flush=True)
    projectors = {
        layer: null_space(stats.spectrum(layer), energy=0.9).matrix().float() for layer in hp.layers
    }
    caches = {layer: torch.zeros_like(projectors[layer]) for layer in hp.layers}
    clean = {layer: handle.weight(layer) for layer in hp.layers}
    began = time.perf_counter()
    phases = plain_edit(handle, facts[:few], contexts, hp, projectors, caches, hp.ridge)
    seconds = time.perf_counter() - began
    result["plain"] = {"facts": few, "seconds_per_edit": seconds / few, "phases": phases}
    result["ratio_same_facts"] = (
        result["plain"]["seconds_per_edit"] / result["ours"][str(few)]["seconds_per_edit"]
    )
    result["ratio_100_facts"] = (
        result["plain"]["seconds_per_edit"] / result["ours"][str(many)]["seconds_per_edit"]
    )
    result["ratio_100_facts_bfloat16"] = (
        result["plain"]["seconds_per_edit"] / result["bfloat16"]["seconds_per_edit"]
    )
    result["relative_difference_of_changes"] = max(
        float((handle.weight(i) - clean[i] - changes[handle.edited_name(i)]).norm())
        / float(changes[handle.edited_name(i)].norm())
        for i in hp.layers
    )
    print(result)
    write("bundled_batch" if args.bundled else "gpt2_small", result, quick=quick)


if __name__ == "__main__":
    main()
