"""Tables and pictures of docs/best-default.md, made of results/loads.jsonl alone.

python -m benchmarks.loads_page
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from alphaedit.bench.intervals import Rate
from alphaedit.report.figures import COLOURS, GRID, INK
from benchmarks.frontier import lines
from benchmarks.loads import CANDIDATES, PLAIN
from benchmarks.machine import RESULTS
from benchmarks.real_page import ROOT, fill, table

PAGE = ROOT / "docs" / "best-default.md"
GATED = ROOT / "docs" / "methods" / "gated.md"
PICTURES = ROOT / "docs" / "pictures"
COLUMNS = {
    "efficacy": "efficacy",
    "generalization": "gen.",
    "specificity": "spec.",
    "efficacy_generate": "said",
    "generalization_generate": "said, rephrased",
    "kept": "kept",
    "kl": "KL",
    "perplexity": "perplexity",
}
SAID = "efficacy_generate"
LESS_IS_BETTER = ("kl", "perplexity")
MODELS = {"bundled": ("bundled", 2048), "smollm2": ("SmolLM2-135M-Instruct", 1536)}
"""By the mark in the page: name in the results, and entries of a key."""
SMALL = {"small": ("bundled-small", 512)}
SHOWN = ("alphaedit-weighted", "alphaedit", "memit-history", "gated, in weights", "gated")
"""In the pictures, if they are measured."""
DRAWN = {"efficacy_generate": "said, %", "kept": "kept, %", "kl": "KL, nats a token"}


ASIDE = (
    "alphaedit-weighted, half precision",
    "alphaedit-weighted, layers by trials",
    "gated, layers by trials",
)
"""The same method in other circumstances: no rivals of it."""
FRESH = "fresh.json"
"""Records that were drawn when nothing was to be changed any more: told in the text alone."""
GATES = ("gated", "gated, in weights")
"""Compared with all, while what changes the matrices that are there is compared with another."""

Rows = Mapping[tuple[int, str], Sequence[Mapping[str, Any]]]
"""Lines of all draws, by number of edits and method."""


def rows_of(model: str, *, own: bool = False) -> Rows:
    """Lines of a model by its name in the results."""
    found: dict[tuple[int, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in lines(RESULTS / "loads.jsonl"):
        ours = row["model"] == model and row["records"] != FRESH
        if ours and (row["own"] == own or row["method"] == PLAIN):
            found[(row["edits"], row["method"])].append(row)
    return found


def over_draws(rows: Sequence[Mapping[str, Any]], name: str) -> Rate:
    """Mean of the draws; the half of an interval shrinks by the root of their number."""
    values = [row[name] for row in rows]
    if not isinstance(values[0], list):
        value = mean(values)
        return Rate(value, value, value, len(rows))
    value = mean(v[0] for v in values)
    root = len(values) ** 0.5
    return Rate(
        value,
        value - mean(v[0] - v[1] for v in values) / root,
        value + mean(v[2] - v[0] for v in values) / root,
        len(rows),
    )


def good(figures: Mapping[str, Rate], name: str) -> set[str]:
    """The methods that are best in a column, or within the best one's interval."""
    if not figures:
        return set()
    if name in LESS_IS_BETTER:
        least = min(f.value for f in figures.values())
        return {label for label, f in figures.items() if f.value <= least}
    best = max(figures.values(), key=lambda f: f.value)
    return {label for label, f in figures.items() if f.value >= best.low}


def loads_table(model: str) -> str:
    """A row for each load and method; bold: best of its load, or within the best one's interval.

    A method that says less than half of what another does is no rival in what it keeps. One that
    changes the matrices that are there has rivals that do, too; a gate has all.
    """
    name, width = {**MODELS, **SMALL}[model]
    rows = rows_of(name)
    made = []
    for edits in sorted({edits for edits, _ in rows}):
        here = {m: rows[(edits, m)] for m in (PLAIN, *CANDIDATES) if (edits, m) in rows}
        says = {m: over_draws(r, SAID).value for m, r in here.items() if m != PLAIN}
        most = max(says.values(), default=0.0)
        able = [m for m, said in says.items() if said >= most / 2 and m not in ASIDE]
        weights = [method for method in able if method not in GATES]
        best = {
            column: good({m: over_draws(here[m], column) for m in weights}, column)
            | good({m: over_draws(here[m], column) for m in able}, column).intersection(GATES)
            for column in COLUMNS
        }
        for method, own in here.items():
            first = f"{edits} ({edits / width:.2f})" if method == next(iter(here)) else ""
            cells = [first, method, str(len(own))]
            for column in COLUMNS:
                text = told(over_draws(own, column).value, column)
                cells.append(f"**{text}**" if method in best[column] else text)
            made.append(cells)
    return table(("edits (load)", "method", "draws", *COLUMNS.values()), made)


PARTS = {
    "AlphaEdit, energy 0.9": {"energy": 0.9, "ridge_share": 0.1},
    "the same, a heavier ridge (1.0)": {"energy": 0.9, "ridge_share": 1.0},
    "AlphaEdit, energy 0.5": {"energy": 0.5, "ridge_share": 0.1},
    "AlphaEdit, energy 0.5, ridge 0.3": {"energy": 0.5, "ridge_share": 0.3},
    "the same, half of names": {"energy": 0.5, "ridge_share": 0.3, "names": 0.5},
    "AlphaEdit, energy 0.3, ridge 0.3": {"energy": 0.3, "ridge_share": 0.3},
    "MEMIT with history, w = 154": {"weight": 154},
    "w = 2,400": {"weight": 2400},
    "w = 2,400, half of names": {"weight": 2400, "names": 0.5},
    "w = 4,800, half of names": {"weight": 4800, "names": 0.5},
    "w = 2,400, root of C's eigenvalues": {"weight": 2400, "power": 0.5},
    "w = 2,400, weak directions free": {"weight": 2400, "soft": 1.0},
    "w = 2,400, and a ridge of a tenth": {"weight": 2400, "floor": 0.1},
    "w = 2,400, spread of keys": {"weight": 2400, "spread": 1.0},
    "w = 2,400 in the null space of energy 0.5": {"weight": 2400, "energy": 0.5},
}
"""Systems of the table of parts, as `frontier` has them on SmolLM2."""
ASKED = {"edits": 100, "layers": [4, 5, 6, 7, 8], "model": "SmolLM2-135M-Instruct"}


WEIGHT = {"energy": 0.5, "weight": 2400}
MANY = {
    "AlphaEdit, energy 0.5, ridge 0.3": {"energy": 0.5, "ridge_share": 0.3},
    "MEMIT with history, w = 2,400": {"weight": 2400},
    "w = 2,400 in the null space of energy 0.5": WEIGHT,
    "the same, layers by reach": {**WEIGHT, "shares": "reach"},
    "layers by cost alone": {**WEIGHT, "shares": "cost"},
    "spread of keys": {**WEIGHT, "spread": 1.0},
    "all facts at once": {**WEIGHT, "batches": 1},
    "nine batches": {**WEIGHT, "batches": 9},
}
"""Of three hundred facts on SmolLM2."""
OF_BUNDLED = {"energy": 0.5, "weight": 100, "batches": 6}
BUNDLED = {
    "MEMIT with history, w = 100": {"weight": 100, "batches": 6},
    "w = 100 in the null space of energy 0.5": OF_BUNDLED,
    "the same, layers by reach": {**OF_BUNDLED, "shares": "reach"},
    "layers by cost alone": {**OF_BUNDLED, "shares": "cost"},
    "spread of keys": {**OF_BUNDLED, "spread": 4.0},
}
"""Of half as many facts as a key has entries, on the bundled model."""
ABLATIONS = {
    "parts": (PARTS, ASKED),
    "parts-many": (MANY, {"model": "SmolLM2-135M-Instruct", "edits": 300}),
    "parts-bundled": (BUNDLED, {"model": "bundled", "edits": 1024}),
}


def ablation(mark: str) -> str:
    """What each part of a system gives, on the facts that settings were chosen by."""
    listed, asked = ABLATIONS[mark]
    known = [r for r in lines(RESULTS / "frontier.jsonl") if asked.items() <= r.items()]
    made = []
    for name, system in listed.items():
        row = next(r for r in known if r["system"] == system)
        made.append([name, *(told(row[column], column) for column in COLUMNS)])
    return table(("", *COLUMNS.values()), made)


SMALL_PARTS = {
    "AlphaEdit, energy 0.95 (its preset)": {"energy": 0.95, "ridge_share": 0.03},
    "AlphaEdit, energy 0.7": {"energy": 0.7, "ridge_share": 0.03},
    "MEMIT with history, w = 33": {"weight": 33},
    "w = 33, half of names": {"weight": 33, "names": 0.5},
    "w = 33 in the null space of energy 0.5": {"weight": 33, "energy": 0.5},
    "the same, layers by reach": {"weight": 33, "energy": 0.5, "shares": "reach"},
    "w = 20, layers by reach": {"weight": 20, "energy": 0.5, "shares": "reach"},
    "w = 50, layers by reach": {"weight": 50, "energy": 0.5, "shares": "reach"},
    "layers by cost alone": {"weight": 33, "energy": 0.5, "shares": "cost"},
    "spread of keys": {"weight": 33, "energy": 0.5, "spread": 4.0},
    "MEMIT with history, layers by reach": {"weight": 33, "shares": "reach"},
    "AlphaEdit, energy 0.7, layers by reach": {
        "energy": 0.7,
        "ridge_share": 0.03,
        "shares": "reach",
    },
}
SMALL_SEEDS = {154: 101, 358: 102}
"""Draws of the frontier of bundled-small, by their numbers of edits."""
SMALL_COLUMNS = ("efficacy", "generalization", "specificity", "kept", "kl", "perplexity")


def small_table() -> str:
    """Systems on the small bundled model, at two loads."""
    known = list(lines(RESULTS / "frontier.jsonl"))
    made = []
    for edits, seed in SMALL_SEEDS.items():
        asked = {"model": "bundled-small", "edits": edits, "seed": seed}
        rows = [row for row in known if asked.items() <= row.items()]
        for name, system in SMALL_PARTS.items():
            for row in [r for r in rows if r["system"] == system][:1]:
                load = f"{edits} ({edits / 512:.1f})"
                made.append([load, name, *(told(row[column], column) for column in SMALL_COLUMNS)])
    heads = ("edits (load)", "", *(COLUMNS[column] for column in SMALL_COLUMNS))
    return table(heads, made)


def harm_table() -> str:
    """Which tokens of other text move, and what the model predicts there."""
    kinds = json.loads((RESULTS / "harm.json").read_text(encoding="utf-8"))["kinds"]
    made = [
        [
            kind,
            *(f"{100 * row[name]:.0f}" for name in ("tokens", "of_kl")),
            told(row["kl"], "kl"),
            *(f"{row[name]:.1f}" for name in ("perplexity_before", "perplexity")),
        ]
        for kind, row in kinds.items()
    ]
    heads = ("token", "of tokens, %", "of KL, %", "KL", "perplexity before", "after")
    return table(heads, made)


def neighbors_table() -> str:
    """Which neighbors stay, by what else was edited of them."""
    methods = json.loads((RESULTS / "neighbors.json").read_text(encoding="utf-8"))["methods"]
    kinds = list(methods[PLAIN])
    made = [[name, *(f"{rates[kind][0]:.1f}" for kind in kinds)] for name, rates in methods.items()]
    counts = [f"{kind} ({methods[PLAIN][kind][3]} prompts)" for kind in kinds]
    return table(("", *counts), made)


BESIDE = ("gated", "gated, in weights", "alphaedit-weighted")


def gated_table() -> str:
    """A gate, and it in weights, beside the best change of the matrices, at every load."""
    made = []
    for name, width in MODELS.values():
        rows = rows_of(name)
        for edits in sorted({edits for edits, method in rows if method == BESIDE[0]}):
            for method in (PLAIN, *BESIDE):
                own = rows[(edits, method)]
                first = f"{name}, {edits} ({edits / width:.2f})" if method == PLAIN else ""
                figures = (told(over_draws(own, column).value, column) for column in COLUMNS)
                made.append([first, method, *figures])
    return table(("model, edits (load)", "", *COLUMNS.values()), made)


def told(value: float, column: str) -> str:
    """A figure with as many digits as it deserves."""
    return f"{value:.3f}" if column == "kl" else f"{value:.1f}"


def tables() -> dict[str, str]:
    """All tables of the page, by their marks."""
    models = [model for model in (*MODELS, *SMALL) if measured(model)]
    made = {f"loads-{model}": loads_table(model) for model in models}
    made |= {mark: ablation(mark) for mark in ABLATIONS}
    made |= {"parts-small": small_table(), "harm": harm_table()}
    made |= {"neighbors": neighbors_table()}
    return made


def measured(model: str) -> bool:
    """Whether any method was, and not the unedited model alone."""
    return any(method != PLAIN for _, method in rows_of({**MODELS, **SMALL}[model][0]))


def picture(model: str, folder: Path = PICTURES) -> None:
    """Paraphrases, kept facts and movement of other text against the load."""
    name, width = MODELS[model]
    rows = rows_of(name)
    with rc_context({"svg.hashsalt": "alphaedit", "font.size": 9}):
        figure = Figure(figsize=(9, 2.9), layout="constrained")
        for place, (column, title) in enumerate(DRAWN.items(), 1):
            axes = figure.add_subplot(1, len(DRAWN), place)
            for method, colour in zip(SHOWN, COLOURS, strict=False):
                points = sorted(edits for edits, label in rows if label == method)
                if not points:
                    continue
                found = [over_draws(rows[(edits, method)], column) for edits in points]
                loads = [edits / width for edits in points]
                axes.plot(loads, [f.value for f in found], "o-", color=colour, label=method)
                lows, highs = [f.low for f in found], [f.high for f in found]
                axes.fill_between(loads, lows, highs, color=colour, alpha=0.15, linewidth=0)
            axes.set_xscale("log")
            axes.set_xlabel("load (edits / width of keys)", color=INK)
            axes.set_xticks(sorted({edits / width for edits, _ in rows}))
            axes.xaxis.set_major_formatter("{x:.2f}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(title, color=INK)
            axes.grid(color=GRID)
            if place == 1:
                axes.legend(frameon=False, loc="lower left")
        figure.savefig(folder / f"loads-{model}.svg", metadata={"Date": None})


def update(page: Path = PAGE, models: Iterable[str] = MODELS) -> None:
    """Put the tables in their places, and draw."""
    for mark, text in tables().items():
        fill(page, mark, text)
    fill(GATED, "gated", gated_table())
    for model in models:
        if measured(model):
            picture(model)


if __name__ == "__main__":
    update()
