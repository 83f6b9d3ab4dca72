"""UltraEdit: one backward pass and one linear system, no target search (Gu et al., 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.linalg.solve import System
from alphaedit.methods.base import Method, Needs, Problem, Solution
from alphaedit.methods.plugin import Memory, Parts, chain, run_delta
from alphaedit.methods.solving import Changes, check_layers, refuse_mixtures
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import watched
from alphaedit.methods.steps.keys import check_finite
from alphaedit.methods.steps.parts import targets_of
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

FACTS_AT_ONCE = 32


def features(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layers: Sequence[int],
    *,
    end_of_text: bool = False,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Inputs of the edited matrices [n, d_in] and gradients of their outputs [n, d_out], by layer.

    At the tokens from which the targets are read; n is the number of target tokens.
    """
    by_layer: dict[int, tuple[list[Tensor], list[Tensor]]] = {layer: ([], []) for layer in layers}
    for at in range(0, len(facts), FACTS_AT_ONCE):
        own = facts[at : at + FACTS_AT_ONCE]
        read = Continuations.of(handle, own, end_of_text=end_of_text)
        keys: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer in layers:
                stack.enter_context(watched(handle, layer, keys, outputs))
            logits = handle.forward(read.ids, read.mask)[read.row, read.position].float()
            F.cross_entropy(logits, read.target, reduction="sum").backward()
        for layer in layers:
            grad = outputs[layer].grad
            assert grad is not None
            # Some families run their MLP on [rows * length, d].
            for collected, tensor in zip(by_layer[layer], (keys[layer], grad), strict=True):
                shaped = tensor.reshape(*read.ids.shape, tensor.shape[-1])
                collected.append(shaped[read.row, read.position].float())
    return {layer: (torch.cat(h), torch.cat(g)) for layer, (h, g) in by_layer.items()}


def normalised(x: Tensor, name: str, memory: Memory) -> Tensor:
    """`x` [n, c] whitened by the running mean and deviation of all rows so far, itself included."""
    count = float(memory.get(name + "count", torch.tensor(0.0)))
    mean = memory.get(name + "mean", torch.zeros(x.shape[1])).to(x)
    square = memory.get(name + "square", torch.zeros(x.shape[1])).to(x)
    total = count + len(x)
    new_mean = mean + (x - mean).sum(0) / total
    # Chan's update of the sum of squared deviations.
    own = (x - x.mean(0)).square().sum(0)
    square = square + own + (x.mean(0) - mean).square() * count * len(x) / total
    memory[name + "count"] = torch.tensor(total)
    memory[name + "mean"], memory[name + "square"] = new_mean.cpu(), square.cpu()
    deviation = (square / max(total - 1, 1.0)).sqrt()
    return (x - new_mean) / (deviation + 1e-6)


@dataclass(frozen=True)
class UltraEdit(Method):
    """Delta = (H^T H + ridge I)^-1 H^T V with V = -rate |h|^2 g of normalised h and g."""

    @property
    def needs(self) -> Needs:
        """A linear system with a ridge, and no search."""
        return Needs(second_moments=False, target_search=False, ridge=True)

    def solve(self, problem: Problem[Any]) -> Solution:
        """Compute the patch for `problem.facts`; the model is left as it was, bit for bit."""
        hp = problem.hyperparameters
        check_layers(problem)
        refuse_mixtures(problem, self.name)
        chosen = chain(hp, method=self)
        timer, memory = Timer(), dict(problem.state.memory)
        plugin_memory: Memory = memory
        with timer.phase("features"):
            ends = hp.end_of_text
            by_layer = features(problem.handle, problem.facts, hp.layers, end_of_text=ends)
        deltas: Changes = {}
        used: dict[int, Tensor] = {}
        for layer in hp.layers:
            inputs, gradients = by_layer[layer]
            check_finite("gradients", gradients.T, _of_tokens(problem))
            with timer.phase("solve"):
                h = normalised(inputs, f"ultraedit/{layer}/inputs/", plugin_memory)
                g = normalised(gradients, f"ultraedit/{layer}/gradients/", plugin_memory)
                values = -hp.learning_rate * h.square().sum(1, keepdim=True) * g
                keys = inputs.T.contiguous()
                parts = Parts(hp.ridge, None, None, 0.0, None, keys)
                for plugin in chosen:
                    parts = plugin.system(problem, layer, parts, plugin_memory)
                system = System(
                    ridge=parts.ridge,
                    subspace=parts.subspace,
                    second_moment=parts.second_moment,
                    moment_weight=parts.moment_weight,
                    past_keys=parts.past_keys,
                )
                delta = system.solve(keys, values.T.contiguous())
                deltas[layer] = run_delta(chosen, problem, layer, delta, plugin_memory)
                used[layer] = keys
        for plugin in chosen:
            plugin.after(problem, deltas, used, plugin_memory)
        edits = problem.state.edits + len(problem.facts)
        weights = {problem.handle.edited_name(layer): d for layer, d in deltas.items()}
        state = replace(problem.state, edits=edits, memory=memory)
        return Solution(Patch(weights=weights), state, timer.seconds)


def _of_tokens(problem: Problem) -> list[Fact]:
    ends = problem.hyperparameters.end_of_text
    return [
        fact
        for fact in problem.facts
        for _ in targets_of(problem.handle, fact, fact.text, end_of_text=ends)[1]
    ]


METHOD = UltraEdit(
    name="ultraedit",
    title="UltraEdit",
    paper="https://arxiv.org/abs/2505.14679",
    summary="No search: inputs and gradients of one backward pass, whitened, in one system.",
    defaults={"learning_rate": 1e-6, "ridge": 1.0, "ridge_share": None},
)
