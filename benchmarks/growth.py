"""How the cost of a batch grows: with past edits, facts, contexts, depth and width.

    python -m benchmarks.growth [--quick]

Exponents are the slopes of least-squares lines through the logarithms. Past edits are measured on a
model of GPT-2-small's shape, a batch of 10 facts after as many keys of earlier batches as were
edited; facts and contexts on the bundled model; depth and width on narrow models with random
weights. Every step of the searches is taken. Writes results/growth.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from alphaedit.core.fact import Fact
from alphaedit.methods.base import Problem, Solution
from alphaedit.methods.config import build
from alphaedit.methods.presets import preset
from alphaedit.methods.registry import get_method
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.systems import Systems
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.gpt2_small import LAYERS, VALUES, model
from benchmarks.machine import measured, write

Row = dict[str, Any]


def exponent(rows: Sequence[Row], x: str, y: str = "seconds", least: float = 0) -> float:
    """Slope of log y against log x, over rows with x of at least `least`."""
    points = [(math.log(r[x]), math.log(r[y])) for r in rows if r[x] >= max(least, 1)]
    mean_x, mean_y = (sum(p[i] for p in points) / len(points) for i in (0, 1))
    over = sum((a - mean_x) * (b - mean_y) for a, b in points)
    return over / sum((a - mean_x) ** 2 for a, _ in points)


def some_facts(count: int) -> list[Fact]:
    """Facts of the bundled world."""
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=3)]
    return [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]


def batch(problem: Problem) -> tuple[Row, Solution]:
    """Seconds of a batch, in all and by phase, and the memory that it took besides."""
    with measured() as spent:
        solution = get_method("alphaedit").solve(problem)
    row = {"seconds": spent.seconds, "peak_bytes": spent.peak_bytes, **solution.seconds}
    return row, solution


def past_edits(counts: Sequence[int], *, quick: bool) -> list[Row]:
    """A batch of 10 facts after so many past edits."""
    handle, facts = model(quick), some_facts(10)
    hp = build(VALUES, "benchmark")
    stats = ModelStatistics(handle, "bundled", tokens=4_000 if quick else 20_000)
    stats.prepare(hp.layers)
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    state, systems, rows = SequentialState(contexts=contexts), Systems(), list[Row]()
    generator = torch.Generator().manual_seed(0)
    size = {i: float(stats.second_moment(i).diagonal().mean()) ** 0.5 for i in hp.layers}
    problem = Problem(handle, facts, hp, stats, state, systems=systems)
    batch(replace(problem, facts=facts[:2], hyperparameters=hp.model_copy(update={"steps": 2})))
    for count in counts:
        while state.edits < count:
            new = {
                i: size[i] * torch.randn(handle.d_in(i), 100, generator=generator) for i in LAYERS
            }
            state = state.absorb(new)
        if count:
            # What the batch before this one would have left behind.
            short = hp.model_copy(update={"steps": 2})
            batch(replace(problem, state=state, facts=facts[:1], hyperparameters=short))
            last = {
                i: size[i] * torch.randn(handle.d_in(i), 10, generator=generator) for i in LAYERS
            }
            state = state.absorb(last)
        row, _ = batch(replace(problem, state=state))
        rows.append({"past_edits": count, **row})
        print(rows[-1], flush=True)
    return rows


def on_bundled(name: str, counts: Sequence[int]) -> list[Row]:
    """Batches of so many facts, or 30 facts after so many contexts."""
    handle = ModelHandle.load("bundled")
    values = {**preset("bundled", "alphaedit"), "steps": 25, "stop_loss": 0.0}
    stats = ModelStatistics(handle, "bundled", tokens=20_000)
    hp = build(values, "benchmark")
    stats.prepare(hp.layers)
    rows = []
    for count in counts:
        if name == "contexts":
            hp = hp.model_copy(update={"contexts": count})
        contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
        facts = some_facts(count if name == "facts" else 30)
        problem = Problem(handle, facts, hp, stats, SequentialState(contexts=contexts))
        if not rows:
            batch(replace(problem, facts=facts[:1]))
        rows.append({name: count, **batch(problem)[0]})
        print(rows[-1], flush=True)
    return rows


def shapes(name: str, sizes: Sequence[int]) -> list[Row]:
    """30 facts on models with so many layers of 128, or of so many dimensions with 6 layers."""
    tokenizer, facts, rows = ModelHandle.load("bundled").tokenizer, some_facts(30), list[Row]()
    for size in sizes:
        layers, width = (size, 128) if name == "layers" else (6, size)
        torch.manual_seed(0)
        config = GPT2Config(
            n_layer=layers, n_embd=width, n_head=4, vocab_size=4096, bos_token_id=0, eos_token_id=0
        )
        handle = ModelHandle.load(GPT2LMHeadModel(config), tokenizer)
        # As a share of the depth, so that as much of the model lies behind them.
        hp = build({**VALUES, "layers": (layers // 3,)}, "benchmark")
        stats = ModelStatistics(handle, "bundled", tokens=8 * width)
        stats.prepare(hp.layers)
        contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
        problem = Problem(handle, facts, hp, stats, SequentialState(contexts=contexts))
        batch(replace(problem, facts=facts[:1]))
        rows.append({name: size, **batch(problem)[0]})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure all and write the exponents beside what is expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small")
    quick = parser.parse_args().quick
    series: dict[str, list[Row]] = {
        "past_edits": past_edits(
            (0, 100, 300) if quick else (0, 100, 300, 1000, 3000, 10000), quick=quick
        ),
        "facts": on_bundled("facts", (1, 4) if quick else (1, 10, 30, 100, 300, 1000)),
        "contexts": on_bundled("contexts", (1, 2) if quick else (1, 2, 5, 10, 20)),
        "layers": shapes("layers", (3, 6) if quick else (6, 12, 24, 48)),
        "width": shapes("width", (32, 64) if quick else (128, 256, 512, 1024)),
    }
    expected = {"past_edits": 0.0, "facts": 1.0, "contexts": 1.0, "layers": 1.0, "width": 2.0}
    fitted = {
        name: {
            "expected": expected[name],
            "fitted": exponent(rows, name, least=10 if name == "facts" and not quick else 0),
        }
        for name, rows in series.items()
    }
    fitted["past_edits"]["fitted_solve"] = exponent(series["past_edits"], "past_edits", "solve")
    print(fitted)
    write("growth", {"exponents": fitted, "series": series}, quick=quick)


if __name__ == "__main__":
    main()
