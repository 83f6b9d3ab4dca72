"""GRACE: a codebook of hidden states at one layer (Hartvigsen et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from pydantic import Field

from alphaedit.core.change import Change, HookChange
from alphaedit.core.patch import Patch
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps import router
from alphaedit.methods.steps.codebook import Codebook, by_options, composed
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

KIND = {"replace": "last", "site": "block", "rule": "share"}
"""Settings by which entries are of one codebook; those of entries that do not say."""


class GraceSettings(Settings):
    """Settings of a codebook."""

    radius: float | None = Field(
        None, gt=0, description="reach of an entry, or measured", json_schema_extra=tuned(1.25)
    )
    steps: int = Field(50, ge=1, description="most gradient steps of the search for a value")
    learning_rate: float | None = Field(None, gt=0, description="Adam's rate, or by the states")
    clamp: float = Field(
        2.0, gt=0, description="largest |value - start| / |start|", json_schema_extra=tuned(1.5)
    )
    stop_loss: float = Field(0.02, ge=0, description="a fact below this loss is done")
    start: Literal["state", "uniform"] = Field(
        "state", description="where searches start: at the state, or between 0 and 1 (published)"
    )
    replace: Literal["last", "from_last", "prompt", "all"] = Field(
        "last",
        description="where a value stands: at the prompt's last token, from there on, at all "
        "tokens before it (the authors' default), or everywhere",
    )
    site: Literal["block", "projection"] = Field(
        "block",
        description="what it takes the place of: what leaves the block, or its MLP's output; keys "
        "are then inputs of the output projection (as published for GPT-J and Llama)",
    )
    rule: Literal["share", "coverage"] = Field(
        "share",
        description="balls of other targets that meet share the way; or (published) the nearest "
        "one is halved, and widened in place of a new entry of the same target",
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Look keys up at the end of each prompt, and put the nearest one's value there."""
    undo = ExitStack()
    for kind, own in by_options(changes, layer=0, **KIND).items():
        layer, places, site, rule = kind
        router.check_entries(handle, layer, site, own)
        book = composed(handle, f"grace {kind}", own, partial(Codebook, rule))
        look, values = book.on(handle.weight_device(layer))
        undo.callback(router.replaced(handle, layer, look, values, site=site, places=places))
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
        site, behind = over.get("site", "block"), int(over.get("replace") == "prompt")
        layer, border = router.best_block(handle, over.get("layers"), site=site, behind=behind)
        return {"layers": (layer,), "radius": border.distance}

    def solve(self, problem: Problem[GraceSettings]) -> Solution:
        """See Method."""
        hp, timer, facts = problem.hyperparameters, Timer(), problem.facts
        layer = one_layer(problem, "grace")
        router.check_place(problem.handle, layer, hp.replace, hp.site)
        texts = [fact.text for fact in facts]
        keys = router.states_at_ends(problem.handle, texts, [layer], hp.site)[layer]
        with timer.phase("targets"):
            search = hp.model_dump(include={"steps", "learning_rate", "clamp", "stop_loss"})
            targets = router.values_at_ends(
                problem, layer, search, start=hp.start, site=hp.site, places=hp.replace
            )
        rows = {
            "key": keys.cpu().contiguous(),
            "value": targets.values.T.float().cpu().contiguous(),
            "radius": torch.full((len(facts),), float(hp.radius or 0)),
            "target": router.target_ids(problem.handle, facts),
        }
        options = {"layer": layer, **hp.model_dump(include=set(KIND))}
        change = HookChange("grace", torch.arange(len(facts)), rows, options=options)
        patch = Patch(changes=(change,), metadata={"losses": [row[-1] for row in targets.losses]})
        state = replace(problem.state, edits=problem.state.edits + len(facts))
        return Solution(patch, state, timer.seconds)


METHOD = Grace(
    name="grace",
    title="GRACE",
    paper="https://arxiv.org/abs/2211.11031",
    summary="A codebook at one layer: near a fact's key its value takes the hidden state's place.",
    config=GraceSettings,
    installs={"grace": install},
)
