"""Figures: small panels with one question each, colour-blind safe, for light and dark pages.

Colours are Okabe and Ito's; lines also differ in dash and marker. In SVG, colours are CSS variables
of the page (see report.html.j2), so that one picture fits a light and a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alphaedit.core.errors import ConfigError
from alphaedit.core.files import whole_file
from alphaedit.core.marks import PICTURE
from alphaedit.core.site import Site

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#6B4C9A", "#7F7F7F"),
)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (6, 2, 1, 2)), (0, (1, 1.5)), (0, (8, 3)), "-")
MARKERS = ("o", "s", "D", "^", "v", "P")
INK, GRID = "#5c6471", "#c9ced6"
VARIABLES = {colour.lower(): f"var(--series-{i})" for i, colour in enumerate(COLOURS, start=1)}
VARIABLES |= {INK: "var(--soft)", GRID: "var(--line)"}
PANEL = (4.2, 2.9)
FLOOR = 1e-8
"""Eigenvalues below this share of the largest are rounding."""

_ENDINGS = (".svg", ".png", ".pdf")


def _panel(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.subplots()
    _dress(axes, title)
    return figure, axes


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.tick_params(colors=INK, which="both", labelsize=9, length=3)
    for name, side in axes.spines.items():
        side.set_color(GRID)
        side.set_visible(name in ("left", "bottom"))
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def curve_panel(
    metric: str,
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    unedited: float | None = None,
    *,
    lowest: float = 0.0,
) -> Figure:
    """One metric over sequential edits, a line with a 95 % band for each method.

    Args:
        metric: name of the metric.
        curves: for each method, rows with "edits" and the metric as {"value", "low", "high"}.
        unedited: level of the unedited model, drawn as a thin line.
        lowest: lowest value in percent that the axis must show; it ends a step of 20 below.
    """
    figure, axes = _panel(metric.replace("_", " ") + " (%)")
    for index, (method, rows) in enumerate(curves.items()):
        points = [(row["edits"], row[metric]) for row in rows if row.get(metric)]
        if not points:
            continue
        x = [edits for edits, _ in points]
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(
            x,
            [value["value"] for _, value in points],
            color=colour,
            linestyle=DASHES[index % len(DASHES)],
            marker=MARKERS[index % len(MARKERS)],
            markersize=4,
            linewidth=1.8,
            label=method,
        )
        low, high = [v["low"] for _, v in points], [v["high"] for _, v in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    if unedited is not None:
        axes.axhline(
            unedited, color=INK, linestyle=(0, (2, 2)), linewidth=1.1, label="unedited model"
        )
    bottom = 20 * (max(0.0, lowest) // 20)
    axes.set_ylim(bottom - (103 - bottom) * 0.03, 100 + (103 - bottom) * 0.03)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_xlabel("facts edited", fontsize=9)
    axes.legend(fontsize=9, frameon=False, labelcolor=INK, loc="best")
    return figure


def spectrum_panel(layer: Site, values: Sequence[float], dim: int) -> Figure:
    """Eigenvalues of a layer's second moment by rank, largest first; the null space is shaded.

    Args:
        layer: number of the layer.
        values: eigenvalues in any order.
        dim: dimension of the null space.
    """
    figure = Figure(figsize=PANEL, layout="constrained")
    _draw_spectrum(figure.subplots(), layer, values, dim)
    return figure


def _draw_spectrum(axes: Axes, layer: Site, values: Sequence[float], dim: int) -> None:
    _dress(axes, f"layer {layer}: null space {dim} of {len(values)}")
    top = max(values)
    ordered = sorted((max(value, FLOOR * top) for value in values), reverse=True)
    axes.axvspan(len(ordered) - dim, len(ordered), color=COLOURS[5], alpha=0.2, linewidth=0)
    # A few hundred points draw the same line as thousands.
    step = max(1, len(ordered) // 400)
    ranks = [*range(0, len(ordered), step), len(ordered) - 1]
    axes.text(
        len(ordered) - dim / 2,
        2 * top,
        "null space",
        ha="center",
        va="center",
        fontsize=9,
        color=INK,
        clip_on=True,
    )
    axes.plot(ranks, [ordered[rank] for rank in ranks], color=COLOURS[0], linewidth=1.8)
    axes.set_yscale("log")
    axes.set_xlim(0, len(ordered))
    axes.set_ylim(FLOOR * top / 2, 8 * top)
    axes.set_xlabel("rank of eigenvalue", fontsize=9)
    axes.set_ylabel("eigenvalue", fontsize=9)


def save_spectra(spectra: Sequence[tuple[Site, Sequence[float], int]], path: Path) -> None:
    """Write the spectra of layers, (layer, values, dim) each, as the ending of `path` says.

    Raises:
        ConfigError: the ending is not .svg, .png or .pdf.
        ResourceError: it cannot be written; what was there before is kept.
    """
    check_ending(path)
    figure = Figure(figsize=(6.4, PANEL[1] * len(spectra)), layout="constrained")
    for axes, (layer, values, dim) in zip(
        figure.subplots(len(spectra), 1, squeeze=False)[:, 0], spectra, strict=True
    ):
        _draw_spectrum(axes, layer, values, dim)
    save(figure, path, dpi=160)


def save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a picture as the ending of `path` says, whole or not at all, with our mark in it.

    Raises:
        ResourceError: it cannot be written; what was there before is kept.
    """
    with whole_file(path) as part:
        figure.savefig(
            part,
            dpi=dpi,
            facecolor="white",
            format=path.suffix[1:],
            metadata=dict(PICTURE[path.suffix]),
        )


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as SVG to put into a page.

    Args:
        figure: what to draw.
        name: keeps its ids apart from those of other figures of the page.
        label: what it shows, for those who cannot see it.
    """
    buffer = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    # Inside HTML, namespaces need no names; without a size, the picture fills its column.
    head = re.sub(r' (?:xmlns(?::\w+)?|width|height|version)="[^"]*"', "", head)
    text = f'{head} role="img" aria-label="{escape(label, quote=True)}">{rest}'
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{name}-\1"', text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def check_ending(path: Path) -> None:
    """Refuse a picture of another kind than .svg, .png and .pdf.

    Raises:
        ConfigError: the ending of `path` is another.
    """
    if path.suffix not in _ENDINGS:
        raise ConfigError(
            f"A picture cannot end in {path.suffix!r}: {path}.",
            remedy=f"Known endings: {', '.join(_ENDINGS)}.",
        )
