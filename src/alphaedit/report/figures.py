"""Figures: colour-blind safe (Okabe-Ito), transparent, grey text that reads on light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
STYLES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
INK = "#7f7f7f"


def _figure(width: float, height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis in axes:
        axis.patch.set_alpha(0.0)
        axis.tick_params(colors=INK, which="both", labelsize=8)
        for side in axis.spines.values():
            side.set_color(INK)
        axis.xaxis.label.set_color(INK)
        axis.yaxis.label.set_color(INK)
        axis.title.set_color(INK)
        axis.grid(True, color=INK, alpha=0.2, linewidth=0.6)
    return figure, list(axes)


def _legend(axis: Axes) -> None:
    axis.legend(fontsize=8, frameon=False, labelcolor=INK)


def spectrum_figure(
    spectra: Mapping[int, Sequence[float]], thresholds: Mapping[int, float] | None = None
) -> Figure:
    """Eigenvalues of the second moments by rank, largest first; a dot where the null space begins."""
    figure, (axis,) = _figure(6.0, 3.2)
    for index, (layer, values) in enumerate(sorted(spectra.items())):
        ordered = sorted((max(v, 1e-12) for v in values), reverse=True)
        colour, style = COLOURS[index % 6], STYLES[index % 6]
        axis.plot(ordered, color=colour, linestyle=style, label=f"layer {layer}", linewidth=1.4)
        if thresholds and layer in thresholds:
            rank = sum(v >= thresholds[layer] for v in ordered)
            axis.plot([rank], [max(thresholds[layer], 1e-12)], "o", color=colour, markersize=5)
    top = max(max(v) for v in spectra.values())
    axis.set_yscale("log")
    axis.set_ylim(top * 1e-8, top * 2)
    axis.set_xlabel("rank of eigenvalue (the null space is right of the dot)")
    axis.set_ylabel("eigenvalue of E[k kᵀ]")
    _legend(axis)
    return figure


def curves_figure(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str]
) -> Figure:
    """Metrics against the number of edits, one panel a metric, one line a method, with intervals."""
    figure, axes = _figure(2.6 * len(metrics) + 0.6, 2.9, len(metrics))
    for axis, metric in zip(axes, metrics, strict=True):
        for index, (method, rows) in enumerate(curves.items()):
            points = [(r["edits"], r[metric]) for r in rows if r.get(metric)]
            if not points:
                continue
            x = [edits for edits, _ in points]
            colour = COLOURS[index % 6]
            axis.plot(
                x,
                [m["value"] for _, m in points],
                color=colour,
                linestyle=STYLES[index % 6],
                marker="o",
                markersize=3,
                linewidth=1.6,
                label=method,
            )
            low, high = [m["low"] for _, m in points], [m["high"] for _, m in points]
            axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_title(metric, fontsize=9, color=INK)
        axis.set_xlabel("edits")
        axis.set_ylim(-2, 102)
    axes[0].set_ylabel("%")
    _legend(axes[0])
    return figure


def svg(figure: Figure) -> str:
    """The figure as inline SVG, without XML declaration."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(figure: Figure, path: Path) -> None:
    """Write the figure as the ending of `path` says (.svg, .png, .pdf)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, transparent=True)
