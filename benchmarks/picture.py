"""README's first picture, from results/deploy.json: one file, one adapter, before and after.

python -m benchmarks.picture
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "one-fact.svg"
WIDTH, TOP, ROW = 880, 148, 34
INK, SOFT, LINE, NEW, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#1a7f37", "#ffffff"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
MONO = "font-family='ui-monospace, SFMono-Regular, Menlo, Consolas, monospace'"


def text(
    x: float, y: float, content: str, *, size: int = 14, fill: str = INK, more: str = FONT
) -> str:
    """One line of text."""
    return f"<text x='{x}' y='{y}' font-size='{size}' fill='{fill}' {more}>{escape(content)}</text>"


def box(x: float, y: float, width: float, title: str, under: str, stroke: str) -> str:
    """A file, with its name and what is to be said of it."""
    frame = (
        f"<rect x='{x}' y='{y}' width='{width}' height='58' rx='8' fill='{PAPER}' "
        f"stroke='{stroke}' stroke-width='1.5'/>"
    )
    return (
        frame
        + text(x + 16, y + 25, title, more=MONO)
        + text(x + 16, y + 45, under, size=13, fill=SOFT)
    )


def first_words(answer: str) -> str:
    """An answer up to its first full stop or comma."""
    cut = min((at for at in (answer.find(c) for c in ".,") if at >= 0), default=len(answer))
    return answer[:cut].strip()


def picture(found: dict[str, Any]) -> str:
    """The SVG."""
    base, edited = found["base"], found["gguf-lora"]
    mega, kilo = base["bytes"] / 1e6, edited["bytes"] / 1e3
    rows = [
        (p, first_words(a), first_words(edited["answers"][p])) for p, a in base["answers"].items()
    ]
    height = TOP + ROW * (len(rows) + 1) + 16
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' "
        f"role='img' aria-label='One fact changed in llama.cpp by an adapter of {kilo:.0f} kB'>",
        f"<rect width='{WIDTH}' height='{height}' fill='{PAPER}'/>",
        box(20, 20, 370, "SmolLM2-135M-Instruct.Q4_1.gguf", f"{mega:.0f} MB, untouched", LINE),
        text(410, 56, "+", size=24, fill=SOFT),
        box(444, 20, 240, "my-adapter.gguf", f"{kilo:.0f} kB, one fact", NEW),
        text(704, 56, "in llama.cpp", size=15, fill=SOFT),
        text(20, TOP - 14, "prompt", size=13, fill=SOFT),
        text(484, TOP - 14, "the file alone", size=13, fill=SOFT),
        text(684, TOP - 14, "with the adapter", size=13, fill=SOFT),
    ]
    for index, (prompt, before, now) in enumerate(rows):
        y = TOP + ROW * index
        parts.append(f"<line x1='20' x2='{WIDTH - 20}' y1='{y}' y2='{y}' stroke='{LINE}'/>")
        changed = before.split()[:1] != now.split()[:1]
        bold = FONT + " font-weight='600'" if changed else FONT
        parts += [
            text(20, y + 22, prompt),
            text(484, y + 22, before, fill=SOFT),
            text(684, y + 22, now, fill=NEW if changed else SOFT, more=bold),
        ]
    parts.append(text(20, height - 14, "Greedy answers, as measured.", size=12, fill=SOFT))
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Draw it."""
    found = json.loads((RESULTS / "deploy.json").read_text(encoding="utf-8"))
    PICTURE.write_text(picture(found), encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
