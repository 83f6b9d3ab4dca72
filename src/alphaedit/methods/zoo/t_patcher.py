"""T-Patcher: a neuron for each wrong token, beside the last MLP (Huang et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from alphaedit.core.change import Change, HookChange
from alphaedit.core.patch import Patch
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps.codebook import by_options
from alphaedit.methods.steps.neurons import Neurons, beside, others, trained
from alphaedit.methods.steps.router import check_widths, joined
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle
from alphaedit.model.mlp import mlp_of

QUERIES = "t-patcher/"
"""Of the tokens of earlier edits, in what a sequential run has learned."""


class PatcherSettings(Settings):
    """Settings of neurons beside an MLP."""

    steps: int = Field(100, ge=1, description="most gradient steps")
    learning_rate: float = Field(
        0.1, gt=0, description="Adam's rate, as a share of the size of what a neuron reads and adds"
    )
    stop_loss: float = Field(
        0.02,
        ge=0,
        description="training ends when all facts are below it and no neuron fires at other tokens",
    )
    tokens: int = Field(5, ge=1, description="most neurons of a fact: one for each wrong token")
    quiet_weight: float = Field(
        10.0,
        ge=0,
        description="weight of other tokens, at which neurons must not fire",
        json_schema_extra=tuned(3.0),
    )
    off_below: float | None = Field(
        0.0,
        description="pre-activation up to which a neuron is exactly off, so that other prompts "
        "keep every bit; null: never off, as published",
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Put the neurons of all edits beside the MLP."""
    undo = ExitStack()
    for (layer, off), own in by_options(changes, layer=0, off_below=0.0).items():
        check_widths(own, key=handle.d_out(layer), value=handle.d_out(layer))
        device = handle.weight_device(layer)
        rows = [joined(own, name).to(device) for name in ("key", "bias", "value")]
        neurons = Neurons(rows[0], rows[1], rows[2], off)
        undo.callback(beside(handle, mlp_of(handle, layer), neurons))
    return undo.close


@dataclass(frozen=True)
class Patcher(Method):
    """Neurons with a key, a bias and a value each; they add up, so each can be taken out alone."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return replace(NO_WEIGHTS, whole_model=True)

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The last layer: what stands in front of an answer's tokens does not meet its neurons."""
        return {"layers": (handle.n_layers - 1,)}

    def solve(self, problem: Problem[PatcherSettings]) -> Solution:
        """See Method."""
        hp, timer, facts, handle = problem.hyperparameters, Timer(), problem.facts, problem.handle
        layer = one_layer(problem, "t-patcher")
        mlp = mlp_of(handle, layer)
        with timer.phase("other tokens"):
            quiet, texts = others(handle, layer, mlp, problem.seed)
            memory = problem.state.memory
            earlier = [memory[name].to(quiet) for name in sorted(memory) if QUERIES in name]
            about = [[fact.subject in text for text in texts] for fact in facts]
            exempt = torch.zeros(len(facts), sum(map(len, [quiet, *earlier])), dtype=torch.bool)
            exempt[:, : len(texts)] = torch.tensor(about)
            quiet = torch.cat([quiet, *earlier])
        with timer.phase("training"):
            made, fact, own, losses = trained(problem, layer, mlp, quiet, exempt.to(quiet.device))
        rows = {"key": made.keys.cpu(), "bias": made.biases.cpu(), "value": made.values.cpu()}
        options = {"layer": layer, "off_below": hp.off_below}
        change = HookChange("t-patcher", fact.cpu(), rows, options=options)
        state = replace(
            problem.state,
            edits=problem.state.edits + len(facts),
            memory={**memory, _name(own.cpu()): own.cpu()},
        )
        return Solution(Patch(changes=(change,), metadata={"losses": losses}), state, timer.seconds)


def _name(queries: Tensor) -> str:
    return QUERIES + sha256(queries.contiguous().numpy().tobytes()).hexdigest()[:16]


METHOD = Patcher(
    name="t-patcher",
    title="T-Patcher",
    paper="https://arxiv.org/abs/2301.09785",
    summary="Neurons beside the last MLP: one fires at each token that was wrong, and adds to it.",
    config=PatcherSettings,
    installs={"t-patcher": install},
)
