"""Compute the second moments of a model's keys, and the null space that they leave."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Late, Wrote, untold
from alphaedit.jobs.opening import Opening
from alphaedit.methods.presets import preset

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor
    from alphaedit.model.handle import ModelHandle

ENERGY = 0.98


@dataclass(frozen=True, kw_only=True)
class StatsRequest(Opening):
    """Layers, and how their null space is cut.

    Attributes:
        layers: by default the preset's, or all.
        threshold: eigenvalues below it are null.
        energy: in its place, share of the keys' energy kept out of the null space; by default the
            preset's, or 0.98.
        plot: draw the spectra here.

    Raises:
        ConfigError: both threshold and energy are given.
    """

    layers: tuple[int, ...] | None = None
    threshold: float | None = None
    energy: float | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and self.energy is not None:
            raise ConfigError("--threshold and --energy exclude one another.", remedy="Give one.")


@dataclass(frozen=True, kw_only=True)
class StatsResult:
    """What was computed.

    Attributes:
        request: what was asked for.
        editor: the model with its statistics.
        tokens: how many were seen by all layers.
        space: how the null space is cut.
        rows: layer (or expert), and what is left in its null space.
        plot: the picture, if it was drawn.
        seconds: time of all of it.
        failed: outputs that could not be written, and why.
    """

    request: StatsRequest
    editor: Editor = field(repr=False)
    tokens: int
    space: Mapping[str, float | None]
    rows: Sequence[tuple[Any, Mapping[str, Any]]]
    plot: Path | None
    seconds: float
    failed: Mapping[str, Exception]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        statistics = self.editor.statistics
        return {
            "model": self.request.model,
            "corpus": statistics.corpus.name,
            "tokens": self.tokens,
            **self.space,
            "layers": [
                {"layer": site if isinstance(site, int) else str(site), **row}
                for site, row in self.rows
            ],
            "cache": str(statistics.cache.folder),
            "plot": str(self.plot) if self.plot else None,
            "seconds": {"total": self.seconds},
        }


def run(
    request: StatsRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> StatsResult:
    """Compute what is not in the cache, and draw.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it; the same request goes on from there.
        wrote: is told of each output that is complete.

    Raises:
        Cancelled: `cancel` was set.
        StatsError, ModelError: with the remedy.
    """
    from alphaedit.report.figures import check_ending, save_spectra

    if request.plot is not None:
        check_ending(request.plot)
    began = time.perf_counter()
    editor = request.open(watched(progress, cancel))
    chosen, space = chosen_space(editor.handle, request.layers, request.threshold, request.energy)
    statistics = editor.statistics
    statistics.prepare(chosen)
    tokens = min(statistics.counted(layer) for layer in chosen)
    sites = statistics.sites(chosen)
    rows = [asdict(row) for row in statistics.report(sites, **space)]
    late = Late(wrote)

    def draw(path: Path) -> None:
        drawn = [
            (site, statistics.spectrum(site).values.tolist(), row["dim"])
            for site, row in zip(sites, rows, strict=True)
            if site in map(statistics.busiest, chosen)
        ]
        save_spectra(drawn, path)

    plot = late.write("plot", request.plot, draw)
    return StatsResult(
        request=request,
        editor=editor,
        tokens=tokens,
        space=space,
        rows=list(zip(sites, rows, strict=True)),
        plot=plot,
        seconds=time.perf_counter() - began,
        failed=late.failed,
    )


def chosen_space(
    handle: ModelHandle,
    layers: tuple[int, ...] | None,
    threshold: float | None,
    energy: float | None,
) -> tuple[list[int], dict[str, float | None]]:
    """Layers, and how the null space is cut: as given, or as the preset of the model says."""
    from alphaedit.locate.preset import matching

    name = matching(handle)
    known = preset(name, "alphaedit") if name else {}
    chosen = list(layers or known.get("layers") or range(handle.n_layers))
    for layer in chosen:
        handle.block(layer)
    if threshold is None and energy is None:
        threshold, energy = known.get("threshold"), known.get("energy")
    if threshold is None and energy is None:
        energy = ENERGY
    return chosen, {"threshold": threshold, "energy": energy}
