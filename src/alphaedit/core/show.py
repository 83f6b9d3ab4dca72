"""Edits in words: a few lines for a terminal, a table for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from alphaedit.core.text import one_line

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit

NAMED = 3
"""Failing facts that a sentence names."""
ROWS = 50
"""Facts that a table shows."""


def short(text: str, length: int = 60) -> str:
    """A text on one line of at most `length` characters, fit to be shown."""
    line = one_line(" ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def seconds_text(seconds: float) -> str:
    """Seconds, as precise as one wants to know them."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def summary(edit: Edit) -> str:
    """What an edit did, in a few lines."""
    count = len(edit.facts)
    lines = [f"Edit {edit.id} by {edit.method}: {count} fact{'s' if count != 1 else ''}"]
    if edit.verdict:
        lines[0] += f"; {len(edit.holds)} of {count} hold"
        lines += [f"  does not hold: {failure}" for failure in failing(edit)]
    for name, row in edit.null_space.items():
        lines.append(f"  {name}: null space {row.get('dim')} of {row.get('d_in')}")
    changed = [f"{name} (rank {change.rank})" for name, change in edit.patch.weights.items()]
    if not edit.null_space and changed:
        lines.append(f"  changes {', '.join(changed)}")
    if edit.seconds:
        parts = (f"{name} {seconds_text(spent)}" for name, spent in edit.seconds.items())
        lines.append(f"  time: {', '.join(parts)}")
    if edit.drift:
        lines.append("  drift: " + ", ".join(f"{k} {v:.4g}" for k, v in edit.drift.items()))
    return "\n".join(lines)


def failing(edit: Edit) -> list[str]:
    """What the model says in place of each target that does not hold."""
    return [
        said_instead(fact.text, edit.after[i].text if i < len(edit.after) else "", fact.target)
        for i, (fact, right) in enumerate(zip(edit.facts, edit.verdict, strict=False))
        if not right
    ]


def said_instead(prompt: str, answer: str, target: str) -> str:
    """One failing fact."""
    return f"{short(prompt)!r} says {short(answer, 30)!r}, wanted {short(target, 30)!r}"


def named(texts: Sequence[str]) -> str:
    """The first of some texts, and how many more there are."""
    more = len(texts) - NAMED
    return "; ".join(texts[:NAMED]) + (f"; and {more} more" if more > 0 else "")


def html(edit: Edit) -> str:
    """An edit for a notebook."""
    rows = []
    verdict = dict(enumerate(edit.verdict))
    for i, fact in enumerate(edit.facts[:ROWS]):
        before = edit.before[i].text if i < len(edit.before) else ""
        after = edit.after[i].text if i < len(edit.after) else ""
        right = verdict.get(i)
        mark = "" if right is None else "✓" if right else "✗"
        rows.append((fact.text, fact.target, short(before, 40), short(after, 40), mark))
    head = summary(edit).split("\n")[0]
    more = len(edit.facts) - ROWS
    tail = f"<p>… and {more} more.</p>" if more > 0 else ""
    return (
        f"<p>{escape(head)}</p>"
        + table_html(("prompt", "wanted", "before", "after", "holds"), rows)
        + tail
    )


def table_html(names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A plain table of escaped texts."""
    head = "".join(f"<th style='text-align:left'>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>"
        + "".join(f"<td style='text-align:left'>{escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
