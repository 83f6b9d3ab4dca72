"""Find hyperparameters for a model by pilot edits, and write them as a preset."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core import defaults
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold
from alphaedit.jobs.opening import Opening
from alphaedit.methods.presets import write_preset

if TYPE_CHECKING:
    from alphaedit.model.handle import ModelHandle
    from alphaedit.tune.search import Trial
    from alphaedit.tune.tuner import Tuned

WORLD_FACTS = 72


@dataclass(frozen=True, kw_only=True)
class TuneRequest(Opening):
    """What to search, by which facts, and where to write the preset.

    Attributes:
        facts: facts to try, best with paraphrases and neighborhood prompts; by default
            counterfactuals of the bundled world. They are not kept.
        out: write the preset here (.yaml). Trials are kept beside it, and gone on from.
        method: name of an editing method.
        pilots: facts edited in each trial.
        edits: how many edits are planned; by default a tenth of the keys' dimension.
        budget: seconds for trials; none is begun after them.
        trials: most trials.
        preset: where the search begins; by default the one that fits the model.
        hyperparameters: single values that stay.
        anew: forget the trials that there are.
    """

    out: Path
    facts: Sequence[Fact] | None = None
    method: str = defaults.WEIGHTS
    pilots: int = 24
    edits: int | None = None
    budget: float = 600.0
    trials: int | None = None
    preset: str | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    anew: bool = False

    @property
    def log(self) -> Path:
        """Where trials are kept."""
        return self.out.with_name(f"{self.out.name}.trials.jsonl")


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What was found.

    Attributes:
        request: what was asked for.
        tuned: the best setting, and the way to it.
        seconds: time of all of it.
    """

    request: TuneRequest
    tuned: Tuned
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        tuned, request = self.tuned, self.request
        checked = tuned.checked
        return {
            "model": request.model,
            "method": tuned.method,
            "preset": str(request.out),
            "log": str(request.log),
            "hyperparameters": tuned.hyperparameters.model_dump(mode="json", exclude_none=True),
            "start": _row(tuned.search.start),
            "best": _row(tuned.search.best),
            "checked": (
                {"start": asdict(checked[0]), "best": asdict(checked[1])} if checked else None
            ),
            "trials": len(tuned.search.trials),
            "finished": tuned.search.finished,
            "planned": tuned.planned,
            "seconds": self.seconds,
            "seed": request.seed,
        }


def run(
    request: TuneRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> TuneResult:
    """Search, and write the preset.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; the same request goes on from the trials so far.
        wrote: is told of each output that is complete.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError, FactError, ModelError, ResourceError: with the remedy.
    """
    from alphaedit.editor.standard import method_for
    from alphaedit.tune.tuner import tune

    progress = watched(progress, cancel)
    began = time.perf_counter()
    editor = request.open(progress)
    handle = editor.handle
    if request.anew:
        request.log.unlink(missing_ok=True)
    tuned = tune(
        handle,
        editor.statistics,
        request.facts or _of_world(handle, request.seed),
        method_for(
            request.method, handle, over=request.hyperparameters, preset=request.preset
        ).name,
        pilots=request.pilots,
        planned=request.edits,
        seconds=request.budget,
        trials=request.trials,
        fixed=request.hyperparameters,
        preset=request.preset,
        log=request.log,
        seed=request.seed,
        progress=progress,
    )
    use = f"alphaedit edit {request.model} FACTS --method {tuned.method} --preset {request.out}"
    write_preset(request.out, tuned.preset(handle), f"Use: {use}")
    wrote(request.out)
    return TuneResult(request=request, tuned=tuned, seconds=time.perf_counter() - began)


def _of_world(handle: ModelHandle, seed: int) -> list[Fact]:
    from alphaedit.bench.sources import WORLD, records_of

    return [record.fact for record in records_of(handle, WORLD, WORLD_FACTS, seed)]


def _row(trial: Trial) -> dict[str, Any]:
    return {**asdict(trial), "score": trial.score}
