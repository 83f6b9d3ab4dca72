"""SERAC: edits in a memory, and a trained scope for each (Mitchell et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field

from alphaedit.core.change import Change, MemoryChange
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.methods.base import NO_WEIGHTS, Needs, Problem, Solution
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.learned import scope_asset
from alphaedit.methods.learned.run import Schedule, TrainedMethod
from alphaedit.methods.learned.scope import ScopeTrainer, ScopeTraining
from alphaedit.methods.steps.noted import by_another, check_form, in_front
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle
from alphaedit.model.local import companion

KEPT = {"threshold", "note", "counterfactual"}


class SeracSettings(Settings):
    """Settings of a memory with a scope."""

    editor: str | None = Field(
        None, description="folder that `alphaedit train serac` wrote, or 'untrained'"
    )
    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="score above which an edit is in scope",
        json_schema_extra=tuned(1.25),
    )
    counterfactual: str | None = Field(
        None, description="model that answers prompts in scope; by default the edited one"
    )
    note: str = Field(
        "New Fact: {statement}.\nPrompt: {prompt}", description="what the answering model reads"
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Put notes in front of prompts in scope, for the model itself or the one that answers them."""
    paths = sorted({str(change.options.get("counterfactual") or "") for change in changes})
    if len(paths) > 1:
        raise ConfigError(
            f"Prompts in scope cannot go to {len(paths)} models: {paths}.",
            remedy="Edit with one `counterfactual`, or revert the others.",
        )
    path = paths[0]
    if not path:
        return in_front(handle, changes)
    return by_another(handle, changes, companion(handle, path))


@dataclass(frozen=True)
class Serac(TrainedMethod):
    """Statements in a memory; a trained distance tells which prompt is in whose scope."""

    train_settings: ClassVar[type[Schedule]] = ScopeTraining

    @property
    def needs(self) -> Needs:
        """A trained scope, and nothing of the weights."""
        return replace(NO_WEIGHTS, whole_model=True)

    def solve(self, problem: Problem[SeracSettings]) -> Solution:
        """See Method."""
        hp, handle, facts, timer = problem.hyperparameters, problem.handle, problem.facts, Timer()
        check_form(hp.note)
        if len(hp.layers) > 1:
            raise ConfigError("serac edits one layer.", remedy="Leave the layers out.")
        with timer.phase("editor"):
            scope, trained = scope_asset.opened(
                handle, self.name, hp.editor, hp.layers, problem.base
            )
            if hp.counterfactual is not None:
                companion(handle, hp.counterfactual)
        with timer.phase("keys"):
            keys = scope.vectors(handle, [fact.text for fact in facts])
        change = MemoryChange(
            "serac",
            torch.arange(len(facts)),
            {"key": keys},
            scope.tensors(),
            tuple(f"{fact.text} {fact.target}" for fact in facts),
            {
                "layer": scope.layer,
                **hp.model_dump(include={"threshold", "note", "counterfactual"}),
            },
        )
        state = replace(problem.state, edits=problem.state.edits + len(facts))
        return Solution(Patch(changes=(change,), metadata=trained), state, timer.seconds)

    def trainee(
        self, handle: ModelHandle, facts: Sequence[Fact], settings: ScopeTraining, seed: int
    ) -> ScopeTrainer:
        """See TrainedMethod."""
        return ScopeTrainer(handle, facts, settings, seed=seed)

    def write(
        self, trainee: ScopeTrainer, folder: Path, about: Mapping[str, Any], *, half: bool = False
    ) -> None:
        """See TrainedMethod."""
        scope_asset.write(folder, trainee.best(), {**about, "method": self.name}, half=half)


METHOD = Serac(
    name="serac",
    title="SERAC",
    paper="https://arxiv.org/abs/2206.06520",
    summary="Statements in a memory: a trained scope tells which prompts are answered by which.",
    config=SeracSettings,
    installs={"serac": install},
)
