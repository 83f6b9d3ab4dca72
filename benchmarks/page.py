"""The tables and pictures of docs/performance.md, made of benchmarks/results alone."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alphaedit.report.figures import COLOURS, GRID, INK
from benchmarks.machine import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PICTURES = PAGE.with_suffix("")
Bar = tuple[str, float, str]
"""Label, seconds, and the colour's role: plain, ours or floor."""
ROLES = {"plain": COLOURS[1], "ours": COLOURS[0], "floor": GRID}


def result(name: str) -> dict[str, Any]:
    """A benchmark's result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _seconds(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{digits}f} s"


def targets_table() -> str:
    """What was asked for, and what was measured."""
    gpt2, bundled, half = result("gpt2_small"), result("bundled_batch"), result("half")["search"]
    moments, solve, growth, ranks = map(result, ("moments", "solve", "growth", "ranks"))
    plain, fast = gpt2["plain"]["seconds_per_edit"], gpt2["ours"]
    slow, quick = bundled["plain"]["seconds_per_edit"], bundled["ours"]
    exponents = growth["exponents"]
    rows = [
        (
            "an edit on a model of GPT-2-small's shape, batch of 10",
            "8 x",
            f"{gpt2['ratio_same_facts']:.1f} x",
            f"{_seconds(plain)} to {_seconds(fast['10']['seconds_per_edit'])}",
            "gpt2_small",
        ),
        (
            "the same, batch of 100",
            "8 x",
            f"{gpt2['ratio_100_facts']:.1f} x",
            f"{_seconds(plain)} to {_seconds(fast['100']['seconds_per_edit'])}",
            "gpt2_small",
        ),
        (
            "the same, the search's layers in bfloat16",
            "15 x",
            f"{gpt2['ratio_100_facts_bfloat16']:.1f} x",
            f"{_seconds(plain)} to {_seconds(gpt2['bfloat16']['seconds_per_edit'])}",
            "gpt2_small",
        ),
        (
            "efficacy on the bundled model, bfloat16 against float32",
            "same",
            f"{half['bfloat16']['efficacy']:.1f} and {half['float32']['efficacy']:.1f} %",
            f"generalization {half['bfloat16']['generalization']:.1f} and "
            f"{half['float32']['generalization']:.1f} %",
            "half",
        ),
        (
            "an edit on the bundled model, batch of 100",
            "15 x",
            f"{bundled['ratio_100_facts']:.1f} x",
            f"{_seconds(slow)} to {_seconds(quick['100']['seconds_per_edit'])}",
            "gpt2_small --bundled",
        ),
        (
            "the same, batch of 10",
            "",
            f"{bundled['ratio_same_facts']:.1f} x",
            f"{_seconds(slow)} to {_seconds(quick['10']['seconds_per_edit'])}",
            "gpt2_small --bundled",
        ),
        (
            "second moments of 5 layers, GPT-2-small's shape",
            "6 x",
            f"{moments['ratio']:.1f} x",
            f"{_seconds(moments['plain_seconds'])} to {_seconds(moments['seconds'])}",
            "moments",
        ),
        (
            "solve of a batch of 100 at d = 14,336",
            "20 x",
            f"{solve['ratio']:.0f} x",
            f"{_seconds(solve['plain_seconds'])} to {_seconds(solve['system_seconds'])}",
            "solve",
        ),
        (
            "memory of that solve, basis included",
            "under 3 d²",
            f"{_solve_memory(solve):.2f} d²",
            f"plain {solve['plain_held_before_in_dxd_float32'] + _plain_peak(solve):.1f} d²",
            "solve",
        ),
        (
            "growth of a batch's time with past edits, to 10,000: exponent",
            "under 0.1",
            f"{exponents['past_edits']['fitted']:.2f}",
            _ends(growth["series"]["past_edits"], "past_edits"),
            "growth",
        ),
        (
            "growth with the number of facts, 10 to 1,000: exponent",
            "1",
            f"{exponents['facts']['fitted']:.2f}",
            _ends(growth["series"]["facts"], "facts"),
            "growth",
        ),
        (
            "two ranks on two cores, of twice one on one",
            "85 %",
            f"{100 * ranks['of_ideal']:.0f} %",
            f"{_seconds(ranks['one']['seconds'])} to {_seconds(ranks['two']['seconds'])}",
            "ranks",
        ),
    ]
    lines = [
        "| What | At least | Measured | Times | `python -m benchmarks.` |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {a} | {b} | {c} | {d} | `{e}` |" for a, b, c, d, e in rows]
    gpu = RESULTS / "gpu.json"
    if gpu.is_file():
        found = result("gpu")
        lines.append(
            f"| 100 edits, Llama-3-8B's shape, {found['device']} | 15 s | "
            f"{_seconds(found['seconds_per_100_edits'])} | "
            f"{100 * found['search_share_of_matrix_rate']:.0f} % of the matrix rate | `gpu` |"
        )
    else:
        lines.append("| 100 edits, Llama-3-8B's shape, on a GPU | 15 s | not measured | | `gpu` |")
    return "\n".join(lines)


def _solve_memory(solve: dict[str, Any]) -> float:
    return float(solve["system_peak_extra_in_dxd_float32"] + solve["system_basis_in_dxd_float32"])


def _plain_peak(solve: dict[str, Any]) -> float:
    return float(solve["plain_peak_extra_in_dxd_float32"])


def _ends(rows: Sequence[dict[str, Any]], name: str) -> str:
    first, last = rows[0], rows[-1]
    return (
        f"{_seconds(first['seconds'])} at {first[name]:,}, "
        f"{_seconds(last['seconds'])} at {last[name]:,}"
    )


def growth_table() -> str:
    """Exponents, expected and fitted."""
    found = result("growth")
    names = {
        "past_edits": "past edits",
        "facts": "facts",
        "contexts": "contexts",
        "layers": "layers of the model",
        "width": "width of the model",
    }
    lines = ["| Seconds of a batch against | Expected | Fitted |", "|---|---|---|"]
    for key, label in names.items():
        row = found["exponents"][key]
        lines.append(f"| {label} | {row['expected']:.0f} | {row['fitted']:.2f} |")
    return "\n".join(lines)


def floors_table() -> str:
    """Time of each phase and what it cannot do without."""
    found = result("floors")
    lines = ["| Phase | Layers in | Seconds | Floor | Share |", "|---|---|---|---|---|"]
    for dtype, phases in found["phases"].items():
        for name in ("targets", "keys", "solve"):
            one = phases[name]
            lines.append(
                f"| {name} | {dtype} | {_seconds(one['seconds'])} | "
                f"{_seconds(one['floor_seconds'])} | {100 * one['share_of_floor']:.0f} % |"
            )
    return "\n".join(lines)


def memory_table() -> str:
    """Peak memory by phase."""
    moments, planned, floors = result("moments"), result("planned"), result("floors")
    rows = [
        ("second moments, GPT-2-small's shape", moments["peak_bytes"]),
        ("a batch of 50, GPT-2-small's shape", floors["phases"]["float32"]["peak_bytes"]),
        ("second moments, bundled model", planned["peak_bytes"]["second moments"]),
        ("null spaces, bundled model", planned["peak_bytes"]["null space"]),
        ("a batch of 100, bundled model", planned["peak_bytes"]["batch"]),
    ]
    lines = ["| Phase | Peak beside the weights |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {size / 1e6:,.0f} MB |" for name, size in rows)])


def golden_table() -> str:
    """Edits of a real model, by the published code and by this one."""
    found = result("golden")
    theirs, ours = found["published"], found["ours"]
    rows = [("unedited", found["unedited"]), ("published code", theirs)]
    rows += [("`alphaedit-published`", ours["float32"])]
    rows += [("the same, the search's layers in bfloat16", ours["bfloat16"])]
    shares = ("efficacy", "generalization", "specificity", "exact", "exact_paraphrases")
    lines = [
        "| | Efficacy | Generalization | Specificity | Written | Rephrased | Seconds | Faster |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows:
        cells = [name, *(f"{row[share]:.1f}" for share in shares)]
        seconds = row.get("cpu_seconds")
        times = theirs["cpu_seconds"] / seconds if seconds else 0
        cells += [f"{seconds:.0f}", f"{times:.1f} x"] if seconds else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def bars() -> dict[str, tuple[str, list[Bar]]]:
    """For each phase a title and its bars."""
    gpt2, floors = result("gpt2_small"), result("floors")
    moments, space, solve = map(result, ("moments", "nullspace", "solve"))
    facts, plain = floors["facts"], gpt2["plain"]

    def phase(name: str) -> list[Bar]:
        found: list[Bar] = [("plain", plain["phases"][name] / plain["facts"], "plain")]
        for count in gpt2["ours"]:
            ours = gpt2["ours"][count]["phases"][name] / int(count)
            found.append((f"batch of {count}", ours, "ours"))
        if name == "targets":
            half = gpt2["bfloat16"]["phases"][name] / 100
            found.append(("batch of 100, bfloat16", half, "ours"))
        floor = floors["phases"]["float32"][name]["floor_seconds"] / facts
        found.append(("floor in float32", floor, "floor"))
        return found

    return {
        "targets": ("target values, seconds per edit, GPT-2-small's shape", phase("targets")),
        "keys": ("keys and residuals, seconds per edit, GPT-2-small's shape", phase("keys")),
        "solve": (
            "solve of 100 facts at d = 14,336, seconds per layer",
            [
                ("plain", solve["plain_seconds"], "plain"),
                ("factors", solve["system_seconds"], "ours"),
            ],
        ),
        "second-moments": (
            f"second moments of 5 layers, {moments['tokens']:,} tokens, seconds",
            [
                ("plain", moments["plain_seconds"], "plain"),
                ("one pass", moments["seconds"], "ours"),
            ],
        ),
        "null-space": (
            f"null space at d = {space['d_in']:,}, seconds",
            [("SVD", space["svd_seconds"], "plain"), ("eigh", space["spectrum_seconds"], "ours")],
        ),
    }


def draw_bars(title: str, rows: Sequence[Bar], path: Path) -> None:
    """Horizontal bars, each with its seconds."""
    figure = Figure(figsize=(6.4, 0.75 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    _plain_axes(axes)
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    places = range(len(rows))
    drawn = axes.barh(
        places, [v for _, v, _ in rows], height=0.62, color=[ROLES[role] for _, _, role in rows]
    )
    axes.bar_label(drawn, [_seconds(v) for _, v, _ in rows], padding=4, color=INK, fontsize=9)
    axes.set_yticks(places, [label for label, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.18 * max(v for _, v, _ in rows))
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    _save(figure, path)


def _plain_axes(axes: Axes) -> None:
    axes.tick_params(colors=INK, which="both", labelsize=9, length=3)
    for name, side in axes.spines.items():
        side.set_color(GRID)
        side.set_visible(name in ("left", "bottom"))


def draw_growth(path: Path) -> None:
    """Seconds of a batch against each size, both on logarithmic axes, with the fitted line."""
    found = result("growth")
    series: dict[str, list[dict[str, Any]]] = found["series"]
    figure = Figure(figsize=(9.6, 2.3), layout="constrained")
    panels = figure.subplots(1, len(series))
    for axes, (name, rows) in zip(panels, series.items(), strict=True):
        _plain_axes(axes)
        points = [(r[name], r["seconds"]) for r in rows if r[name] > 0]
        fitted = found["exponents"][name]["fitted"]
        used = [p for p in points if name != "facts" or p[0] >= 10]
        middle = [sum(math.log(p[i]) for p in used) / len(used) for i in (0, 1)]
        line = [math.exp(middle[1] + fitted * (math.log(x) - middle[0])) for x, _ in used]
        axes.plot([x for x, _ in used], line, color=GRID, linewidth=2)
        axes.plot(*zip(*points, strict=True), "o", color=COLOURS[0], markersize=5)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.minorticks_off()
        axes.set_xticks([x for x, _ in points], [_short(x) for x, _ in points])
        axes.tick_params(axis="x", labelsize=7.5)
        low, high = min(y for _, y in points), max(y for _, y in points)
        # A flat line must look flat.
        axes.set_ylim(low / 3, max(high * 3, low * 30))
        axes.set_title(
            f"{name.replace('_', ' ')}: {fitted:.2f}", fontsize=10, color=INK, loc="left"
        )
    panels[0].set_ylabel("seconds of a batch", color=INK, fontsize=9)
    _save(figure, path)


def _short(count: int) -> str:
    return f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else str(count)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with rc_context({"svg.hashsalt": "alphaedit", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def update(page: Path = PAGE) -> None:
    """Write pictures, and tables between their marks."""
    tables = {
        "targets": targets_table(),
        "growth": growth_table(),
        "floors": floors_table(),
        "memory": memory_table(),
        "golden": golden_table(),
    }
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        marks = rf"(<!-- {name} -->\n).*?(\n<!-- end -->)"
        text, count = re.subn(marks, lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL)
        if count != 1:
            raise SystemExit(f"{page}: {count} places for the table {name!r}.")
    page.write_text(text, encoding="utf-8")
    for name, (title, rows) in bars().items():
        draw_bars(title, rows, PICTURES / f"{name}.svg")
    draw_growth(PICTURES / "growth.svg")


if __name__ == "__main__":
    update()
