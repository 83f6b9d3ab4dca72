"""MELO: blocks of low rank that a database of clusters leads to (Yu et al., AAAI 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field

from alphaedit.core.change import Change, HookChange
from alphaedit.core.patch import Patch
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps import router
from alphaedit.methods.steps.clusters import Clusters
from alphaedit.methods.steps.codebook import Rows, by_options, composed
from alphaedit.methods.steps.low_rank import adapted, trained
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle


class MeloSettings(Settings):
    """Settings of blocks of low rank."""

    radius: float | None = Field(
        None,
        gt=0,
        description="radius of a new cluster; by default measured",
        json_schema_extra=tuned(1.25),
    )
    rank: int = Field(2, ge=1, description="rank of a block")
    block_facts: int = Field(4, ge=1, description="most facts of a batch that share a block")
    steps: int = Field(100, ge=1, description="most gradient steps")
    learning_rate: float = Field(
        0.1, gt=0, description="Adam's rate, as a share of the size of what is added"
    )
    halve_every: int | None = Field(
        None, ge=1, description="steps after which the rate is halved, again and again"
    )
    stop_loss: float = Field(0.02, ge=0, description="training ends when all facts are below it")


class Database(Clusters):
    """Clusters with the blocks they lead to: down [r, d_in] and up [d_out, r] of each."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = Rows(), Rows()

    def take(self, change: Change) -> None:
        """See Clusters."""
        super().take(change)
        self.down.add(change.shared["down"].float())
        self.up.add(change.shared["up"].float())


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """At the end of each prompt, choose a block by what enters the output projection; add it."""
    undo = ExitStack()
    for (layer, rank), own in by_options(changes, layer=0, rank=1).items():
        router.check_widths(own, key=handle.d_in(layer))
        database = composed(handle, f"melo {layer} {rank}", own, Database)
        device = handle.weight_device(layer)
        down, up = database.down.tensor.to(device), database.up.tensor.to(device)
        undo.callback(adapted(handle, layer, database.on(device), down, up))
    return undo.close


@dataclass(frozen=True)
class Melo(Method):
    """One point a fact in a database, and one block of low rank for a few facts."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return replace(NO_WEIGHTS, whole_model=True)

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer that parts paraphrases from neighbors best, and the distance that does."""
        layer, border = router.best_block(handle, over.get("layers"), site="projection")
        return {"layers": (layer,), "radius": border.distance}

    def solve(self, problem: Problem[MeloSettings]) -> Solution:
        """See Method."""
        hp, timer, facts, handle = problem.hyperparameters, Timer(), problem.facts, problem.handle
        layer = one_layer(problem, "melo")
        router.check_place(handle, layer, "from_last", "projection")
        texts = [fact.text for fact in facts]
        keys = router.states_at_ends(handle, texts, [layer], "projection")[layer]
        block = torch.arange(len(facts)) // hp.block_facts
        with timer.phase("training"):
            down, up, losses = trained(problem, layer, keys, block)
        rows = {
            "key": keys.cpu().contiguous(),
            "radius": torch.full((len(facts),), float(hp.radius or 0)),
            "target": router.target_ids(handle, facts),
            "block": block,
        }
        options = {"layer": layer, "rank": hp.rank}
        shared = {"down": down, "up": up}
        change = HookChange("melo", torch.arange(len(facts)), rows, shared, options=options)
        state = replace(problem.state, edits=problem.state.edits + len(facts))
        return Solution(Patch(changes=(change,), metadata={"losses": losses}), state, timer.seconds)


METHOD = Melo(
    name="melo",
    title="MELO",
    paper="https://arxiv.org/abs/2312.11795",
    summary="Blocks of low rank beside one matrix; clusters of keys say which one a prompt gets.",
    config=MeloSettings,
    installs={"melo": install},
)
