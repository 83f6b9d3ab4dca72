"""One self-contained HTML page about a run of edits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment

from alphaedit.core.edit import Edit
from alphaedit.core.errors import ResourceError
from alphaedit.report.figures import curves_figure, spectrum_figure, svg

SHOWN = 30
CURVES = ("efficacy", "generalization", "specificity", "kept")


def _cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "–"
    return f"{rate['value']:.1f} [{rate['low']:.1f}, {rate['high']:.1f}]"


def _changed(edit: Edit) -> list[dict[str, str]]:
    return [
        {
            "prompt": fact.text,
            "target": fact.target,
            "before": old.text.strip(),
            "after": new.text.strip(),
            "p_before": f"{100 * old.p_target:.1f} %",
            "p_after": f"{100 * new.p_target:.1f} %",
        }
        for fact, old, new in zip(edit.facts, edit.before, edit.after, strict=True)
    ]


def render(
    *,
    title: str,
    subtitle: str,
    command: str,
    edits: Sequence[Edit],
    runs: Mapping[str, Mapping[str, Any]],
    unchanged: Sequence[Mapping[str, str]] = (),
    spectra: Mapping[int, Sequence[float]] | None = None,
    thresholds: Mapping[int, float] | None = None,
) -> str:
    """The page as text.

    Args:
        edits: shown in full, before and after.
        runs: for each method the plain data of its RunResult; the first one gives the summary.
        unchanged: prompts about other facts, with "before" and "after".
        spectra: eigenvalues by layer.
    """
    first = next(iter(runs.values()))
    changed = [row for edit in edits for row in _changed(edit)]
    names = [n for n in first["before"] if first["before"][n] and not n.endswith("_magnitude")]
    metrics = [
        {
            "name": name.replace("_", " "),
            "cells": [_cell(first["before"][name]), *(_cell(r.get(name)) for r in runs.values())],
        }
        for name in names
    ]
    cards = [
        {"label": name, "value": f"{first[name]['value']:.1f}", "note": f"n = {first[name]['n']}"}
        for name in ("efficacy", "generalization", "specificity", "kept")
        if first.get(name)
    ]
    figures = []
    curves = {name: run["curve"] for name, run in runs.items() if run.get("curve")}
    if curves:
        shown = [m for m in CURVES if any(row.get(m) for c in curves.values() for row in c)]
        figures.append(
            {
                "title": "Over sequential edits",
                "note": "Each point tests all facts edited so far; 'kept' tests facts never edited.",
                "svg": svg(curves_figure(curves, shown)),
            }
        )
    if spectra:
        figures.append(
            {
                "title": "Spectrum of the preserved keys",
                "note": "Directions of little energy carry little of what the model knows.",
                "svg": svg(spectrum_figure(spectra, thresholds)),
            }
        )
    null_space = [
        {
            "name": name,
            "d_in": row["d_in"],
            "dim": row["dim"],
            "energy": f"{100 * row['energy_left']:.2f} %",
            "leak": f"{row['leak']:.2g}",
        }
        for name, row in first.get("null_space", {}).items()
    ]
    settings = [*first["hyperparameters"].items(), *first["versions"].items()]
    settings += [(f"seconds, {k}", f"{v:.2f}") for k, v in first["seconds"].items()]
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = (files("alphaedit.report") / "report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        title=title,
        subtitle=subtitle,
        command=command,
        cards=cards,
        changed=changed[:SHOWN],
        hidden=max(0, len(changed) - SHOWN),
        unchanged=unchanged,
        methods=list(runs),
        metrics=metrics,
        figures=figures,
        null_space=null_space,
        settings=settings,
    )


def write(page: str, path: Path) -> Path:
    """Write a page, all or nothing.

    Raises:
        ResourceError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(
            f"Cannot write {path}: {error}.", remedy="Free some space or choose another directory."
        ) from error
    return path
