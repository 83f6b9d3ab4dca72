"""Pictures of experiments, made of the results alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from alphaedit.bench.intervals import Rate
from alphaedit.linalg.similarity import density
from alphaedit.report.figures import (
    COLOURS,
    DASHES,
    GRID,
    INK,
    MARKERS,
    _dress,
    spectrum_panel,
)
from alphaedit.report.figures import save as save_figure
from alphaedit.report.panels import routing, strict
from alphaedit.report.results import Column, Group, Results

Chart = Callable[[Group, Results], Figure | None]
SHOWN = ("efficacy", "generalization", "specificity", "fluency", "consistency")
QUESTIONS = ("edit_success", "generalization", "portability", "locality", "kept")
CURVES = ("efficacy", "generalization", "specificity", "kept", "perplexity", "kl")


def _style(index: int) -> dict[str, Any]:
    # More lines than colours: the next round has other dashes and markers.
    turn = index + index // len(COLOURS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[turn % len(DASHES)],
        "marker": MARKERS[turn % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def radar(group: Group, results: Results) -> Figure | None:
    """Each metric as a share of the best on its axis; one outline for each method."""
    columns = [c for c in group.edited if c.numbers]
    there = {m for c in columns for m in c.numbers}
    axes_of = [m for m in (QUESTIONS if "edit_success" in there else SHOWN) if m in there]
    if len(axes_of) < 3 or not columns:
        return None
    top = {m: max(c.numbers[m].value for c in columns if m in c.numbers) or 1.0 for m in axes_of}
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot(projection="polar")
    angles = [2 * math.pi * i / len(axes_of) for i in range(len(axes_of))]
    for index, column in enumerate(columns):
        shares = [column.numbers[m].value / top[m] if m in column.numbers else 0 for m in axes_of]
        axes.plot([*angles, 0.0], [*shares, shares[0]], label=column.label, **_style(index))
    names = [f"{m.replace('_', ' ')}\n{top[m]:.1f}" for m in axes_of]
    axes.set_xticks(angles, names, fontsize=9, color=INK)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0.25, 0.5, 0.75, 1.0], [])
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines["polar"].set_color(GRID)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, labelcolor=INK)
    return figure


def curves(group: Group, results: Results) -> Figure | None:
    """Metrics over sequential edits, a line with a band for each method."""
    columns = [c for c in group.edited if len(c.curve) > 1]
    there = [m for m in CURVES if any(m in row for c in columns for row in c.curve.values())]
    return _lines(there, columns, lambda c, m: _over_edits(c, m), "facts edited", group)


def abilities(group: Group, results: Results) -> Figure | None:
    """F1 of general tasks over sequential edits."""
    columns = [c for c in group.edited if c.curve]
    seen = {m for c in columns for row in c.curve.values() for m in row}
    names = sorted(m for m in seen if m.startswith("ability:"))
    return _lines(names, columns, lambda c, m: _over_edits(c, m), "facts edited", group)


def sweep(group: Group, results: Results) -> Figure | None:
    """Metrics against the setting that is varied."""
    methods = list(dict.fromkeys(c.method for c in group.edited if c.setting))
    there = [*CURVES, "null_share"]
    shown = [m for m in there if any(m in c.numbers for c in group.edited)]
    lines = [
        Column(
            label=method,
            method=method,
            setting="",
            cells=(),
            numbers={},
            curve={i: c.numbers for i, c in enumerate(_of(group, method))},
        )
        for method in methods
    ]
    if not lines:
        return None
    ticks = [c.setting.partition(" ")[2] for c in _of(group, methods[0])]
    name = _of(group, methods[0])[0].setting.partition(" ")[0].replace("_", " ")
    return _lines(shown, lines, lambda c, m: _over_edits(c, m), name, group, ticks)


def _of(group: Group, method: str) -> list[Column]:
    return [c for c in group.edited if c.method == method]


def _over_edits(column: Column, metric: str) -> list[tuple[float, Rate]]:
    return [(x, row[metric]) for x, row in column.curve.items() if metric in row]


def _lines(
    metrics: Sequence[str],
    columns: Sequence[Column],
    points: Callable[[Column, str], list[tuple[float, Rate]]],
    label: str,
    group: Group,
    ticks: Sequence[str] | None = None,
) -> Figure | None:
    if not metrics or not columns:
        return None
    width = min(3, len(metrics))
    height = -(-len(metrics) // width)
    figure = Figure(figsize=(3.4 * width, 2.7 * height + 0.5), layout="constrained")
    grid = figure.subplots(height, width, squeeze=False)
    flat = [axes for row in grid for axes in row]
    baseline = group.baseline.numbers if group.baseline else {}
    for axes, metric in zip(flat, metrics, strict=False):
        _dress(axes, metric.removeprefix("ability:").replace("_", " "))
        for index, column in enumerate(columns):
            curve = points(column, metric)
            x, y = [p for p, _ in curve], [r.value for _, r in curve]
            style = _style(index)
            axes.plot(x, y, label=column.label, **style)
            low, high = [r.low for _, r in curve], [r.high for _, r in curve]
            axes.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)
        if metric in baseline and metric not in ("efficacy", "generalization"):
            level = baseline[metric].value
            axes.axhline(level, color=INK, linestyle=(0, (2, 2)), linewidth=1, label="unedited")
        axes.set_xlabel(label, fontsize=9)
        if ticks is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        else:
            axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
        values = [r.value for c in columns for _, r in points(c, metric)]
        if metric == "perplexity" and values and min(values) > 0:
            if max(values) > 20 * min(values):
                axes.set_yscale("log")
    for axes in flat[len(metrics) :]:
        axes.set_visible(False)
    seen: dict[str, Artist] = {}
    for axes in flat:
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True):
            seen.setdefault(name, line)
    figure.legend(
        list(seen.values()),
        list(seen),
        loc="outside lower center",
        ncols=min(5, len(seen)),
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def runtime(group: Group, results: Results) -> Figure | None:
    """Seconds per 100 edits by method, and what the time goes into."""
    columns = [c for c in group.edited if c.seconds]
    if not columns:
        return None
    totals = {c.label: sum(c.seconds.values()) for c in columns}
    phases = sorted({p for c in columns for p in c.seconds}, key=lambda p: -_total(columns, p))
    small = [p for p in phases if _total(columns, p) < 0.01 * sum(totals.values())]
    figure = Figure(figsize=(6.8, 0.34 * len(columns) + 1.3), layout="constrained")
    axes = figure.subplots()
    _dress(axes, "seconds per 100 edits")
    columns = sorted(columns, key=lambda c: -totals[c.label])
    left = [0.0] * len(columns)
    shown = [p for p in phases if p not in small][:5]
    for index, phase in enumerate([*shown, "other"]):
        rest = [p for p in phases if p not in shown]
        values = [
            sum(c.seconds.get(p, 0.0) for p in (rest if phase == "other" else [phase]))
            for c in columns
        ]
        if not any(values):
            continue
        colour = INK if phase == "other" else COLOURS[index % len(COLOURS)]
        axes.barh(range(len(columns)), values, left=left, color=colour, label=phase, height=0.65)
        left = [a + b for a, b in zip(left, values, strict=True)]
    for y, total in enumerate(left):
        axes.text(total, y, f" {total:.1f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(columns)), [c.label for c in columns], fontsize=9)
    axes.set_xlim(0, 1.12 * max(left))
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=6, fontsize=8, frameon=False, labelcolor=INK)
    return figure


def _total(columns: Sequence[Column], phase: str) -> float:
    return sum(c.seconds.get(phase, 0.0) for c in columns)


def pairs(group: Group, results: Results) -> Figure | None:
    """Each method without and with the projection."""
    with_it = {c.method.removesuffix(" + project"): c for c in group.edited if "project" in c.label}
    without = {c.method: c for c in group.edited if "project" not in c.label}
    names = [name for name in without if name in with_it]
    if not names:
        return None
    shown = [m for m in (*SHOWN, "kept") if m in without[names[0]].numbers]
    figure = Figure(figsize=(2.3 * len(shown), 0.33 * len(names) + 1.4), layout="constrained")
    grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, metric in zip(grid, shown, strict=True):
        _dress(axes, metric)
        for y, name in enumerate(names):
            a, b = without[name].numbers[metric].value, with_it[name].numbers[metric].value
            axes.annotate("", (b, y), (a, y), arrowprops={"arrowstyle": "->", "color": INK})
            axes.plot(a, y, "s", color=COLOURS[1], label="without" if y == 0 else None)
            axes.plot(b, y, "o", color=COLOURS[0], label="with project" if y == 0 else None)
        axes.margins(x=0.15, y=0.15)
    grid[0].set_yticks(range(len(names)), names, fontsize=9)
    grid[0].invert_yaxis()
    lines, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        lines,
        labels,
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def dots(group: Group, results: Results) -> Figure | None:
    """Numbers of the form name:part, by part: efficacy by relation, by age of the edit, ..."""
    columns = [c for c in group.edited if any(":" in m for m in c.numbers)]
    parts = list(dict.fromkeys(m for c in columns for m in c.numbers if ":" in m))
    if not parts:
        return None
    figure = Figure(figsize=(7.2, 0.27 * len(parts) + 1.3), layout="constrained")
    axes = figure.subplots()
    _dress(axes, parts[0].partition(":")[0] + " (%)")
    for index, column in enumerate(columns):
        # Aside from one another, so that equal values stay visible.
        aside = 0.14 * (index - (len(columns) - 1) / 2)
        placed = [
            (y + aside, column.numbers[m]) for y, m in enumerate(parts) if m in column.numbers
        ]
        ys, rates = [y for y, _ in placed], [rate for _, rate in placed]
        colour = COLOURS[index % len(COLOURS)]
        axes.hlines(ys, [r.low for r in rates], [r.high for r in rates], color=colour, alpha=0.35)
        marker = MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]
        values = [r.value for r in rates]
        axes.plot(values, ys, marker, color=colour, markersize=4, label=column.label)
    axes.set_yticks(range(len(parts)), [m.partition(":")[2] for m in parts], fontsize=8)
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False, labelcolor=INK)
    return figure


def spectrum(group: Group, results: Results) -> Figure | None:
    """Eigenvalues of the second moment at the last edited layer, and the null spaces chosen."""
    spectra = []
    for column in group.edited:
        extras = results.extras.get(column.cells[0], {})
        if extras and "spectrum" in extras[max(extras)]:
            spectra.append((column.label, extras[max(extras)]["spectrum"]))
    if not spectra:
        return None
    _, widest = max(spectra, key=lambda item: item[1]["null"])
    figure = spectrum_panel(widest["layer"], widest["values"], widest["null"])
    if len(spectra) == 1:
        return figure
    figure.set_size_inches(7.2, 4.4)
    (axes,) = figure.axes
    axes.set_title(f"layer {widest['layer']}: the null space begins at", fontsize=11, loc="left")
    for index, (label, curve) in enumerate(spectra):
        start = len(curve["values"]) - curve["null"]
        style = {k: v for k, v in _style(index + 1).items() if k in ("color", "linestyle")}
        axes.axvline(start, label=f"{label}: {start}", linewidth=1.6, **style)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False, labelcolor=INK)
    return figure


def shift(group: Group, results: Results) -> Figure | None:
    """Hidden states of facts that were not edited, before and after, with marginal densities."""
    clouds = []
    for column in group.edited:
        extras = results.extras.get(column.cells[0], {})
        if extras and "shift" in extras[max(extras)]:
            clouds.append((column, extras[max(extras)]["shift"]))
    if not clouds:
        return None
    width = min(4, len(clouds))
    height = -(-len(clouds) // width)
    figure = Figure(figsize=(2.9 * width, 3.1 * height + 0.4), layout="constrained")
    frames = figure.subfigures(height, width, squeeze=False)
    for index, (column, points) in enumerate(clouds):
        _draw_shift(frames[index // width][index % width], column, points)
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, label=label)
        for label, colour, marker, _ in STATES
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )
    return figure


SAID = (("D1", "d1", 2), ("D2", "d2", 2), ("H", "hausdorff", 1), ("CKA", "cka", 3))
STATES = (("before", COLOURS[0], "o", 6), ("after", COLOURS[1], "+", 12))


def _draw_shift(
    frame: SubFigure, column: Column, points: Mapping[str, Sequence[Sequence[float]]]
) -> None:
    grid = frame.subplots(
        2, 2, gridspec_kw={"width_ratios": (4, 1), "height_ratios": (1, 4)}, squeeze=False
    )
    top, corner, main, right = grid[0][0], grid[0][1], grid[1][0], grid[1][1]
    corner.axis("off")
    both = [p for name, *_ in STATES for p in points[name]]
    for name, colour, marker, size in STATES:
        xs, ys = [p[0] for p in points[name]], [p[1] for p in points[name]]
        main.scatter(xs, ys, s=size, marker=marker, color=colour, alpha=0.45, linewidths=0.8)
        for axes, values, axis in ((top, xs, 0), (right, ys, 1)):
            ends = [p[axis] for p in both]
            at = torch.linspace(min(ends), max(ends), 120, dtype=torch.float64)
            height = density(torch.tensor(values, dtype=torch.float64), at).tolist()
            line = (at.tolist(), height) if axis == 0 else (height, at.tolist())
            axes.plot(*line, color=colour, linewidth=1.2)
            fill = axes.fill_between if axis == 0 else axes.fill_betweenx
            fill(at.tolist(), height, color=colour, alpha=0.15, linewidth=0)
    for axes in (top, right, main):
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_color(GRID)
    numbers = column.numbers
    caption = ", ".join(
        f"{label} {numbers[name].value:.{digits}f}"
        for label, name, digits in SAID
        if name in numbers
    )
    top.set_title(f"{column.label}\n{caption}", fontsize=8, color=INK, loc="left")


CHARTS: Mapping[str, Chart] = {
    "radar": radar,
    "curves": curves,
    "abilities": abilities,
    "sweep": sweep,
    "runtime": runtime,
    "pairs": pairs,
    "dots": dots,
    "shift": shift,
    "spectrum": spectrum,
    "routing": routing,
    "strict": strict,
}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.svg and STEM.png."""
    written = [stem.with_name(stem.name + ending) for ending in (".svg", ".png")]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": stem.name}):
        for path in written:
            save_figure(figure, path, dpi=150)
    return written
