"""Tune a method for a model: a first choice, pilot edits, a preset."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alphaedit.core import defaults
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.locate.preset import choose, shape
from alphaedit.methods.base import Method
from alphaedit.methods.config import Hyperparameters, Settings, build, tuned_fields
from alphaedit.methods.registry import get_method
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics
from alphaedit.tune.axes import Move, axes, own_axes, reachable
from alphaedit.tune.pilot import Measured, Pilot
from alphaedit.tune.search import Found, Log, search

PILOTS = 24
CHECKED = 48
"""Most facts that were not searched with, on which the result is measured again; no more than twice
as many as were."""
LOAD = 0.1
"""Planned edits, as a share of the keys' dimension, where nobody says."""
SHARED = ("layers", "steps", "learning_rate", "clamp", "stop_loss")
"""Fields that a preset gives to all methods."""
HEADER = {"model", "corpus", "tokens", "method", "facts", "planned", "fixed", "seed"}
"""What the first line of a log of trials holds."""
NEUTRAL = ("plugins", "project", "graph")


@dataclass(frozen=True)
class Tuned:
    """What a search found.

    Attributes:
        hyperparameters: the best setting.
        search: the trials.
        checked: start and best on facts that the search did not see, if there were any left.
        planned: how many edits it is for.
    """

    method: str
    hyperparameters: Settings
    search: Found
    checked: tuple[Measured, Measured] | None
    planned: int
    pilots: int

    def preset(self, handle: ModelHandle) -> dict[str, Any]:
        """The preset, as `read_preset` reads it."""
        given = self.hyperparameters.model_dump(mode="json", exclude_none=True)
        default = build({"layers": (0,)}, "defaults", type(self.hyperparameters)).model_dump(
            mode="json"
        )
        values = {k: v for k, v in given.items() if k == "layers" or v != default[k]}
        values = {k: v for k, v in values.items() if k not in NEUTRAL or v}
        # What presets say to all methods of layers is of MLP matrices.
        common = SHARED if isinstance(self.hyperparameters, Hyperparameters) else ()
        own = {k: v for k, v in values.items() if k not in common}
        best = self.search.best.measured
        return {
            "source": f"tuned by alphaedit {version('alphaedit')} for {self.method}: "
            f"{len(self.search.trials)} trials of {self.pilots} edits, for {self.planned} planned",
            "match": {k: v for k, v in shape(handle).items() if v is not False},
            "all": {k: v for k, v in values.items() if k in common},
            "methods": {self.method: own},
            "measured": {
                "pilots": _rounded(best),
                **({"others": _rounded(self.checked[1])} if self.checked else {}),
            },
        }


def tune(
    handle: ModelHandle,
    statistics: ModelStatistics,
    facts: Sequence[Fact],
    method: str = defaults.WEIGHTS,
    *,
    pilots: int = PILOTS,
    planned: int | None = None,
    seconds: float | None = None,
    trials: int | None = None,
    fixed: Mapping[str, Any] | None = None,
    preset: str | None = None,
    log: Path | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Tuned:
    """Search hyperparameters of `method` for this model by pilot edits.

    Args:
        statistics: of the unedited model; those of all layers in reach are prepared.
        facts: `pilots` of them, drawn by the seed, are edited in each trial; others check.
        planned: how many edits drift is scaled to; by default a tenth of the keys' dimension.
        seconds, trials: most of them; what comes before (statistics, the first choice) is extra.
        fixed: hyperparameters that are given, and not searched.
        preset: start from this preset; by default from the one that fits, or what the model shows.
        log: file of trials; a search that was stopped goes on from it.

    Raises:
        ConfigError: fewer than two facts, or impossible settings.
    """
    if len(facts) < 2:
        raise ConfigError("Tuning needs at least two facts.", remedy="Give some twenty or more.")
    given, solver = dict(fixed or {}), get_method(method)
    order = random.Random(seed).sample(range(len(facts)), len(facts))
    chosen = [facts[i] for i in order[:pilots]]
    rest = [facts[i] for i in order[pilots : pilots + min(CHECKED, 2 * pilots)]]
    choosing: dict[str, Any] = {"preset_name": preset, "over": given, "progress": progress}
    choosing["edits"] = planned or len(chosen)
    start = _start(handle, statistics, solver, seed=seed, **choosing)
    config = type(start)
    planned = planned or max(len(chosen), _load(handle, start))
    if isinstance(start, Hyperparameters):
        statistics.prepare(start.layers if "layers" in given else reachable(start, handle.n_layers))
    options: dict[str, Any] = {"planned": planned, "seed": seed, "progress": progress}
    pilot = Pilot(handle, statistics, solver, chosen, **options)
    outcome = search(
        start.model_dump(exclude_none=True),
        _axes(handle, solver, start, given),
        lambda values: pilot.measure(build(values, "trial", config)),
        log=Log(log, _header(handle, statistics, solver.name, chosen, planned, given, seed)),
        seconds=seconds,
        most=trials,
        progress=progress,
    )
    best = _best_of(outcome, solver.name, config)
    checked = None
    if rest:
        others = Pilot(handle, statistics, solver, rest, **options)
        checked = (others.measure(start), others.measure(best))
    return Tuned(solver.name, best, outcome, checked, planned, len(chosen))


def _load(handle: ModelHandle, start: Settings) -> int:
    """Edits that are planned where nobody says.

    Raises:
        ConfigError: the model has no such layer.
    """
    last = start.layers[-1] if start.layers else 0
    handle.block(last)
    return round(LOAD * handle.d_in(last))


def _axes(
    handle: ModelHandle, method: Method, start: Settings, given: Mapping[str, Any]
) -> list[tuple[str, tuple[Move, ...]]]:
    """What is searched, and the steps along it."""
    if isinstance(start, Hyperparameters):
        return list(axes(method, start, handle.n_layers, given))

    @cache
    def suggest(layers: tuple[int, ...]) -> Mapping[str, Any]:
        return method.suggest(handle, {**given, "layers": layers})

    return list(own_axes(start, handle.n_layers, given, suggest))


def _start(
    handle: ModelHandle, statistics: ModelStatistics, method: Method, **choosing: Any
) -> Settings:
    """The settings that the search starts from.

    Raises:
        ConfigError: there is nothing to search.
    """
    start, _ = choose(handle, statistics, method, **choosing)
    if not isinstance(start, Hyperparameters) and not tuned_fields(type(start)):
        raise ConfigError(
            f"{method.name} has no settings that pilot edits search.",
            remedy="Tune another method, or mark its settings with methods.config.tuned.",
        )
    return start


def _best_of(outcome: Found, method: str, config: type[Settings]) -> Settings:
    if outcome.best.measured is None:
        raise ConfigError(
            f"No setting of {method} could be used: {outcome.start.error}",
            remedy="Give other values to start from with --set.",
        )
    return build(outcome.best.values, "best trial", config)


def is_log(path: Path) -> bool:
    """Whether a file begins as a log of trials does."""
    try:
        with open(path, encoding="utf-8") as file:
            first = json.loads(file.readline(1 << 20))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and HEADER <= first.keys()


def _header(
    handle: ModelHandle,
    statistics: ModelStatistics,
    method: str,
    facts: Sequence[Fact],
    planned: int,
    fixed: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """What the score of a setting depends on."""
    text = json.dumps([fact.to_dict() for fact in facts], sort_keys=True)
    return {
        "version": version("alphaedit"),
        "model": handle.fingerprint(),
        "corpus": statistics.corpus.fingerprint,
        "tokens": statistics.tokens,
        "method": method,
        "facts": sha256(text.encode()).hexdigest(),
        "planned": planned,
        "fixed": {k: list(v) if isinstance(v, tuple) else v for k, v in sorted(fixed.items())},
        "seed": seed,
    }


def _rounded(measured: Measured | None) -> dict[str, float]:
    if measured is None:
        return {}
    return {k: round(v, 4) for k, v in asdict(measured).items() if v is not None}
