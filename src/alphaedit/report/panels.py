"""Pictures of one panel for each metric, a line for each method: where routers fire, what holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alphaedit.bench.intervals import Rate
from alphaedit.bench.strict import CHANCE
from alphaedit.report.figures import COLOURS, GRID, INK, _dress
from alphaedit.report.results import Column, Group, Results

FIRED = ("fired_edits", "fired_paraphrases", "fired_neighbors")
TIMES = ("request_time", "request_time_neighbors", "token_time")
PROBES = ("efficacy", "negation", "true_false", "true_false_relative", "sa_mcq", "old_said")
QUESTIONS = ("edit_success", *PROBES[1:], "old_concluded")


def routing(group: Group, results: Results) -> Figure | None:
    """Share of prompts on which routers act, by kind; times beside those without; bytes an edit."""
    columns = [c for c in group.edited if any(m in c.numbers for m in FIRED)]
    sized = [c for c in group.edited if "bytes_per_edit" in c.numbers]
    if not columns:
        return None
    height = 0.3 * max(len(columns), len(sized)) + 1.7
    figure = Figure(figsize=(9.6, height), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _dots(left, "fires on (% of prompts)", columns, FIRED, "fired ")
    left.set_xlim(-4, 104)
    _dots(middle, "time (% of that without)", columns, TIMES, "")
    middle.axvline(100, color=INK, linestyle=(0, (2, 2)), linewidth=1)
    _dress(right, "bytes for each edit")
    sizes = [c.numbers["bytes_per_edit"].value for c in sized]
    states = [c.numbers.get("state_bytes_per_edit", Rate(0, 0, 0, 0)).value for c in sized]
    rows = range(len(sized))
    right.barh(rows, sizes, color=COLOURS[0], height=0.6, label="patch")
    right.barh(rows, states, left=sizes, color=COLOURS[4], height=0.6, label="state")
    _names(right, [c.label for c in sized])
    right.grid(visible=False, axis="y")
    right.tick_params(axis="x", labelrotation=30)
    for axes in (left, middle, right):
        axes.legend(
            fontsize=8, frameon=False, labelcolor=INK, loc="lower center", bbox_to_anchor=(0.5, 1.1)
        )
    return figure


def strict(group: Group, results: Results) -> Figure | None:
    """Each probe by method, with the unedited model's own score and chance as lines."""
    columns = [c for c in group.edited if c.numbers]
    there = {m for c in columns for m in c.numbers}
    asked = QUESTIONS if "edit_success" in there else PROBES
    shown = [m for m in asked if m in there]
    if len(shown) < 2:
        return None
    before: Mapping[str, Rate] = group.baseline.numbers if group.baseline else {}
    width = min(4, len(shown))
    height = -(-len(shown) // width)
    figure = Figure(
        figsize=(2.5 * width + 0.8, height * (0.24 * len(columns) + 0.9) + 0.4),
        layout="constrained",
    )
    grid = figure.subplots(height, width, sharey=True, squeeze=False)
    flat: list[Axes] = [axes for row in grid for axes in row]
    for axes, metric in zip(flat, shown, strict=False):
        _draw_probe(axes, metric, columns, before.get(metric))
    for axes in flat[len(shown) :]:
        axes.set_visible(False)
    # One order for all, as they share their axis.
    flat[0].invert_yaxis()
    lines = {
        label: line
        for axes in flat
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower center",
        ncols=3,
        fontsize=8,
        frameon=False,
        labelcolor=INK,
    )
    return figure


def _draw_probe(axes: Axes, metric: str, columns: Sequence[Column], unedited: Rate | None) -> None:
    _dress(axes, metric.replace("_", " "))
    there = [(y, c.numbers[metric]) for y, c in enumerate(columns) if metric in c.numbers]
    rows, rates = [y for y, _ in there], [rate for _, rate in there]
    axes.hlines(rows, [r.low for r in rates], [r.high for r in rates], color=COLOURS[0], alpha=0.4)
    axes.plot([r.value for r in rates], rows, "o", color=COLOURS[0], markersize=4)
    if unedited is not None and metric not in ("efficacy", "edit_success"):
        label = "unedited, about what it held"
        axes.axvline(unedited.value, color=COLOURS[1], linewidth=1.4, label=label)
    if metric in CHANCE:
        axes.axvline(CHANCE[metric], color=INK, linestyle=(0, (2, 2)), linewidth=1, label="chance")
    axes.set_xlim(-4, 104)
    axes.set_yticks(range(len(columns)), [c.label for c in columns], fontsize=8)
    axes.set_ylim(-0.6, len(columns) - 0.4)


def _dots(
    axes: Axes, title: str, columns: Sequence[Column], metrics: Sequence[str], prefix: str
) -> None:
    _dress(axes, title)
    axes.spines["left"].set_color(GRID)
    for index, metric in enumerate(metrics):
        aside = 0.18 * (index - 1)
        there = [
            (y + aside, c.numbers[metric]) for y, c in enumerate(columns) if metric in c.numbers
        ]
        rows, rates = [y for y, _ in there], [rate for _, rate in there]
        colour = COLOURS[index]
        axes.hlines(rows, [r.low for r in rates], [r.high for r in rates], color=colour, alpha=0.4)
        label = metric.replace("_", " ").removeprefix(prefix)
        values = [r.value for r in rates]
        axes.plot(values, rows, "osD"[index], color=colour, markersize=4, label=label)
    _names(axes, [c.label for c in columns])


def _names(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
