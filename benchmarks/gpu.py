"""100 edits on a GPU, on a model of Llama-3-8B's shape with random weights in bfloat16.

    python -m benchmarks.gpu [--device cuda] [--facts 100]
    python -m benchmarks.gpu --dry-run                       a small model on the CPU

Speed does not depend on the values: null spaces are random, half of each space. Reports seconds by
phase, what share of the GPU's measured matrix rate the target search reaches, and peak memory.
Writes results/gpu.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from alphaedit.core.errors import AlphaEditError
from alphaedit.core.fact import Fact
from alphaedit.linalg.subspace import Spectrum
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters, build
from alphaedit.methods.registry import get_method
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.model.handle import ModelHandle
from alphaedit.world.facts import World
from alphaedit.world.records import records
from benchmarks.floors import rate, search_operations
from benchmarks.gpt2_small import VALUES
from benchmarks.machine import write
from benchmarks.solve import random_basis

LLAMA = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
}
LAYERS = (4, 5, 6, 7, 8)


class RandomStatistics:
    """Null spaces of half the space, in random directions."""

    def __init__(self, d: int, device: str) -> None:
        self.d, self.device = d, device

    def second_moment(self, layer: int) -> Tensor:
        """Not asked for by AlphaEdit."""
        raise NotImplementedError

    @cache  # noqa: B019
    def spectrum(self, layer: int) -> Spectrum:
        """Half of the eigenvalues small."""
        g = torch.Generator().manual_seed(layer)
        vectors = random_basis(self.d, self.d, g).to(self.device)
        values = torch.ones(self.d, device=self.device)
        values[: self.d // 2] = 1e-6
        return Spectrum(values, vectors)


def random_model(shape: dict[str, int], device: str) -> ModelHandle:
    """A model of that shape, with the bundled tokenizer."""
    tokenizer = ModelHandle.load("bundled").tokenizer
    config = LlamaConfig(
        **shape, bos_token_id=0, eos_token_id=0, max_position_embeddings=512, dtype=torch.bfloat16
    )
    with torch.device("meta"):
        network = LlamaForCausalLM(config)
    network = network.to(torch.bfloat16).to_empty(device=device)
    g = torch.Generator(device).manual_seed(0)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.normal_(0, 0.02, generator=g) if parameter.ndim > 1 else parameter.fill_(1)
    # Buffers that `to_empty` left without values.
    network.model.rotary_emb = type(network.model.rotary_emb)(config).to(device)
    return ModelHandle.load(network, tokenizer)


def one_batch(
    handle: ModelHandle, facts: Sequence[Fact], hp: Hyperparameters, device: str
) -> tuple[float, dict[str, float]]:
    """Seconds of a batch, in all and by phase, after a short one to warm up."""
    statistics = RandomStatistics(handle.d_in(0), device)
    for layer in hp.layers:
        statistics.spectrum(layer)
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    state = SequentialState(contexts=contexts)
    problem = Problem(handle, facts, hp, statistics, state)
    short = hp.model_copy(update={"steps": 3})
    get_method("alphaedit").solve(Problem(handle, facts, short, statistics, state))
    _wait(device)
    began = time.perf_counter()
    solution = get_method("alphaedit").solve(problem)
    _wait(device)
    return time.perf_counter() - began, dict(solution.seconds)


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(handle: ModelHandle, device: str) -> float:
    """Operations a second of products of the model's own MLP matrices, 4,096 tokens."""
    tokens = 4096 if torch.device(device).type == "cuda" else 256
    x = torch.randn(tokens, handle.d_out(0), device=device, dtype=torch.bfloat16)
    w = torch.randn(handle.d_in(0), handle.d_out(0), device=device, dtype=torch.bfloat16)

    def work() -> None:
        for _ in range(20):
            torch.nn.functional.linear(x, w)
        _wait(device)

    return rate(work, 20 * 2.0 * x.numel() * len(w))


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--dry-run", action="store_true", help="a small model on the CPU")
    parser.add_argument("--quick", action="store_true", help="the same as --dry-run")
    args = parser.parse_args()
    dry = args.dry_run or args.quick
    device = "cpu" if dry else args.device
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("No GPU is at hand: try --dry-run, or --device cpu.")
    count = min(args.facts, 6) if dry else args.facts
    chosen = [r["requested_rewrite"] for r in records(World.load(), count, seed=3)]
    facts = [Fact(r["prompt"], r["subject"], r["target_new"]["str"]) for r in chosen]
    values = {**VALUES, "layers": LAYERS, **({"steps": 3} if dry else {})}
    hp = build(values, "benchmark")
    try:
        handle = random_model(SMALL if dry else LLAMA, device)
        peak = matrix_rate(handle, device)
        seconds, phases = one_batch(handle, facts, hp, device)
    except (AlphaEditError, torch.OutOfMemoryError) as error:
        raise SystemExit(f"{error}") from None
    contexts = generate_contexts(handle, hp.contexts, hp.context_tokens, 0)
    operations = search_operations(handle, facts, contexts, hp)
    on_gpu = device.startswith("cuda")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "facts": count,
        "steps": hp.steps,
        "seconds": seconds,
        "seconds_per_100_edits": 100 * seconds / count,
        "phases": phases,
        "matrix_rate": peak,
        "search_share_of_matrix_rate": operations / phases["targets"] / peak,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
    }
    print(result)
    write("gpu", result, quick=dry)


if __name__ == "__main__":
    main()
