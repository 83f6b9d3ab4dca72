"""Methods that edit by a trained network, which lies in a folder of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank, Patch
from alphaedit.methods.base import NO_WEIGHTS, Needs, Problem, Solution
from alphaedit.methods.config import Settings
from alphaedit.methods.learned import asset
from alphaedit.methods.learned.editor import EditorNetwork
from alphaedit.methods.learned.run import Schedule, TrainedMethod
from alphaedit.methods.learned.step_size import scaled, sizes_until
from alphaedit.methods.learned.training import Trainer, TrainSettings
from alphaedit.methods.solving import refuse_mixtures
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle


class LearnedSettings(Settings):
    """Which trained editor is used; its layers are the edited ones."""

    editor: str | None = Field(
        None, description="a trained editor: its folder, or the name of one that comes with us"
    )
    scale: float = Field(1.0, gt=0, description="times the change that the editor proposes")
    until: float | None = Field(
        None,
        ge=0,
        description="make each fact's change as small as leaves its target this loss (nats), or as "
        "large, up to four times what is proposed; 0 to take what is proposed; by default as the "
        "editor was trained",
    )


@dataclass(frozen=True)
class LearnedMethod(TrainedMethod):
    """An editor that `alphaedit train` made proposes the change.

    Attributes:
        network: what is trained.
    """

    network: type[EditorNetwork] = field(kw_only=True)
    config: type[Settings] = field(default=LearnedSettings, kw_only=True)
    train_settings: ClassVar[type[Schedule]] = TrainSettings

    @property
    def needs(self) -> Needs:
        """A trained network, and nothing of the weights' statistics."""
        return replace(NO_WEIGHTS, whole_model=True, trained_network=True)

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The trained editor for a model, and its layers.

        Raises:
            ConfigError: layers are given that are not its.
            EditFileError: there is none, or it is broken.
            FingerprintError: it is for another model.
        """
        place, about = asset.find(self.name, over.get("editor"), handle.fingerprint())
        asset.check_matrices(about, handle, place)
        layers = tuple(about.shape.layers)
        given = tuple(over.get("layers") or layers)
        if given != layers:
            raise ConfigError(
                f"The trained editor {place} changes layers {', '.join(map(str, layers))}.",
                remedy="Leave the layers out, or train an editor for those.",
            )
        suited: dict[str, Any] = {"layers": layers, "editor": str(place)}
        until = about.settings.get("until")
        return suited if until is None or "until" in over else {**suited, "until": until}

    def solve(self, problem: Problem[LearnedSettings]) -> Solution:
        """See Method."""
        handle, timer = problem.handle, Timer()
        settings = problem.hyperparameters
        refuse_mixtures(problem, self.name)
        with timer.phase("editor"):
            place, about = asset.find(self.name, settings.editor, problem.base)
            asset.check_matrices(about, handle, place)
            network = asset.load(place, about, self.network).to(handle.device).eval()
            self.prepare(network, settings)
        with timer.phase("proposal"):
            changes = network.propose(handle, problem.facts).changes
        if settings.until:
            with timer.phase("size"):
                sizes = sizes_until(handle, problem.facts, changes, settings.until)
                changes = scaled(changes, sizes)
        weights: dict[str, LowRank] = {}
        for layer, factors in changes.items():
            left, right = (part.detach().float() for part in factors.joined())
            weights[handle.edited_name(layer)] = LowRank(settings.scale * left, right)
        metadata = {"editor": about.told()}
        state = replace(problem.state, edits=problem.state.edits + len(problem.facts))
        return Solution(Patch(weights=weights, metadata=metadata), state, timer.seconds)

    def prepare(self, network: EditorNetwork, settings: LearnedSettings) -> None:
        """Tell a network that was read what the settings of an edit say to it."""

    def trainee(
        self, handle: ModelHandle, facts: Sequence[Fact], settings: TrainSettings, seed: int
    ) -> Trainer:
        """See TrainedMethod."""
        return Trainer(handle, self.network, facts, settings, seed=seed)

    def write(
        self, trainee: Trainer, folder: Path, about: Mapping[str, Any], *, half: bool = False
    ) -> None:
        """See TrainedMethod."""
        matrices = [trainee.handle.edited_name(layer) for layer in trainee.shape.layers]
        own = {"method": self.name, "matrices": matrices}
        asset.write(folder, trainee.best(), trainee.shape, {**about, **own}, half=half)
