"""Tables of real models in README.md and docs, from their results files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

ROOT = Path(__file__).resolve().parents[1]
TITLES = {"smollm2": "SmolLM2 135M", "gemma": "Gemma 3 270M"}
SHARES = ("efficacy", "generalization", "specificity", "exact", "exact_paraphrases")
# Of the version before this one, on the same machine; nothing where there was no such thing.
BEFORE = (534.0, 70.0, 13.7, 5.2, 56.0, 47.5, 33.7, None, None, 52.0)
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
    """Means over the draws, unedited and edited."""
    found, rows = result("unknown"), []
    for model, title in TITLES.items():
        for state in ("unedited", "edited"):
            mean = found[model]["mean"][state]
            rows.append([f"{title}, {state}", *(f"{mean[share]:.1f}" for share in SHARES)])
    return table(("", *HEADS), rows)


def stretches_table() -> str:
    """Every stretch that was tried, the chosen one in bold."""
    found, chosen, rows = result("stretches"), result("unknown"), []
    for model, title in TITLES.items():
        first = chosen[model]["draws"][0]["edited"]
        tried = [(row["layers"], row) for row in found[model]]
        own = first["chosen"]["layers"]
        tried = sorted([(at, row) for at, row in tried if at != own] + [(own, first)])
        for layers, row in tried:
            shares = [f"{row[share]:.1f}" for share in (*SHARES, "score")]
            mark = "**" if layers == own else ""
            rows.append([title, f"{mark}{layers[0]} to {layers[-1]}{mark}", *shares])
    return table(("model", "layers", *HEADS, "score"), rows)


def speed_table() -> str:
    """What a user waits for, beside the version before."""
    found = result("real_speed")
    inside, batches, commands = found["inside"], found["batches"], found["commands"]
    tokens, peak = inside["tokens"], inside["peak bytes"] / 2**30
    measured = {
        "first edit, empty cache": commands["first, from cold"],
        "edit with layers known, no second moments": commands["layers known, no second moments"],
        "later edit": commands["later"],
        "later edit inside a process": inside["edit"],
        f"second moments of the chosen layers ({tokens:,} tokens)": inside["second moments"],
        "20 facts, layers 8 to 12, published settings, float32": batches["adam, float32"],
        "the same, search in bfloat16": batches["adam, bfloat16"],
        "20 facts, layers 8 to 12, quasi-Newton, float32": batches["lbfgs, float32"],
        "the same, search in bfloat16 ": batches["lbfgs, bfloat16"],
        "evaluation of 100 CounterFact records": batches["evaluation"],
    }
    rows = []
    for (name, value), before in zip(measured.items(), BEFORE, strict=True):
        seconds = value["seconds"] if isinstance(value, dict) else value
        cells = [name.strip(), f"{before:.1f}" if before else "", f"{seconds:.1f}"]
        quality = [f"{value[k]:.1f}" for k in SHARES[:3]] if isinstance(value, dict) else []
        rows.append([*cells, " / ".join(quality)])
    rows.append(["peak of memory beside the weights, first edit", "", f"{peak:.2f} GiB", ""])
    return table(("", "seconds before", "seconds", "efficacy / gen. / spec."), rows)


def update() -> None:
    """Put the tables in their places."""
    for place, name, text in (
        ("README.md", "real", unknown_table()),
        ("docs/tuning.md", "stretches", stretches_table()),
        ("docs/performance.md", "real-speed", speed_table()),
    ):
        page = ROOT / place
        marks = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        new, count = re.subn(
            marks,
            lambda m, text=text: m[1] + text + m[2],
            page.read_text(encoding="utf-8"),
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{page}: {count} places for the table {name!r}.")
        page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    update()
