"""Tables of docs/methods/learned.md and longform.md, made of their results files alone.

python -m benchmarks.learned_page
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.real_page import ROOT, fill, result, table

PAGE = ROOT / "docs" / "methods" / "learned.md"
LONG_PAGE = ROOT / "docs" / "methods" / "longform.md"
CHANCES = ("efficacy", "generalization", "specificity")
EXACT = ("rewrite", "paraphrase", "neighbors_kept")
QUESTIONS = ("edit_success", "generalization", *EXACT)
LONG = ("edit_success", "rouge_l", "bleu", "similarity", "portability")
NAMES = {
    "rewrite": "said: edits",
    "paraphrase": "said: paraphrases",
    "neighbors_kept": "neighbors kept",
    "edit_success": "tokens right",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "portability": "sub-questions",
}
NONE = "-"
BY_NETWORK = ("small", "tasks")
"""Parts without seconds; see `learned_data`."""
Row = Mapping[str, Any]


def value(row: Row, name: str) -> str:
    """A figure, or a dash."""
    found = row["figures"].get(name)
    return NONE if found is None else f"{found[0]:.1f}"


def heads_of(names: Sequence[str]) -> list[str]:
    """As columns are called."""
    return [NAMES.get(name, name) for name in names]


def part_table(rows: Mapping[str, Row], names: Sequence[str], *, timed: bool = True) -> str:
    """One row for each method, with its seconds if they are measured."""
    heads = ["", *heads_of(names), *(["seconds an edit", "the method alone"] * timed)]
    lines = []
    for label, row in rows.items():
        seconds = seconds_of(row) if timed else []
        lines.append([label, *(value(row, name) for name in names), *seconds])
    return table(tuple(heads), lines)


def seconds_of(row: Row) -> list[str]:
    """Of an edit, in all and by the method alone; of several in force, their mean."""
    if "seconds_per_edit" in row:
        return [f"{row[name]:.3f}" for name in ("seconds_per_edit", "solve_seconds_per_edit")]
    if "seconds" in row:
        return [f"{row[name] / row['edits']:.3f}" for name in ("seconds", "solve_seconds")]
    return ["", ""]


def curve_table(training: Row) -> str:
    """What was measured on facts set aside while an editor was trained."""
    names = [name for name in training["curve"][0] if name not in ("step", "score")]
    lines = [
        [f"{point['step']:.0f}", *(f"{point[name]:.1f}" for name in names)]
        for point in training["curve"]
    ]
    return table(("step", *(name.replace("_", " ") for name in names)), lines)


def trainings_table(trainings: Mapping[str, Row]) -> str:
    """What each editor was trained on, for how long, and what it then did on facts set aside."""
    lines = []
    for name, row in trainings.items():
        best = row["measured"]
        seconds = NONE if row["seconds"] is None else f"{row['seconds']:,}"
        figures = " / ".join(f"{best[share]:.1f}" for share in CHANCES)
        steps = f"{row['steps']} of {row['curve'][-1]['step']:.0f}"
        lines.append([name, f"{row['facts']:,}", steps, seconds, figures])
    heads = ("", "facts", "best step", "seconds", "efficacy / generalization / specificity")
    return table(heads, lines)


def measured(name: str) -> dict[str, Any]:
    """A results file; nothing where nothing is measured yet."""
    return result(name) if (RESULTS / f"{name}.json").is_file() else {}


def learned_tables() -> dict[str, str]:
    """All tables of learned editors, by their marks."""
    found = measured("learned")
    made = {}
    for part, rows in found.items():
        name = part.replace(", ", "-")
        if part == "zsre":
            made[name] = part_table(rows, QUESTIONS)
        elif part in ("single", "sequence", "fours", "batch"):
            made[name] = part_table(rows, (*CHANCES, *EXACT))
        elif part.partition(",")[0] in BY_NETWORK:
            made[name] = part_table(rows, CHANCES, timed=False)
    trainings = found.get("trainings", {})
    made["trainings"] = trainings_table(trainings)
    if "mend-smollm2" in trainings:
        made["zsre-curve"] = curve_table(trainings["mend-smollm2"])
    return made


def long_tables() -> dict[str, str]:
    """All tables of long targets."""
    made = {}
    for title, part in measured("longform").items():
        if not isinstance(part, Mapping) or "rows" not in part:
            continue
        names = [
            name
            for kind in LONG
            for name in ((kind,) if kind in ("edit_success", "portability") else both(kind))
            if any(name in row["figures"] for row in part["rows"].values())
        ]
        heads = ["", *(long_head(name) for name in names), "seconds a fact"]
        lines = [
            [label, *(value(row, n) for n in names), f"{row.get('seconds_per_fact', '')}"]
            for label, row in part["rows"].items()
        ]
        made[title] = table(tuple(heads), lines)
    return made


def both(kind: str) -> tuple[str, str]:
    """A metric of answers to the edit's own prompt, and to paraphrases."""
    return f"{kind}_rewrite", f"{kind}_paraphrase"


def long_head(name: str) -> str:
    """How a column of long answers is called."""
    for suffix, more in (("_rewrite", ""), ("_paraphrase", ", paraphrase")):
        if name.endswith(suffix):
            kind = name.removesuffix(suffix)
            return NAMES.get(kind, kind) + more
    return NAMES.get(name, name)


def update() -> None:
    """Put the tables in their places."""
    for page, tables in ((PAGE, learned_tables()), (LONG_PAGE, long_tables())):
        for name, text in tables.items():
            fill(page, name, text)


if __name__ == "__main__":
    update()
