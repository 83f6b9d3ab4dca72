"""What the phases of a batch cannot do without: operations and bytes over measured rates.

    python -m benchmarks.floors [--quick]

A batch of 50 facts on a model of GPT-2-small's shape, every step taken, float32 and bfloat16 layers
in the search. Operations are counted from the rows: products with matrices, two for each entry. The
rate is that of the model's own products (1,024 tokens through an MLP matrix), the bandwidth that of
copying 256 MB. Writes results/floors.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from alphaedit.core.fact import Fact
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters, build
from alphaedit.methods.registry import get_method
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.keys import prompts_in_context
from alphaedit.methods.steps.rows import rows_of
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.gpt2_small import VALUES, model
from benchmarks.machine import measured, write


def search_operations(
    handle: ModelHandle, facts: Sequence[Fact], contexts: Sequence[str], hp: Hyperparameters
) -> float:
    """Of a target search in which every fact takes every step, forward and backward.

    Layers behind the last edited one, tokens from the subject's last on, the last MLP and the head
    where a loss is read.
    """
    block = handle.block(handle.n_layers - 1)
    whole = sum(p.numel() for p in block.parameters() if p.ndim > 1)
    mlp = sum(
        p.numel() for name, p in block.named_parameters() if p.ndim > 1 and "mlp" in name.split(".")
    )
    after = handle.n_layers - 1 - hp.layers[-1]
    head: Any = handle.head.weight
    total = 0.0
    for index, fact in enumerate(facts):
        for row in rows_of(handle, index, fact, contexts):
            reads = max(1, len(row.targets))
            total += row.tail * (whole * after - mlp) + reads * (mlp + head.numel())
    return 2.0 * 2.0 * total * hp.steps


def key_operations(
    handle: ModelHandle, facts: Sequence[Fact], contexts: Sequence[str], hp: Hyperparameters
) -> float:
    """Of one pass of all distinct beginnings of the rows through the layers up to the last."""
    ids, _ = prompts_in_context(handle, facts, contexts)
    tokens = len({tuple(row[: n + 1]) for row in ids for n in range(len(row))})
    block = sum(p.numel() for p in handle.block(0).parameters() if p.ndim > 1)
    return 2.0 * tokens * block * (hp.layers[-1] + 1)


def solve_bytes(handle: ModelHandle, hp: Hyperparameters, dims: Sequence[int]) -> float:
    """Of each layer's basis read twice and its matrix read and written, in float32."""
    total = 0.0
    for layer, dim in zip(hp.layers, dims, strict=True):
        d = handle.d_in(layer)
        total += 2 * 4.0 * d * min(dim, d - dim) + 2 * 4.0 * d * handle.d_out(layer)
    return total


def rate(work: Callable[[], object], amount: float, seconds: float = 1.0) -> float:
    """How much of `amount` is done in a second, the best of several tries."""
    work()
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - at)
    return amount / best


def machine_rates(handle: ModelHandle) -> dict[str, float]:
    """Operations a second in float32 and bfloat16, and bytes a second."""
    d_out, d_in = handle.d_out(0), handle.d_in(0)
    x, w = torch.randn(1024, d_out), torch.randn(d_in, d_out)
    half_x, half_w = x.bfloat16(), w.bfloat16()
    big = torch.zeros(1 << 26)
    other = torch.zeros_like(big)
    operations = 2.0 * 1024 * d_out * d_in
    linear = torch.nn.functional.linear
    return {
        "float32": rate(lambda: linear(x, w), operations),
        "bfloat16": rate(lambda: linear(half_x, half_w), operations),
        "bytes": rate(lambda: other.copy_(big), 2.0 * big.nbytes),
    }


def main() -> None:
    """Measure rates and phases; write each phase's floor and what share of its time that is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow model, 4 facts")
    quick = parser.parse_args().quick
    handle, count = model(quick), 4 if quick else 50
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=3)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    hp = build(VALUES, "benchmark")
    stats = ModelStatistics(handle, "bundled", tokens=4_000 if quick else 20_000)
    stats.prepare(hp.layers)
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    state = SequentialState(contexts=contexts)
    rates = machine_rates(handle)
    half = hp.model_copy(update={"search_dtype": "bfloat16"})
    get_method("alphaedit").solve(Problem(handle, facts[:2], hp, stats, state))
    from alphaedit.linalg.subspace import null_space

    dims = [null_space(stats.spectrum(i), energy=hp.energy).dim for i in hp.layers]
    phases: dict[str, Any] = {}
    search = search_operations(handle, facts, contexts, hp)
    for name, settings in (("float32", hp), ("bfloat16", half)):
        with measured() as spent:
            solution = get_method("alphaedit").solve(Problem(handle, facts, settings, stats, state))
        floors = {
            "targets": search / rates[name],
            "keys": key_operations(handle, facts, contexts, hp) / rates["float32"],
            "solve": solve_bytes(handle, hp, dims) / rates["bytes"],
        }
        phases[name] = {
            phase: {
                "seconds": solution.seconds[phase],
                "floor_seconds": floor,
                "share_of_floor": floor / solution.seconds[phase],
            }
            for phase, floor in floors.items()
        }
        phases[name]["peak_bytes"] = spent.peak_bytes
    result = {"facts": count, "rates": rates, "search_operations": search, "phases": phases}
    print(result)
    write("floors", result, quick=quick)


if __name__ == "__main__":
    main()
