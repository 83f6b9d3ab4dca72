"""Train an editor for a model: a run that goes on where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.opening import Opening

if TYPE_CHECKING:
    from alphaedit.methods.learned.run import Place, TrainedMethod
    from alphaedit.model.handle import ModelHandle


@dataclass(frozen=True, kw_only=True)
class TrainRequest(Opening):
    """What is trained, on what, and where it is written.

    Attributes:
        method: name of a method that edits by something trained.
        out: folder of the editor; checkpoints lie in it while it is trained.
        facts: with paraphrases and neighborhood prompts; by default those of the bundled world.
        settings: of the method's `train_settings`.
        half: write matrices in float16.
        anew: forget what is in `out`, if it is an editor or the training of one.
    """

    method: str
    out: Path
    facts: Sequence[Fact] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    half: bool = False
    anew: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What was trained.

    Attributes:
        request: what was asked for.
        place: the way to it, with its curve.
        facts: how many it was trained on or measured on.
        seconds: time of this run; an earlier part of it is not counted.
    """

    request: TrainRequest
    place: Place
    facts: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        request = self.request
        return {
            "model": request.model,
            "method": request.method,
            "editor": str(request.out),
            "facts": self.facts,
            "steps": self.place.step,
            "best": self.place.result(),
            "curve": self.place.curve,
            "settings": self.place.key["settings"],
            "seed": request.seed,
            "seconds": self.seconds,
        }


def run(
    request: TrainRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> TrainResult:
    """Train, and write the editor.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; the same request goes on from the last checkpoint.
        wrote: is told of the editor when it is complete.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError, DataError, ResourceError, NonFiniteError, ModelError: with the remedy.
    """
    from alphaedit.methods.config import build
    from alphaedit.methods.learned import run as running
    from alphaedit.methods.learned.record import of_facts

    began = time.perf_counter()
    method = trained_method(request.method)
    settings = build(request.settings, f"settings of {method.name}", method.train_settings)
    check_folder(request.out, anew=request.anew)
    progress = watched(progress, cancel)
    editor = request.open(progress)
    handle = editor.handle
    facts = list(request.facts or _of_world(handle))
    trainee = method.trainee(handle, facts, settings, request.seed)
    if request.anew:
        running.finished(request.out)
    about = {
        "base": editor.base,
        "data": of_facts(facts),
        "settings": settings.model_dump(mode="json"),
    }
    place = running.train(
        trainee,
        request.out,
        {"method": method.name, "seed": request.seed, **about},
        steps=settings.steps,
        every=settings.every,
        patience=settings.patience,
        progress=progress,
    )
    told = {"facts": len(facts), "steps": place.best, "measured": place.result()}
    told["curve"] = place.curve
    method.write(trainee, request.out, {**about, **told}, half=request.half)
    running.finished(request.out)
    wrote(request.out)
    seconds = time.perf_counter() - began
    return TrainResult(request=request, place=place, facts=len(facts), seconds=seconds)


def trained_method(name: str) -> TrainedMethod:
    """A method that can be trained.

    Raises:
        UnknownNameError: there is no such method.
        ConfigError: it has nothing to train.
    """
    from alphaedit.methods.learned.run import TrainedMethod
    from alphaedit.methods.registry import get_method, methods

    method = get_method(name)
    if not isinstance(method, TrainedMethod):
        known = [n for n, other in methods().items() if isinstance(other, TrainedMethod)]
        raise ConfigError(
            f"{method.name} has nothing to train.", remedy=f"Trained are: {', '.join(known)}."
        )
    return method


def check_folder(folder: Path, *, anew: bool) -> None:
    """Refuse a folder that holds something else, or an editor that is finished.

    Raises:
        ConfigError: naming what is there.
    """
    from alphaedit.methods.learned.record import ABOUT, TENSORS
    from alphaedit.methods.learned.run import TRAINING

    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is a file.", remedy="Give a directory.")
    ours = {ABOUT, TENSORS, TRAINING}
    others = sorted(p.name for p in folder.iterdir() if p.name not in ours and p.name[0] != ".")
    if others:
        raise ConfigError(
            f"{folder} holds {others[0]}, which is no part of a trained editor.",
            remedy="Choose another directory.",
        )
    begun = (folder / TRAINING).is_dir()
    if (folder / ABOUT).is_file() and not begun and not anew:
        raise ConfigError(
            f"{folder} holds a trained editor that is finished.",
            remedy="Use it, choose another directory, or replace it with --force.",
        )


def _of_world(handle: ModelHandle) -> list[Fact]:
    from alphaedit.bench.sources import training_facts

    return training_facts(handle)
