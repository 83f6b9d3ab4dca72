"""Show where a model keeps its facts, by causal tracing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Late, Wrote, untold
from alphaedit.jobs.opening import Loading, quiet_libraries
from alphaedit.world.facts import World
from alphaedit.world.records import records

if TYPE_CHECKING:
    from alphaedit.locate.trace import Trace
    from alphaedit.model.handle import ModelHandle

ALL = "all"
DEFAULT_COUNT = 100


@dataclass(frozen=True, kw_only=True)
class TraceRequest(Loading):
    """Facts to trace in a model.

    Attributes:
        model: a directory, a .gguf file, a hub name, or a bundled model.
        facts: the facts; by default facts of the bundled world, drawn by the seed.
        facts_from: what the result calls their source.
        count: how many facts; by default 100, or all if there are fewer.
        noise: standard deviation of the noise, in those of the subjects' embeddings.
        samples: noises for each fact.
        kind: what is restored: "hidden", "mlp", "attention" or "all".
        window: layers restored together, for mlp and attention.
        suggest_layers: say which layers to edit.
        plot: draw heat maps here.
        seed: of everything random.

    Raises:
        ConfigError: an unknown kind, a window that it has not, or no noise.
    """

    model: str
    facts: Sequence[Fact] | None = None
    facts_from: str = "world"
    count: int | None = None
    noise: float = 3.0
    samples: int = 10
    kind: str = "hidden"
    window: int | None = None
    suggest_layers: bool = False
    plot: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        kinds_of(self.kind, self.window)
        if not self.noise > 0:
            raise ConfigError(
                f"--noise {self.noise} corrupts nothing.", remedy="Give a number above 0."
            )


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """What was found.

    Attributes:
        request: what was asked for.
        facts: the facts traced.
        traces: one for each kind.
        suggested: layers to edit, if they were wanted.
        plot: the picture, if it was drawn.
        seconds: time by phase.
        failed: outputs that could not be written, and why.
    """

    request: TraceRequest
    facts: Sequence[Fact] = field(repr=False)
    traces: Sequence[Trace] = field(repr=False)
    suggested: list[int] | None
    plot: Path | None
    seconds: Mapping[str, float]
    failed: Mapping[str, Exception]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        request = self.request
        return {
            "model": request.model,
            "facts": request.facts_from,
            "count": len(self.facts),
            "noise": request.noise,
            "samples": request.samples,
            "seed": request.seed,
            "traces": [_plain(traced) for traced in self.traces],
            "by_fact": _by_fact(self.facts, self.traces[0]),
            "suggested_layers": self.suggested,
            "plot": str(self.plot) if self.plot else None,
            "seconds": dict(self.seconds),
        }


def run(
    request: TraceRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> TraceResult:
    """Trace, and draw. Nothing is changed.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it.
        wrote: is told of each output that is complete.

    Raises:
        Cancelled: `cancel` was set.
        ConfigError: there are not so many facts, or the picture's name has an unknown ending.
        ModelError: the model cannot be loaded or traced.
    """
    from alphaedit.locate.suggest import suggest_layers
    from alphaedit.model.handle import ModelHandle
    from alphaedit.report.figures import check_ending
    from alphaedit.report.heatmap import save_traces

    progress = watched(progress, cancel)
    if request.plot is not None:
        check_ending(request.plot)
    began = time.perf_counter()
    quiet_libraries()
    handle = ModelHandle.load(request.model, **request.loading())
    count = request.count or DEFAULT_COUNT
    chosen = request.facts
    chosen = _from_world(handle, count, request.seed) if chosen is None else chosen[:count]
    seconds = {"model": time.perf_counter() - began}
    kinds = kinds_of(request.kind, request.window)
    if request.suggest_layers and "hidden" not in kinds:
        kinds.append("hidden")
    traces: dict[str, Trace] = {}
    for name in kinds:
        started = time.perf_counter()
        traces[name] = _traced(request, handle, chosen, name, progress)
        seconds[name] = time.perf_counter() - started
    suggested = list(suggest_layers(traces["hidden"])) if request.suggest_layers else None
    late = Late(wrote)
    plot = late.write("plot", request.plot, partial(save_traces, list(traces.values())))
    return TraceResult(
        request=request,
        facts=chosen,
        traces=list(traces.values()),
        suggested=suggested,
        plot=plot,
        seconds=seconds,
        failed=late.failed,
    )


def _traced(
    request: TraceRequest, handle: ModelHandle, facts: Sequence[Fact], kind: str, progress: Progress
) -> Trace:
    """One kind."""
    from alphaedit.locate.trace import trace

    return trace(
        handle,
        facts,
        kind=kind,
        window=None if kind == "hidden" else request.window,
        noise=request.noise,
        samples=request.samples,
        seed=request.seed,
        progress=progress,
    )


def kinds_of(kind: str, window: int | None) -> list[str]:
    """What is restored, one after the other.

    Raises:
        ConfigError: there is no such kind, or it has no window.
    """
    known = ("hidden", "mlp", "attention")
    if kind not in (*known, ALL):
        raise unknown_name("--kind", kind, (*known, ALL))
    if kind == "hidden" and window is not None:
        raise ConfigError(
            "--window is for outputs of the MLP or the attention; hidden states are restored in "
            "one layer.",
            remedy="Leave it out, or give --kind mlp, attention or all.",
        )
    return list(known) if kind == ALL else [kind]


def _from_world(handle: ModelHandle, count: int, seed: int) -> list[Fact]:
    """True facts of the part of the bundled world that the model knows, or of all of it."""
    world = World.load()
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    rows = records(world.largest(known) if known else world, count, seed=seed)
    if len(rows) < count:
        raise too_few(count, "the world", len(rows))
    asked = [row["requested_rewrite"] for row in rows]
    return [Fact(r["prompt"], r["subject"], r["target_true"]["str"]) for r in asked]


def too_few(count: int, where: str, available: int) -> ConfigError:
    """The error where facts are missing."""
    return ConfigError(
        f"--count {count} is asked for, and {where} holds {available} facts.",
        remedy=f"Give --count {available} or fewer.",
    )


def _plain(traced: Trace) -> dict[str, Any]:
    """A trace as plain data; positions that no fact has are null."""
    from alphaedit.locate.trace import POSITIONS

    low, high = traced.band
    return {
        "kind": traced.kind,
        "window": traced.window,
        "clean": traced.clean,
        "corrupted": traced.corrupted,
        "positions": list(POSITIONS),
        "indirect_effect": traced.indirect_effect.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "effect_by_fact": traced.effect_by_fact.tolist(),
    }


def _by_fact(facts: Sequence[Fact], traced: Trace) -> list[dict[str, Any]]:
    values = zip(
        facts, traced.clean_by_fact.tolist(), traced.corrupted_by_fact.tolist(), strict=True
    )
    return [{"prompt": f.text, "clean": clean, "corrupted": bad} for f, clean, bad in values]
