"""Tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alphaedit.cli.output import shorten
from alphaedit.core.text import first_answer, one_line

if TYPE_CHECKING:
    from rich.text import Text

    from alphaedit.core.edit import Answer
    from alphaedit.core.fact import Fact

SHOWN = 25
UNITS = {
    "fluency": "entropy, bits x 100",
    "consistency": "cosine x 100",
    "bytes_per_edit": "bytes",
    "state_bytes_per_edit": "bytes",
    "request_time": "% of the time without",
    "request_time_neighbors": "% of the time without",
    "token_time": "% of the time without",
}
ORDER = (
    "efficacy",
    "efficacy_generate",
    "generalization",
    "generalization_generate",
    "specificity",
    "specificity_generate",
    "edit_success",
    "edit_success_generate",
    "portability",
    "portability_generate",
    "locality",
    "multi_hop",
    "multi_hop_chain",
    "edit_wise",
    "instance_wise",
    "edit_success_judge",
    "generalization_judge",
    "portability_judge",
    "rouge_l_rewrite",
    "rouge_l_paraphrase",
    "bleu_rewrite",
    "bleu_paraphrase",
    "similarity_rewrite",
    "similarity_paraphrase",
    "recall_rewrite",
    "recall_paraphrase",
    "topicality",
    "factual_consistency",
    "internal_consistency",
    "kept",
    "fluency",
    "consistency",
    "negation",
    "true_false",
    "true_false_relative",
    "sa_mcq",
    "sa_mcq_unsure",
    "old_said",
    "old_concluded",
    "fired_edits",
    "fired_paraphrases",
    "fired_neighbors",
    "bytes_per_edit",
    "state_bytes_per_edit",
    "request_time",
    "request_time_neighbors",
    "token_time",
)


def facts_table(
    facts: Sequence[Fact], before: Sequence[Answer], after: Sequence[Answer], title: str
) -> list[Any]:
    """What the model said and says to the prompt of each fact, to be said."""
    from rich.table import Table

    from alphaedit.core.fact_text import says

    table = Table(title=title, title_justify="left")
    for name in ("prompt", "wanted", "before", "after"):
        table.add_column(name, overflow="fold")
    table.add_column("p(wanted)", justify="right", no_wrap=True)
    for fact, old, new in list(zip(facts, before, after, strict=True))[:SHOWN]:
        holds = says(new.text, fact.target)
        table.add_row(
            cell(shorten(fact.text, 70)),
            cell(fact.target),
            cell(first_answer(old.text)),
            cell(first_answer(new.text), style="green" if holds else "yellow"),
            f"{probability(old.p_target)} -> {probability(new.p_target)}",
        )
    return [table, *([f"... and {len(facts) - SHOWN} more."] if len(facts) > SHOWN else [])]


def cell(text: str, style: str = "") -> Text:
    """Text of others in one line, for a table."""
    from rich.text import Text

    return Text(one_line(text), style=style)


def probability(p: float) -> str:
    """A probability in percent."""
    return f"{100 * p:.1f} %" if p >= 0.0005 else "<0.1 %"


def metrics_table(
    columns: Mapping[str, Mapping[str, Mapping[str, Any] | None]], title: str
) -> list[Any]:
    """Metrics (plain data, as in JSON) side by side, in the order of the papers, to be said."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("metric", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("n", justify="right")
    for metric in ORDER:
        cells = [column.get(metric) for column in columns.values()]
        counts = [str(cell["n"]) for cell in cells if cell]
        if not counts:
            continue
        unit = f" ({UNITS[metric]})" if metric in UNITS else " (%)"
        table.add_row(metric.replace("_", " ") + unit, *map(rate, cells), counts[-1])
    return [table, cell("In brackets: 95 % intervals.", "dim")]


def strict_notes(before: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """What the unedited model's scores in the stricter probes say of them, to be said."""
    from alphaedit.bench.intervals import Rate
    from alphaedit.bench.strict import STRICT, caveats

    return caveats({name: Rate(**numbers) for name in STRICT if (numbers := before.get(name))})


def rate(cell: Mapping[str, Any] | None) -> str:
    """A value with its interval."""
    if cell is None:
        return "-"
    return f"{cell['value']:.1f} ({cell['low']:.1f} to {cell['high']:.1f})"


def null_space_table(rows: Sequence[tuple[str, Mapping[str, Any]]], title: str) -> list[Any]:
    """Size and leak of the null space of each layer, to be said."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    names = ("keys", "null space", "energy left", "|C P|/|C|", "threshold", "eigenvalues")
    table.add_column("layer")
    for name in names:
        table.add_column(name, justify="right")
    for layer, row in rows:
        table.add_row(
            layer,
            str(row["d_in"]),
            f"{row['dim']} ({100 * row['dim'] / row['d_in']:.0f} %)",
            f"{100 * row['energy_left']:.2f} %",
            f"{row['leak']:.2g}",
            f"{row['threshold']:.3g}",
            f"{row['smallest']:.2g} to {row['largest']:.3g}",
        )
    shown: list[Any] = [table]
    for layer, row in rows:
        if row["massive"]:
            shown.append(
                f"Layer {layer}: {100 * row['massive_share']:.2g} % of the keys hold "
                f"{100 * row['massive_energy']:.1f} % of the energy (massive activations): "
                f"preserved exactly, by {row['massive']} directions, and not counted."
            )
        if row["doubt"]:
            shown.append(cell(f"Layer {layer}: the null space {row['doubt']}.", "yellow"))
    return shown


def seconds_line(seconds: Mapping[str, float]) -> str:
    """Time by phase, in one line; parts of an edit in brackets behind it."""
    outer = [name for name in ("model", "edit", "evaluation") if name in seconds]
    inner = [name for name in seconds if name not in outer] if "edit" in outer else []
    shown = outer if inner else list(seconds)
    texts = {name: f"{name} {spent:.2f} s" for name, spent in seconds.items()}
    parts = ", ".join(texts[name] for name in inner if seconds[name] >= 0.005)
    if parts:
        texts["edit"] += f" ({parts})"
    return "Time: " + ", ".join(texts[name] for name in shown)
