"""One HTML page about one or many experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from alphaedit.bench.experiments.published import figures
from alphaedit.bench.experiments.spec import names
from alphaedit.bench.intervals import Rate
from alphaedit.core.files import write_text
from alphaedit.report import charts
from alphaedit.report.figures import svg
from alphaedit.report.page import stylesheet
from alphaedit.report.results import FINE, Group, Results, metrics_of, read

PICTURES = "pictures"


def report(paths: Sequence[Path], out: Path, *, published: bool = False) -> Path:
    """Write the page `out` about the results in `paths`, and their pictures beside each.

    Args:
        published: show the paper's figures beside the tables they belong to.

    Raises:
        DataError: a directory holds no results, or broken ones.
        ResourceError: a file cannot be written.
    """
    runs = read(paths)
    known = names()
    runs.sort(key=lambda r: known.index(r.spec["name"]) if r.spec["name"] in known else -1)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = (files("alphaedit.report") / "experiment.html.j2").read_text(encoding="utf-8")
    sections = [_section(results, published) for results in runs]
    page = environment.from_string(template).render(
        style=stylesheet(),
        title=runs[0].spec["title"] if len(runs) == 1 else "Experiments",
        sections=sections,
    )
    write_text(page, out)
    return out


def _section(results: Results, published: bool) -> dict[str, Any]:
    spec = results.spec
    return {
        "spec": spec,
        "about": {k: v for k, v in results.manifest.items() if k not in ("format", "experiment")},
        "marks": results.marks,
        "unfinished": results.unfinished,
        "tables": [_table(group) for group in results.groups],
        "pictures": _pictures(results),
        "texts": [_texts(group, results) for group in results.groups],
        "published": figures(spec["published"]) if published and spec.get("published") else None,
    }


def _table(group: Group) -> dict[str, Any]:
    """Rows of a main table; each cell has its text, interval and rank."""
    metrics = metrics_of(group.columns)
    best = {metric: group.ranks(metric) for metric in metrics}
    rows = [
        {
            "label": column.label,
            "edits": column.edits,
            "error": column.error,
            "cells": [_cell(column.numbers.get(m), best[m].get(column.label), m) for m in metrics],
        }
        for column in group.columns
    ]
    return {
        "title": group.title,
        "metrics": [m.replace("_", " ") for m in metrics],
        "rows": rows,
        "notes": group.notes,
    }


def _cell(rate: Rate | None, rank: int | None, metric: str) -> dict[str, Any] | None:
    if rate is None:
        return None
    digits = 3 if metric in FINE else 1
    return {
        "value": f"{rate.value:.{digits}f}",
        "interval": f"{rate.low:.{digits}f} to {rate.high:.{digits}f}" if rate.n else "",
        "rank": rank,
    }


def _pictures(results: Results) -> list[dict[str, Any]]:
    """Pictures for the page; each is also saved beside the results, as SVG and PNG."""
    shown = []
    for number, group in enumerate(results.groups):
        for name in results.spec["pictures"]:
            figure = charts.CHARTS[name](group, results)
            if figure is None:
                continue
            stem = f"{name}-{number}" if len(results.groups) > 1 else name
            charts.save(figure, results.path / PICTURES / stem)
            caption = f"{results.spec['name']}: {name}, {group.title}"
            drawn = svg(figure, f"{results.spec['name']}-{results.path.name}-{stem}", caption)
            width = round(105 * float(figure.get_figwidth()))
            shown.append({"svg": Markup(drawn), "caption": caption, "width": width})
    return shown


def _texts(group: Group, results: Results) -> dict[str, Any] | None:
    """Texts after the same prompts, one column for each method."""
    by_label: dict[str, list[Mapping[str, Any]]] = {}
    for column in group.columns:
        extras = results.extras.get(column.cells[0], {})
        if extras and "texts" in extras[max(extras)]:
            by_label[column.label] = extras[max(extras)]["texts"]
    if not by_label:
        return None
    first = next(iter(by_label.values()))
    rows = [
        {**row, "said": [texts[i]["text"] for texts in by_label.values()]}
        for i, row in enumerate(first)
    ]
    return {"title": group.title, "columns": list(by_label), "rows": rows}
