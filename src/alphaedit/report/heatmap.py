"""Pictures of causal traces: a heat map over positions and layers, and its lines with bands.

The map is in cividis, which reads the same with and without colour vision; the picture has a
background of its own, so that it is legible on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alphaedit.locate.trace import POSITIONS, Trace
from alphaedit.report.figures import COLOURS, DASHES, GRID, MARKERS, check_ending, save

TEXT = "#2b313b"
ROW = (10.4, 3.1)
NUMBERED = 12
"""The most layers whose values are written into the map."""
NAMES = {"hidden": "hidden state", "mlp": "MLP output", "attention": "attention output"}


def save_traces(traces: Sequence[Trace], path: Path) -> None:
    """Write the pictures of `traces`, one row each, as the ending of `path` says.

    Raises:
        ConfigError: the ending is not .svg, .png or .pdf.
        ResourceError: it cannot be written; what was there before is kept.
    """
    check_ending(path)
    save(trace_figure(traces), path, dpi=160)


def trace_figure(traces: Sequence[Trace]) -> Figure:
    """A row for each trace: heat map on the left, lines with 95 % bands on the right."""
    figure = Figure(figsize=(ROW[0], ROW[1] * len(traces)), layout="constrained")
    grid = figure.subplots(len(traces), 2, squeeze=False, width_ratios=(1.25, 1))
    for (left, right), traced in zip(grid, traces, strict=True):
        _draw_map(figure, left, traced)
        _draw_lines(right, traced)
    return figure


def _present(traced: Trace) -> list[int]:
    """The kinds of position that some fact has."""
    return [i for i, row in enumerate(traced.indirect_effect) if not row.isnan().all()]


def _restored(traced: Trace) -> str:
    name = NAMES[traced.kind]
    return f"{name}s of {traced.window} layers" if traced.window > 1 else f"one {name}"


def _dress(axes: Axes, title: str, traced: Trace) -> None:
    axes.set_title(title, fontsize=10, color=TEXT, loc="left")
    axes.tick_params(colors=TEXT, labelsize=9, length=3)
    for name, side in axes.spines.items():
        side.set_color(GRID)
        side.set_visible(name in ("left", "bottom"))
    axes.set_xlabel("layer" if traced.window == 1 else "middle layer", fontsize=9, color=TEXT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))


def _draw_map(figure: Figure, axes: Axes, traced: Trace) -> None:
    seen = _present(traced)
    effect = traced.indirect_effect[seen].tolist()
    low = min(0.0, *(min(row) for row in effect))
    high = max(0.01, *(max(row) for row in effect))
    image = axes.imshow(effect, aspect="auto", cmap="cividis", vmin=low, vmax=high)
    _dress(axes, f"p(answer) returned by {_restored(traced)}", traced)
    axes.set_yticks(range(len(seen)), [POSITIONS[i] for i in seen])
    if len(effect[0]) <= NUMBERED:
        for y, row in enumerate(effect):
            for x, value in enumerate(row):
                dark = (value - low) / (high - low) < 0.55
                colour = "#ffffff" if dark else "#000000"
                number = f"{value:.2f}".replace("-0.00", "0.00")
                axes.text(x, y, number, ha="center", va="center", fontsize=8, color=colour)
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.ax.tick_params(colors=TEXT, labelsize=8)
    bar.outline.set_visible(False)


def _draw_lines(axes: Axes, traced: Trace) -> None:
    _dress(axes, f"mean and 95 % band over {traced.facts} facts", traced)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    effect, (low, high) = traced.indirect_effect, traced.band
    layers = range(effect.shape[1])
    for i in _present(traced):
        axes.plot(
            layers,
            effect[i].tolist(),
            color=COLOURS[i],
            linestyle=DASHES[i],
            marker=MARKERS[i],
            markersize=4 if len(layers) <= 16 else 0,
            linewidth=1.8,
            label=POSITIONS[i],
        )
        axes.fill_between(
            layers, low[i].tolist(), high[i].tolist(), color=COLOURS[i], alpha=0.2, linewidth=0
        )
    span = f"{traced.corrupted:.2f} with noise, {traced.clean:.2f} without"
    axes.set_ylabel(f"p(answer) returned\n({span})", fontsize=9, color=TEXT)
    axes.legend(fontsize=8, frameon=False, labelcolor=TEXT, loc="best")
