"""MEMOIR: a residual memory of which each prompt uses a few columns (Wang et al., 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from alphaedit.core.change import Change, HookChange
from alphaedit.core.patch import Patch
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps import side
from alphaedit.methods.steps.encoder import embed, mean_key
from alphaedit.methods.steps.fit import Clean, Training, fit, prepare
from alphaedit.methods.steps.top_mask import best_masks, permutation_of, relative_squares, top_masks
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

OPTIONS = ("layer", "k", "overlap", "seed", "permute")
RATE = 0.05
"""How far a step moves outputs, as a share of the residual stream's size."""


class MemoirSettings(Settings):
    """Settings of a residual memory."""

    k: int | None = Field(None, ge=1, description="columns that a prompt uses; by default measured")
    overlap: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of its columns by which a prompt is taken for an "
        "edited one; by default measured",
        json_schema_extra=tuned(1.15),
    )
    permute: bool | None = Field(
        None,
        description="use other columns than those that are large, drawn once (published); "
        "by default where keys are dense",
    )
    steps: int = Field(50, ge=1, description="most gradient steps of an edit; published: 70")
    optimizer: Literal["adam", "sgd"] = Field("adam", description='published: "sgd"')
    learning_rate: float | None = Field(
        None, gt=0, description="by default from the sizes of states; published: 1.0, with sgd"
    )
    keep: float = Field(
        10.0,
        ge=0,
        description="weight of how far earlier facts' outputs would move by a change of columns "
        "that they use too; published: 0",
    )
    clip: float | None = Field(1.0, gt=0, description="largest norm of the gradient")
    stop_loss: float = Field(0.02, ge=0, description="stop once each fact is below this loss")
    contexts: int = Field(
        2, ge=0, description="generated texts put before each prompt; published: 10"
    )
    context_tokens: int = Field(10, ge=1, description="length of each, in tokens")


@dataclass(frozen=True)
class Memory:
    """All edits of one layer and one way of making masks.

    Attributes:
        matrix: M [d_out, d_in].
        masks: of all facts [n, d_in] float32, in their order.
        mean: of keys of texts about other things, [d_in].
        permutation: see `permutation_of`.
    """

    matrix: Tensor
    masks: Tensor
    mean: Tensor
    permutation: Tensor
    k: int
    overlap: float

    @classmethod
    def of(cls, changes: Sequence[Change], size: tuple[int, int], device: torch.device) -> Memory:
        """What edits with the same options make together."""
        matrix, masks = torch.zeros(size), []
        for change in changes:
            side.check_size(change, len(change.shared["mean"]), size[1])
            matrix[:, change.shared["columns"]] += change.shared["delta"]
            masks.append(side.unpacked(change.rows["mask"], size[1]).float())
        mean, about = changes[0].shared["mean"], changes[0].options
        permutation = permutation_of(size[1], about["seed"], permute=about["permute"])
        parts = (matrix, torch.cat(masks), mean, permutation)
        matrix, masks_of_all, mean, permutation = (part.to(device) for part in parts)
        return cls(matrix, masks_of_all, mean, permutation, about["k"], about["overlap"])

    def decide(self, keys: Tensor, prompt: Tensor) -> Tensor:
        """The fact whose mask is nearest to each prompt's [rows], or -1; see `side.Decide`."""
        weight = prompt.to(keys)[..., None]
        feature = (keys * weight).sum(1) / weight.sum(1) - self.mean
        mask = top_masks(feature, self.k, self.permutation).float()
        # Of equal masks the later counts.
        shared, last = (mask @ self.masks.T).flip(1).max(1)
        return torch.where(shared >= self.overlap * self.k, len(self.masks) - 1 - last, -1)

    def add(self, keys: Tensor, fact: int) -> Tensor:
        """What is added at tokens [S, d_in] of a prompt that is taken for a fact's."""
        return (keys * self.masks[fact]) @ self.matrix.T


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """At each prompt's end, find the fact with the nearest mask, and use its columns of M."""
    undo = ExitStack()
    for (layer, *_), own in side.by_options(changes, OPTIONS).items():
        size = (handle.d_out(layer), handle.d_in(layer))
        memory = Memory.of(own, size, handle.weight_device(layer))
        undo.callback(side.beside(handle, layer, memory.decide, memory.add, whole=True))
    return undo.close


@dataclass(frozen=True)
class Memoir(Method):
    """One mask a fact, and a change of the columns of M that the masks of an edit name."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return replace(NO_WEIGHTS, whole_model=True)

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer and size of masks that part paraphrases from neighbors best, and the border."""
        layer, k, overlap, permute = best_masks(handle, over.get("layers"), over.get("k"))
        return {"layers": (layer,), "k": k, "overlap": overlap, "permute": permute}

    def solve(self, problem: Problem[MemoirSettings]) -> Solution:
        """See Method."""
        hp, handle, facts, timer = problem.hyperparameters, problem.handle, problem.facts, Timer()
        layer = one_layer(problem, "memoir")
        k = min(hp.k or 1, handle.d_in(layer))
        options = {"layer": layer, "k": k, "overlap": hp.overlap, "permute": bool(hp.permute)}
        options["seed"] = problem.seed
        with timer.phase("contexts"):
            contexts = side.contexts_of(problem, hp.contexts, hp.context_tokens)
        with timer.phase("keys"):
            passes = prepare(handle, facts, layer, contexts=contexts, start="all")
            mean = mean_key(handle, layer)
            feature = embed(handle, [fact.text for fact in facts], layer) - mean
        size, device = (handle.d_out(layer), handle.d_in(layer)), passes.clean[0].entering.device
        permutation = permutation_of(size[1], problem.seed, permute=bool(hp.permute))
        masks = top_masks(feature, k, permutation)
        columns = masks.any(0).nonzero().flatten()
        made = HookChange(
            "memoir",
            torch.arange(len(facts)),
            {"mask": side.packed(masks)},
            {"columns": columns, "delta": torch.zeros(size[0], len(columns)), "mean": mean},
            options=options,
        )
        wanted = tuple(options[name] for name in OPTIONS)
        own = [change for change in problem.changes if change.name == "memoir"]
        own = side.by_options(own, OPTIONS).get(wanted, [])
        earlier = Memory.of([*own, made], size, device)
        before = earlier.matrix[:, columns.to(device)]
        used_by = earlier.masks[: -len(facts)].sum(0)[columns.to(device)]
        delta = torch.zeros(before.shape, device=device, requires_grad=True)
        used = masks[:, columns].to(passes.clean[0].entering)

        def change(clean: Clean) -> Tensor:
            keys = clean.entering[..., columns.to(device)] * used[clean.fact][:, None]
            return clean.leaving + keys @ (before + delta).T.to(keys)

        moved = hp.keep * used_by * relative_squares(passes.clean)[columns.to(device)]

        def extra() -> Tensor:
            return (moved * delta.square().sum(0)).sum() / len(facts)

        rate = hp.learning_rate or side.rate_of(passes.clean, k / size[1], RATE)
        training = Training(hp.steps, rate, hp.optimizer, clip=hp.clip, stop_loss=hp.stop_loss)
        with timer.phase("learning"):
            done = fit(passes, [delta], change, training, extra=extra, progress=problem.progress)
        made = replace(made, shared={**made.shared, "delta": delta.detach().cpu()})
        patch = Patch(changes=(made,), metadata={"losses": done.losses})
        state = replace(problem.state, contexts=contexts, edits=problem.state.edits + len(facts))
        return Solution(patch, state, timer.seconds)


METHOD = Memoir(
    name="memoir",
    title="MEMOIR",
    paper="https://arxiv.org/abs/2506.07899",
    summary="A matrix beside an MLP's, of which a prompt uses the columns of the fact it is like.",
    config=MemoirSettings,
    installs={"memoir": install},
)
