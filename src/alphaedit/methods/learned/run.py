"""A training as a run that can be killed: steps, measurements, checkpoints, an end in time."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor

from alphaedit.core import disk
from alphaedit.core.errors import ConfigError, EditFileError
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder, recover, write_text
from alphaedit.core.progress import Progress, silent
from alphaedit.core.schema import Count, Record, checked, read_json
from alphaedit.core.stored import read_tensors
from alphaedit.methods.base import Method
from alphaedit.model.handle import ModelHandle

TRAINING, PLACE, STATE = "training", "progress.json", "state.safetensors"


class Schedule(BaseModel):
    """How long a training is; what else can be set derives from it. Unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(1000, ge=1, description="most steps")
    every: int = Field(50, ge=1, description="steps between measurements, each of which is kept")
    patience: int = Field(10, ge=1, description="measurements without progress before it ends")


class Losses(Protocol):
    """What a step tells; numbers by name."""

    def to_json(self) -> dict[str, float]:
        """As JSON values."""


class Result(Losses, Protocol):
    """What a measurement tells."""

    @property
    def score(self) -> float:
        """The larger the better."""


class Trainable(Protocol):
    """What can be trained step by step, and is the same at a step however it came there."""

    def warm(self) -> None:
        """Make ready for the first step."""

    def step(self, number: int) -> Losses:
        """Step number `number`, from 0."""

    def measure(self, progress: Progress = silent) -> Result:
        """How good it is now, on what it is not trained on."""

    def keep(self) -> None:
        """Remember what there is now as the best."""

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a `state`."""


@dataclass(frozen=True)
class TrainedMethod(Method):
    """A method that edits by something that was trained; `alphaedit train` works for it.

    Attributes:
        train_settings: class of the training's settings.
    """

    train_settings: ClassVar[type[Schedule]] = Schedule

    @abstractmethod
    def trainee(
        self, handle: ModelHandle, facts: Sequence[Fact], settings: Any, seed: int
    ) -> Trainable:
        """What is trained on these facts; what is wrong with them is refused here."""

    @abstractmethod
    def write(
        self, trainee: Any, folder: Path, about: Mapping[str, Any], *, half: bool = False
    ) -> None:
        """Write what was best, so that edits can use it.

        Args:
            about: base, data, facts, steps, measured, settings and curve, as JSON values.
            half: matrices in float16.
        """


class PlaceRecord(Record):
    """What progress.json says."""

    key: dict[str, Any]
    step: Count
    best: Count
    curve: list[dict[str, float]]


@dataclass
class Place:
    """How far a training is.

    Attributes:
        key: what decides it; a training goes on only with the same.
        step: steps made.
        best: the step after which it was best.
        curve: what was measured, and mean losses of the steps since the measurement before.
    """

    key: dict[str, Any]
    step: int = 0
    best: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def since_best(self) -> int:
        """Measurements since the best one."""
        return sum(row["step"] > self.best for row in self.curve)

    def result(self) -> dict[str, float]:
        """The best row of the curve."""
        return next(row for row in self.curve if row["step"] == self.best)


def train(
    trainee: Trainable,
    folder: Path,
    key: Mapping[str, Any],
    *,
    steps: int,
    every: int,
    patience: int,
    progress: Progress = silent,
) -> Place:
    """Train to the end, or on from where a run of the same key was; what was best is kept.

    After every `every` steps it is measured and written down, so that a run that is killed loses no
    more than these.

    Args:
        folder: where the editor will lie; the checkpoint lies in it until `finished` removes it.
        patience: measurements without progress before it ends.

    Raises:
        ConfigError: another training was begun there.
        EditFileError: its checkpoint is broken.
    """
    deciding: dict[str, Any] = json.loads(json.dumps(dict(key)))
    place = _resumed(trainee, folder, deciding)
    if place is None:  # the untrained is measured, too: what is learned is the difference
        place = Place(deciding)
        trainee.warm()
        _measured(trainee, place, [], progress)
        _write(trainee, place, folder)
    losses: list[dict[str, float]] = []
    while place.step < steps and place.since_best < patience:
        progress("training", place.step, steps)
        losses.append(trainee.step(place.step).to_json())
        place.step += 1
        if place.step % every == 0 or place.step == steps:
            _measured(trainee, place, losses, progress)
            _write(trainee, place, folder)
            losses = []
    progress("training", steps, steps)
    return place


def finished(folder: Path) -> None:
    """Remove the checkpoint of a training whose editor is written.

    It goes at once: half of one would be taken for a training that is to go on.
    """
    inner = folder / TRAINING
    disk.sweep(inner)
    if inner.is_dir():
        gone = disk.new_part(inner, folder=True)
        os.replace(inner, gone / TRAINING)
        disk.remove(gone)


def _measured(
    trainee: Trainable, place: Place, losses: list[dict[str, float]], progress: Progress
) -> None:
    result = trainee.measure(progress)
    means = {n: sum(row[n] for row in losses) / len(losses) for n in (losses or [{}])[0]}
    best = max((row["score"] for row in place.curve), default=-1.0)
    place.curve.append({"step": place.step, **result.to_json(), **means})
    if result.score > best:
        place.best = place.step
        trainee.keep()


def _write(trainee: Trainable, place: Place, folder: Path) -> None:
    with atomic_folder(folder / TRAINING, last=PLACE) as part:
        save_file(trainee.state(), part / STATE)
        write_text(json.dumps(asdict(place), indent=1) + "\n", part / PLACE)


def _resumed(trainee: Trainable, folder: Path, key: dict[str, Any]) -> Place | None:
    """Where a training of the same key was; None if there is none."""
    inner = folder / TRAINING
    recover(inner)
    if not (inner / PLACE).is_file():
        return None
    record = checked(PlaceRecord, read_json(inner / PLACE), str(inner / PLACE), remedy=_ANEW)
    if record.key != key:
        wrong = sorted(n for n in record.key | key if record.key.get(n) != key.get(n))
        raise ConfigError(
            f"{folder} holds a training that differs in {', '.join(wrong)}.",
            remedy="Give what it was begun with, another folder, or --force to begin anew.",
        )
    place = Place(**record.model_dump())
    try:
        trainee.restore(read_tensors(inner / STATE))
    except (RuntimeError, KeyError, ValueError) as error:
        raise EditFileError(f"{inner / STATE} does not fit: {error}.", remedy=_ANEW) from error
    return place


_ANEW = "Begin anew with --force."
