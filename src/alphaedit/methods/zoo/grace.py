"""GRACE: a codebook of hidden states at one layer (Hartvigsen et al., NeurIPS 2023)."""

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
from alphaedit.methods.steps.router import at_block, best_block, joined, target_ids, values_at_ends
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

NEVER = -1.0


class GraceSettings(Settings):
    """Settings of a codebook."""

    radius: float | None = Field(
        None, gt=0, description="reach of an entry, or measured", json_schema_extra=tuned(1.25)
    )
    steps: int = Field(50, ge=1, description="most gradient steps of the search for a value")
    clamp: float = Field(
        2.0, gt=0, description="largest |value - key| / |key|", json_schema_extra=tuned(1.5)
    )
    stop_loss: float = Field(0.02, ge=0, description="a fact below this loss is done")
    replace: Literal["last", "from_last"] = Field(
        "last", description="where a value stands: at the prompt's last token, or from there on"
    )


def codebook(changes: Sequence[Change]) -> tuple[Tensor, Tensor, Tensor]:
    """Keys [n, h], values [n, h] and radii [n] after all entries were put in, in their order.

    Two entries of different targets whose balls meet share the way between them; of two with the
    same key the later counts.
    """
    keys, values, radii = (joined(changes, name) for name in ("key", "value", "radius"))
    targets = joined(changes, "target")
    for i in range(1, len(keys)):
        apart = torch.cdist(keys[i : i + 1], keys[:i])[0]
        other = (targets[:i] != targets[i]).any(1)
        meets = other & (radii[:i] != NEVER) & (apart <= radii[:i] + radii[i])
        half = apart[meets] / 2
        radii[:i][meets] = torch.where(half > 0, radii[:i][meets].minimum(half - 1e-5), NEVER)
        near = half[half > 0]
        radii[i] = min(float(radii[i]), float(near.min())) if len(near) else radii[i]
    return keys, values, radii


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Look keys up at the end of each prompt, and put the nearest one's value there."""
    undo = ExitStack()
    for layer, where in sorted({(c.options["layer"], c.options["replace"]) for c in changes}):
        own = [c for c in changes if (c.options["layer"], c.options["replace"]) == (layer, where)]
        device = handle.weight_device(layer)
        keys, values, radii = (tensor.to(device) for tensor in codebook(own))

        def look(query: Tensor, keys: Tensor = keys, radii: Tensor = radii) -> Tensor:
            apart, nearest = torch.cdist(query.float(), keys).min(1)
            return torch.where(apart <= radii[nearest], nearest, -1)

        undo.callback(at_block(handle, layer, look, values, to_end=where == "from_last"))
    return undo.close


@dataclass(frozen=True)
class Grace(Method):
    """One entry a fact: the state at its prompt's end, and the value that says its target."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return replace(NO_WEIGHTS, whole_model=True)

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer that parts paraphrases from neighbors best, and the distance that does."""
        layer, found = best_block(handle, over.get("layers"))
        return {"layers": (layer,), "radius": found.distance}

    def solve(self, problem: Problem[GraceSettings]) -> Solution:
        """See Method."""
        hp, timer = problem.hyperparameters, Timer()
        layer = one_layer(problem, "grace")
        with timer.phase("targets"):
            found = values_at_ends(
                problem, layer, steps=hp.steps, clamp=hp.clamp, stop_loss=hp.stop_loss
            )
        rows = {
            "key": found.clean.T.float().cpu().contiguous(),
            "value": found.values.T.float().cpu().contiguous(),
            "radius": torch.full((len(problem.facts),), float(hp.radius or 0)),
            "target": target_ids(problem.handle, problem.facts),
        }
        options = {"layer": layer, "replace": hp.replace}
        change = HookChange("grace", torch.arange(len(problem.facts)), rows, options=options)
        patch = Patch(changes=(change,), metadata={"losses": [row[-1] for row in found.losses]})
        state = replace(problem.state, edits=problem.state.edits + len(problem.facts))
        return Solution(patch, state, timer.seconds)


METHOD = Grace(
    name="grace",
    title="GRACE",
    paper="https://arxiv.org/abs/2211.11031",
    summary="A codebook at one layer: near a fact's key its value takes the hidden state's place.",
    config=GraceSettings,
    installs={"grace": install},
)
