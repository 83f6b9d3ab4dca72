"""Tables of real models in README.md and docs, from their results files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.turns import SHOWN

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"smollm2": "SmolLM2 135M", "gemma": "Gemma 3 270M"}
SHARES = ("efficacy", "generalization", "specificity", "exact", "exact_paraphrases")
# Of the version before this one, on the same machine; nothing where there was no such thing.
BEFORE = {
    "first edit, empty cache": 534.0,
    "edit with layers known, no second moments": 70.0,
    "later edit": 13.7,
    "later edit inside a process": 5.2,
    "second moments of the chosen layers (30,720 tokens)": 56.0,
    "20 facts, layers 8 to 12, published settings": 47.5,
    "the same, search in bfloat16": 33.7,
    "evaluation of 100 CounterFact records": 52.0,
}
"""Seconds of the first version, by the rows of the table of speed."""
HEADS = ("efficacy", "generalization", "specificity", "written", "written, rephrased")


def result(name: str) -> dict[str, Any]:
    """A results file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def unknown_table() -> str:
    """Means over the draws: unedited, edited by default, and by a change of weights."""
    found, rows = result("unknown"), []
    for model, title in TITLES.items():
        states = (
            (model, "unedited", ""),
            (f"{model}, gated", "edited", ""),
            (model, "edited", ", `alphaedit-weighted`"),
        )
        for name, state, by in states:
            mean = found[name]["mean"][state]
            rows.append([f"{title}, {state}{by}", *(f"{mean[share]:.1f}" for share in SHARES)])
    return table(("", *HEADS), rows)


def stretches_table() -> str:
    """Every stretch that was tried, the chosen one in bold."""
    found, chosen, rows = result("stretches"), result("unknown"), []
    for model, title in TITLES.items():
        first = chosen[model]["draws"][0]["edited"]
        own = first["chosen"]["layers"]
        # Of one run all of them, if it had the chosen one too.
        tried = {tuple(own): first, **{tuple(row["layers"]): row for row in found[model]}}
        for layers, row in sorted(tried.items()):
            shares = [f"{row[share]:.1f}" for share in (*SHARES, "score")]
            mark = "**" if list(layers) == own else ""
            rows.append([title, f"{mark}{layers[0]} to {layers[-1]}{mark}", *shares])
    return table(("model", "layers", *HEADS, "score"), rows)


def turns_table() -> str:
    """Searches that read all prompts in a step, or a part of them."""
    rows = []
    for model, found in result("turns")["models"].items():
        first = found["rows"][0]["seconds"]
        for row in found["rows"]:
            shares = [f"{row[name][0]:.1f}" for name in SHOWN if name in row]
            times = f"{row['seconds'] / first:.2f}"
            rows.append([f"{model}, {found['facts']} facts", str(row["turns"]), *shares, times])
    return table(("", "turns", *HEADS, "processor time"), rows)


SPEED = {
    "first edit, empty cache": ("commands", "first, from cold"),
    "edit with layers known, no second moments": ("commands", "layers known, no second moments"),
    "later edit": ("commands", "later"),
    "later edit inside a process": ("inside", "edit"),
    "second moments of the chosen layers (30,720 tokens)": ("inside", "second moments"),
    "20 facts, layers 8 to 12, published settings": ("batches", "adam, float32"),
    "the same, search in bfloat16": ("batches", "adam, bfloat16"),
    "the same, prompts in two turns": ("batches", "adam in turns, float32"),
    "the same, quasi-Newton steps": ("batches", "lbfgs, float32"),
    "the same, quasi-Newton steps in bfloat16": ("batches", "lbfgs, bfloat16"),
    "the searches alone by a plain loop, fact after fact": ("batches", "plain loop"),
    "evaluation of 100 CounterFact records": ("batches", "evaluation"),
}
"""Rows of the table of speed, and where they stand in the results."""


def speed_table() -> str:
    """What a user waits for, beside the version before."""
    now, other = result("real_speed"), result("real_speed_bfloat16")
    rows = []
    for name, (part, key) in SPEED.items():
        value, earlier = now[part].get(key), other[part].get(key)
        before = BEFORE.get(name)
        cells = [name, "" if before is None else f"{before:.1f}"]
        cells += ["" if v is None else f"{seconds(v):.1f}" for v in (earlier, value)]
        shown = value or earlier
        told = isinstance(shown, dict) and SHARES[0] in shown
        quality = [f"{shown[k]:.1f}" for k in SHARES[:3]] if told else []
        rows.append([*cells, " / ".join(quality)])
    peaks = [f"{found['inside']['peak bytes'] / 2**30:.2f} GiB" for found in (other, now)]
    rows.append(["peak of memory beside the weights, first edit", "", *peaks, ""])
    heads = ("", "first version", "with bfloat16", "float32", "efficacy / gen. / spec.")
    return table(heads, rows)


def seconds(value: Any) -> float:
    """Of a row that holds them alone, or figures beside them."""
    return float(value["seconds"] if isinstance(value, dict) else value)


RUNS = {
    "real-main-table": (
        *("efficacy", "generalization", "specificity", "fluency", "consistency", "kept"),
        *("efficacy_generate", "generalization_generate", "kl", "perplexity"),
    ),
    "real-general-ability": (
        *("efficacy", "generalization", "specificity", "kept", "efficacy_generate", "kl"),
        *("perplexity", "ability:sst2", "ability:mrpc", "ability:cola", "ability:rte"),
        *("ability:nli", "ability:mmlu"),
    ),
    "real-threshold": ("efficacy", "generalization", "specificity", "kl", "null_share"),
    "real-plug-in": ("efficacy", "generalization", "specificity", "kept"),
    "real-plug-in-rome": ("efficacy", "generalization", "specificity", "efficacy_generate", "kept"),
    "real-zsre": ("edit_success", "generalization", "locality", "kept"),
    "real-k0-size": ("efficacy", "generalization", "specificity", "kl", "null_share"),
    "real-gemma": (
        *("efficacy", "generalization", "specificity", "kept", "efficacy_generate"),
        *("generalization_generate", "kl", "perplexity"),
    ),
}
"""Tables of docs/experiments.md, and their columns."""
FINE = ("kl", "null_share")


def run_table(name: str) -> str:
    """One run of `real_experiments`, the best of each column in bold."""
    run = result("real_experiments")["runs"][name]
    # A run that was stopped on the way has no last numbers; what it has is in the curve.
    run["rows"] = [r for r in run["rows"] if r["edits"] in (0, run["edits"])]
    shown = [m for m in RUNS[name] if any(m in row["numbers"] for row in run["rows"])]
    edited = [row for row in run["rows"] if row["label"] != "unedited"]
    best = {}
    for metric in shown:
        values = [r["numbers"][metric][0] for r in edited if metric in r["numbers"]]
        best[metric] = (min if metric in ("kl", "perplexity") else max)(values)
    rows = []
    for row in run["rows"]:
        cells = [row["label"]]
        for metric in shown:
            value = row["numbers"].get(metric, [None])[0]
            text = "-" if value is None else f"{value:.{3 if metric in FINE else 1}f}"
            bold = row in edited and value == best[metric] and metric != "null_share"
            cells.append(f"**{text}**" if bold else text)
        rows.append(cells)
    heads = ("", *(m.removeprefix("ability:").replace("_", " ") for m in shown))
    return table(heads, rows)


def curve_table(name: str, metrics: tuple[str, ...] = ("efficacy", "kept", "perplexity")) -> str:
    """The numbers on the way: efficacy / kept / perplexity."""
    run = result("real_experiments")["runs"][name]
    rows = [row for row in run["rows"] if row["label"] != "unedited"]
    at = sorted({int(edits) for row in rows for edits in row["curve"]})
    lines = [
        [
            row["label"],
            *(
                " / ".join(f"{row['curve'][str(e)][m]:.1f}" for m in metrics)
                if str(e) in row["curve"]
                else "-"
                for e in at
            ),
        ]
        for row in rows
    ]
    return table(("", *(f"{edits} edits" for edits in at)), lines)


def runs() -> list[tuple[str, str, str]]:
    """The tables of runs that are there."""
    there = result("real_experiments")["runs"]
    page = "docs/experiments.md"
    found = [(page, name, run_table(name)) for name in RUNS if name in there]
    name = "real-general-ability"
    return [*found, (page, f"{name}-curve", curve_table(name))] if name in there else found


def update() -> None:
    """Put the tables in their places."""
    for place, name, text in (
        ("README.md", "real", unknown_table()),
        ("docs/tuning.md", "stretches", stretches_table()),
        ("docs/performance.md", "real-speed", speed_table()),
        ("docs/performance.md", "real-turns", turns_table()),
        *runs(),
    ):
        fill(ROOT / place, name, text)


def fill(page: Path, name: str, text: str) -> None:
    """Put a table between its marks in a page."""
    marks = rf"(<!-- {name} -->\n).*?(?=<!-- end -->)"
    old = page.read_text(encoding="utf-8")
    new, count = re.subn(marks, lambda m: m[1] + text + "\n", old, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{page}: {count} places for the table {name!r}.")
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    update()
