"""WISE: side memories of one late MLP output matrix, and a router (Wang et al., NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from alphaedit.core.change import TOGETHER, Change, HookChange
from alphaedit.core.patch import Patch
from alphaedit.linalg.ties import ties
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps import side
from alphaedit.methods.steps.fit import Clean, Training, fit, prepare
from alphaedit.methods.steps.margins import Margins, best_keys, keys_at_ends, other_prompts
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

RATE = 0.15
"""How far a step moves outputs, as a share of the residual stream's size."""
OPTIONS = ("layer", "merge", "density", "ratio")


class WiseSettings(Settings):
    """Settings of side memories."""

    steps: int = Field(70, ge=1, description="most gradient steps of a memory")
    optimizer: Literal["adam", "sgd"] = Field("adam", description='published: "sgd"')
    learning_rate: float | None = Field(
        None, gt=0, description="by default from the sizes of states; published: 1.0, with sgd"
    )
    weight_decay: float = Field(1e-5, ge=0, description="of the change of the matrix")
    stop_loss: float = Field(0.02, ge=0, description="stop once loss and margins are below it")
    contexts: int = Field(
        5, ge=0, description="generated texts put before each prompt; published: 10"
    )
    context_tokens: int = Field(10, ge=1, description="length of each, in tokens")
    margins: tuple[float, float, float] = Field(
        (5.0, 20.0, 10.0),
        description="a memory moves other prompts' outputs by at most the first, the edits' by at "
        "least the second, and by the third more; in units of `unit`",
    )
    unit: float | None = Field(None, gt=0, description="published: 1; by default measured")
    others: int = Field(
        200, ge=1, description="other things, whose prompts a memory must leave alone; published: 1"
    )
    mask: float = Field(0.2, gt=0, le=1, description="share of the matrix that a memory may change")
    bound: float = Field(1.0, gt=0, description="largest change of an entry")
    ratio: float = Field(
        0.7,
        gt=0,
        le=1,
        description="a memory answers from this share of its weakest edit on",
        json_schema_extra=tuned(1.15),
    )
    merge: int = Field(1, ge=1, description="so many memories become one, by TIES; 1: none do")
    density: float = Field(0.53, gt=0, le=1, description="share of entries that TIES keeps")


def delta_of(change: Change, size: tuple[int, int]) -> Tensor:
    """The change of the matrix [d_out, d_in] that an edit's memory holds."""
    side.check_size(change, change.rows["key"].shape[1], size[1])
    mask = side.unpacked(change.shared["mask"], size[0] * size[1])
    return torch.zeros(size[0] * size[1]).masked_scatter(mask, change.shared["values"]).view(size)


def memories(
    changes: Sequence[Change], size: tuple[int, int], merge: int, density: float, ratio: float
) -> list[tuple[Tensor, float]]:
    """Each memory's change of the matrix, and how far it must move an output to answer."""
    deltas_and_limits = []
    for at in range(0, len(changes), merge):
        deltas = [delta_of(change, size) for change in changes[at : at + merge]]
        delta = ties(deltas, density) if len(deltas) > 1 else deltas[0]
        keys = torch.cat([change.rows["key"] for change in changes[at : at + merge]])
        deltas_and_limits.append((delta, ratio * float((keys @ delta.T).norm(dim=1).min())))
    return deltas_and_limits


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """At each prompt's end, find the memory that moves the output most beyond its threshold."""
    undo = ExitStack()
    for (layer, *rest), own in side.by_options(changes, OPTIONS).items():
        device = handle.weight_device(layer)
        deltas_and_limits = memories(own, (handle.d_out(layer), handle.d_in(layer)), *rest)
        deltas = [delta.to(device) for delta, _ in deltas_and_limits]
        limits = torch.tensor([limit for _, limit in deltas_and_limits], device=device).clamp_min(
            1e-30
        )

        def decide(
            keys: Tensor, _: Tensor, deltas: list[Tensor] = deltas, limits: Tensor = limits
        ) -> Tensor:
            moved = torch.stack([(keys[:, 0] @ delta.T).norm(dim=1) for delta in deltas], dim=1)
            most, memory = (moved / limits).max(1)
            return torch.where(most >= 1, memory, -1)

        def add(keys: Tensor, memory: int, deltas: list[Tensor] = deltas) -> Tensor:
            return keys @ deltas[memory].T

        undo.callback(side.beside(handle, layer, decide, add, whole=False))
    return undo.close


@dataclass(frozen=True)
class Wise(Method):
    """One memory an edit: a change of some entries of one matrix, used where it moves it far."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return replace(NO_WEIGHTS, whole_model=True)

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer whose keys part paraphrases from neighbors best, and the unit of margins."""
        layer, unit = best_keys(handle, over.get("layers"))
        return {"layers": (layer,), "unit": unit}

    def solve(self, problem: Problem[WiseSettings]) -> Solution:
        """See Method."""
        hp, handle, timer = problem.hyperparameters, problem.handle, Timer()
        layer = one_layer(problem, "wise")
        size = (handle.d_out(layer), handle.d_in(layer))
        with timer.phase("contexts"):
            contexts = side.contexts_of(problem, hp.contexts, hp.context_tokens)
        with timer.phase("keys"):
            passes = prepare(handle, problem.facts, layer, contexts=contexts)
            others = keys_at_ends(handle, other_prompts(handle, problem.facts, hp.others), layer)
        earlier = [c for c in problem.changes if c.name == "wise" and c.options["layer"] == layer]
        generator = torch.Generator().manual_seed(problem.seed + len(earlier))
        mask = (torch.rand(size, generator=generator) < hp.mask).to(others.device)
        delta = torch.zeros(size, device=others.device, requires_grad=True)
        delta.register_hook(lambda gradient: gradient * mask)
        margins = Margins(passes.clean, others, earlier, hp.margins, hp.unit or 1.0)
        rate = hp.learning_rate or side.rate_of(passes.clean, hp.mask, RATE)
        training = Training(
            hp.steps, rate, hp.optimizer, weight_decay=hp.weight_decay, stop_loss=hp.stop_loss
        )

        def restrain() -> None:
            delta.clamp_(-hp.bound, hp.bound)

        def change(clean: Clean) -> Tensor:
            return clean.leaving + clean.entering @ delta.T.to(clean.entering)

        with timer.phase("learning"):
            done = fit(
                passes,
                [delta],
                change,
                training,
                extra=lambda: margins.loss(delta),
                restrain=restrain,
                progress=problem.progress,
            )
        count = len(problem.facts)
        made = HookChange(
            "wise",
            torch.arange(count),
            {"key": margins.bare.float().cpu().contiguous()},
            {"mask": side.packed(mask.flatten()), "values": delta.detach()[mask].cpu()},
            options={TOGETHER: True, "layer": layer, **hp.model_dump(include=set(OPTIONS))},
        )
        patch = Patch(changes=(made,), metadata={"losses": done.losses, "margins": done.extra})
        state = replace(problem.state, contexts=contexts, edits=problem.state.edits + count)
        return Solution(patch, state, timer.seconds)


METHOD = Wise(
    name="wise",
    title="WISE",
    paper="https://arxiv.org/abs/2405.14768",
    summary="Side memories of one MLP matrix; the one that moves a prompt's output far is used.",
    config=WiseSettings,
    installs={"wise": install},
)
