"""One self-contained HTML page about edits: what changed, what did not, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from alphaedit.bench.intervals import Rate
from alphaedit.core.edit import Answer
from alphaedit.core.fact_text import says
from alphaedit.core.files import write_text
from alphaedit.core.site import Site
from alphaedit.report.figures import curve_panel, spectrum_panel, svg

FIRST, SHOWN = 12, 60
"""Facts listed at once, and those that unfold; all count in the metrics."""

# Name, what it says, and unit, in the order of the papers' tables.
METRICS = (
    ("efficacy", "the new object is likelier than the old, on the edited prompt", "%"),
    ("efficacy_generate", "the model says the new object, on the edited prompt", "%"),
    ("generalization", "the new object is likelier than the old, on paraphrases", "%"),
    ("generalization_generate", "the model says the new object, on paraphrases", "%"),
    ("specificity", "the true object is likelier than the new, on neighboring subjects", "%"),
    ("specificity_generate", "the model says the true object, on neighboring subjects", "%"),
    ("kept", "the model says the true object, on facts that were not edited", "%"),
    ("fluency", "entropy of word pairs and triples in sampled text, bits x 100", ""),
    ("consistency", "likeness of sampled text to reference text, cosine x 100", ""),
)
CARDS = ("efficacy", "generalization", "specificity", "kept")
CURVES = ("efficacy", "generalization", "specificity", "kept")


@dataclass(frozen=True)
class Changed:
    """A fact with what the model said before and says now."""

    prompt: str
    wanted: str
    before: Answer
    after: Answer

    @property
    def holds(self) -> bool:
        """Whether the model now says what it should."""
        return says(self.after.text, self.wanted)


@dataclass(frozen=True)
class Asked:
    """A prompt with the model's words before and after; `answer` is the known one, if any."""

    prompt: str
    before: str
    after: str
    answer: str | None = None

    @property
    def same(self) -> bool:
        """Whether nothing changed."""
        return self.before.strip() == self.after.strip()


@dataclass(frozen=True)
class Curve:
    """Metrics of one method over sequential edits.

    Attributes:
        rows: "edits", and metrics as {"value", "low", "high", "n"}.
    """

    method: str
    rows: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class LayerSpectrum:
    """Eigenvalues of one layer's or expert's second moment, and the null space chosen."""

    layer: Site
    values: Sequence[float]
    dim: int
    threshold: float
    energy_left: float
    leak: float


@dataclass(frozen=True)
class Report:
    """What a page shows; parts that are empty are left out.

    Attributes:
        command: the exact command that made it.
        metrics: by column ("unedited", a method, ...); the first is the baseline, the second is
            summed up at the top.
    """

    title: str
    subtitle: str
    command: str
    changed: Sequence[Changed] = ()
    rephrased: Sequence[Asked] = ()
    unrelated: Sequence[Asked] = ()
    metrics: Mapping[str, Mapping[str, Rate | None]] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    curves_note: str = ""
    spectra: Sequence[LayerSpectrum] = ()
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def render(report: Report) -> str:
    """The page as text. Everything that comes from outside is escaped."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "rate": _rate,
        "probability": _probability,
        "width": _width,
        "answer": _answer,
    }
    template = (files("alphaedit.report") / "report.html.j2").read_text(encoding="utf-8")
    columns = list(report.metrics)
    rows = [
        (name.replace("_", " "), meaning, unit, [report.metrics[c].get(name) for c in columns])
        for name, meaning, unit in METRICS
        if any(report.metrics[c].get(name) for c in columns)
    ]
    return environment.from_string(template).render(
        style=stylesheet(),
        report=report,
        changed=report.changed[:SHOWN],
        first=FIRST,
        hidden=max(0, len(report.changed) - SHOWN),
        columns=columns,
        rows=rows,
        cards=_cards(report, columns),
        curves=_curves(report, columns),
        spectra=[(layer, _spectrum(layer)) for layer in report.spectra],
    )


def stylesheet() -> Markup:
    """The look of all pages."""
    return Markup((files("alphaedit.report") / "style.css").read_text(encoding="utf-8"))


def _cards(report: Report, columns: list[str]) -> list[tuple[str, Rate, Rate | None]]:
    if not columns:
        return []
    last = report.metrics[columns[min(1, len(columns) - 1)]]
    first = report.metrics[columns[0]] if len(columns) > 1 else {}
    return [(name, value, first.get(name)) for name in CARDS if (value := last.get(name))]


def _curves(report: Report, columns: list[str]) -> list[Markup]:
    lines = {curve.method: curve.rows for curve in report.curves}
    baseline = report.metrics[columns[0]] if columns else {}
    rows = [row for curve in report.curves for row in curve.rows]
    shown = [metric for metric in CURVES if any(row.get(metric) for row in rows)]
    # One scale for all panels, so that they compare at a glance.
    lowest = min((row[m]["low"] for row in rows for m in shown if row.get(m)), default=0.0)
    panels = []
    for metric in shown:
        # Before any edit, the other metrics are not levels to come back to.
        level = baseline.get(metric) if metric == "kept" else None
        panel = curve_panel(metric, lines, level.value if level else None, lowest=lowest)
        label = f"{metric} over sequential edits by {' and '.join(lines)}"
        panels.append(Markup(svg(panel, f"curve-{metric}", label)))
    return panels


def _spectrum(shown: LayerSpectrum) -> Markup:
    panel = spectrum_panel(shown.layer, shown.values, shown.dim)
    label = f"eigenvalues by rank at layer {shown.layer}; the last {shown.dim} are null"
    return Markup(svg(panel, f"spectrum-{shown.layer}", label))


def _rate(rate: Rate | None, unit: str = "") -> str:
    if rate is None:
        return "-"
    return f"{rate.value:.1f}{unit and ' ' + unit}"


def _probability(p: float) -> str:
    return f"{100 * p:.1f} %" if p >= 0.0005 else "< 0.1 %"


def _answer(text: str) -> tuple[str, str]:
    """A continuation as its answer, up to the first stop, and the rest."""
    text = text.strip()
    stops = [at for stop in (". ", ", ", "; ", "\n", "? ", "! ") if (at := text.find(stop)) > 0]
    end = min(stops, default=len(text))
    return text[:end], text[end:]


def _width(p: float) -> str:
    return f"{100 * min(1.0, max(0.0, p)):.0f}%"


def write(report: Report, path: Path) -> Path:
    """Render `report` into the file `path`, all or nothing.

    Raises:
        ResourceError: it cannot be written.
    """
    write_text(render(report), path)
    return path
