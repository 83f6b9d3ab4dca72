"""Tables of docs/methods/memories.md, made of results/memories.json alone.

python -m benchmarks.memories_page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_page import ROOT, fill, result, table

PAGE = ROOT / "docs" / "methods" / "memories.md"
AIMS: dict[str, tuple[float, ...]] = {
    "grace": (98, 70, 95),
    "melo": (95, 60, 95),
    "t-patcher": (95, 50, 90),
    "wise": (95, 60, 90),
    "memoir": (95, 60, 90),
    "serac": (90, 85, 95),
    "serac-smollm2": (90, 85, 95),
    "rag": (90, 85, 95),
    "ike, oracle": (90, 85),
    "ike, 2 demonstrations, oracle": (90, 85),
}
"""Exact answers to rewrite prompts and paraphrases, and neighbors kept, in percent at least."""
EXACT = ("rewrite", "paraphrase", "neighbors_kept")
COUNTERFACT = ("efficacy", "generalization", "specificity")
ZSRE = ("edit_success", "generalization")
FIRED = ("fired_edits", "fired_paraphrases", "fired_neighbors")
NAMES = {"edit_success": "tokens right", "neighbors_kept": "neighbors kept"}
NONE = "-"

Row = Mapping[str, Any]


def shares(row: Row, names: Sequence[str], digits: int = 1) -> list[str]:
    """Figures of a row in percent, a dash where there is none."""
    found = row["figures"]
    return [f"{found[name][0]:.{digits}f}" if name in found else NONE for name in names]


def reached(row: Row, aims: Sequence[float]) -> bool:
    """Whether each aim is."""
    values = [row["figures"][name][0] for name in EXACT[: len(aims)]]
    return all(value >= aim for value, aim in zip(values, aims, strict=True))


def aimed(label: str, row: Row) -> str:
    """A row's aims, and whether they are reached."""
    if label not in AIMS:
        return ""
    verdict = "reached" if reached(row, AIMS[label]) else "missed"
    return f"{' / '.join(f'{aim:g}' for aim in AIMS[label])}: {verdict}"


def figures_table(rows: Mapping[str, Row], chances: Sequence[str], *, aims: bool = False) -> str:
    """Exact answers, probabilities, and where edits act."""
    heads = ["", *(NAMES.get(name, name) for name in EXACT)]
    heads += ["aim"] * aims
    heads += [NAMES.get(name, name) for name in chances]
    heads += ["fires on edits / paraphrases / neighbors"]
    lines = []
    for label, row in rows.items():
        cells = [label, *shares(row, EXACT), *([aimed(label, row)] if aims else [])]
        fired = " / ".join(shares(row, FIRED, 0)) if FIRED[0] in row["figures"] else ""
        lines.append([*cells, *shares(row, chances), fired])
    return table(tuple(heads), lines)


def costs_table(models: Mapping[str, Mapping[str, Row]]) -> str:
    """Seconds, latency and bytes of every method that edits, side by side for each model."""
    heads = [""]
    for title in models:
        heads += [f"{title}: s / 100 edits", "ms more, edited prompt", "ms more, other prompt"]
        heads += ["bytes an edit", "on disk"]
    labels = [
        label
        for label in dict.fromkeys(label for rows in models.values() for label in rows)
        if any("bytes_per_edit" in rows.get(label, {}) for rows in models.values())
    ]
    lines = [
        [label, *(c for rows in models.values() for c in cost(rows, label))] for label in labels
    ]
    return table(tuple(heads), lines)


def cost(rows: Mapping[str, Row], label: str) -> list[str]:
    """One method's costs on one model."""
    row = rows.get(label)
    if row is None or "bytes_per_edit" not in row:
        return [NONE] * 5
    pass_ms = rows["unedited"]["latency"]["silent_ms"]
    more = [
        added(row["latency"], name, pass_ms) for name in ("request_time", "request_time_neighbors")
    ]
    sizes = [f"{row[name]:,}" for name in ("bytes_per_edit", "saved_bytes_per_edit")]
    return [f"{row['seconds_per_100_edits']:.1f}", *more, *sizes]


def added(latency: Mapping[str, Any], name: str, pass_ms: float) -> str:
    """Milliseconds that are added to a request, and the interval of their share of the pass."""
    if name not in latency:
        return "0"
    value, low, high = (percent - 100 for percent in latency[name])
    return f"{pass_ms * value / 100:.1f} ({low:+.0f} to {high:+.0f} %)"


def tables() -> dict[str, str]:
    """All tables of the page, by their marks."""
    found = result("memories")
    rows = {
        f"{model}-{records}": of_records["rows"]
        for model in ("bundled", "reader", "smollm2")
        for records, of_records in found.get(model, {}).items()
    }
    made = {
        name: figures_table(
            of_set,
            ZSRE if name.endswith("zsre") else COUNTERFACT,
            aims=not name.startswith("smollm2"),
        )
        for name, of_set in rows.items()
    }
    titles = {"bundled model": "bundled-world", "SmolLM2": "smollm2-counterfact"}
    models = {title: rows[name] for title, name in titles.items() if name in rows}
    return {**made, "costs": costs_table(models)}


def update(page: Path = PAGE) -> None:
    """Put the tables in their places."""
    for name, text in tables().items():
        fill(page, name, text)


if __name__ == "__main__":
    update()
