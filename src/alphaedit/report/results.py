"""Results of experiments, ready to be shown: grouped, averaged over seeds, compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scipy import stats

from alphaedit.bench.experiments.store import RunDirectory
from alphaedit.bench.intervals import Rate
from alphaedit.bench.strict import STRICT, at_chance, caveats

UNEDITED = "unedited"
LOWER_IS_BETTER = frozenset(
    {
        *("kl", "perplexity", "energy_left", "hausdorff", "relative", "shift", "mmd"),
        *("fired_neighbors", "bytes_per_edit", "state_bytes_per_edit", "request_time"),
        *("request_time_neighbors", "token_time", "old_said", "old_concluded"),
    }
)
FINE = frozenset({"kl", "energy_left", "d1", "d2", "cka", "relative", "mmd", "null_share"})
"""Metrics of a scale on which one digit says nothing."""
MAIN = (
    "efficacy",
    "generalization",
    "specificity",
    "fluency",
    "consistency",
    "score",
    "kept",
    "portability",
    "locality",
    "edit_success",
    "multi_hop",
    "multi_hop_chain",
    "edit_wise",
    "instance_wise",
    "topicality",
    "factual_consistency",
    "internal_consistency",
    "rouge_l_rewrite",
    "rouge_l_paraphrase",
    "bleu_rewrite",
    "bleu_paraphrase",
    "similarity_rewrite",
    "similarity_paraphrase",
    "edit_success_generate",
    "portability_generate",
    "efficacy_generate",
    "generalization_generate",
    "specificity_generate",
    "d1",
    "d2",
    "hausdorff",
    "cka",
    "relative",
    "mmd",
    "kl",
    "perplexity",
    "null_share",
    "energy_left",
    *STRICT,
    "fired_edits",
    "fired_paraphrases",
    "fired_neighbors",
    "bytes_per_edit",
    "state_bytes_per_edit",
    "request_time",
    "request_time_neighbors",
    "token_time",
)
BESIDE = frozenset(
    {"shift", "efficacy_magnitude", "generalization_magnitude", "specificity_magnitude"}
)
"""Metrics that are kept on disk and stand in no table, as others there say the same."""
UNRANKED = ("null_share", "sa_mcq_unsure")
"""Metrics of which neither more nor less is better."""
COMPARED = ("batch_size", "total", "records", "seeds", "sample", "tokens", "corpus")


@dataclass(frozen=True)
class Column:
    """A line of a table: what was run, and its numbers after the last edit.

    Attributes:
        error: why the run has no numbers, if it failed.
        curve: numbers by edits, the last one included.
        left_out: records that a pre-check left out.
    """

    label: str
    method: str
    setting: str
    cells: tuple[str, ...]
    numbers: Mapping[str, Rate]
    curve: Mapping[int, Mapping[str, Rate]]
    seconds: Mapping[str, float] = field(default_factory=dict)
    edits: int = 0
    error: str | None = None
    left_out: int = 0


def _last(name: str) -> str:
    """The last part of a path; other names (such as the hub's) as they are."""
    return Path(name).name if name.startswith((".", "/", "~")) else name


@dataclass(frozen=True)
class Group:
    """What is compared with one another: one model, one data set."""

    model: str
    records: str
    columns: tuple[Column, ...]

    @property
    def title(self) -> str:
        """Model and data."""
        return f"{_last(self.model)}, {_last(self.records)}"

    @property
    def edited(self) -> tuple[Column, ...]:
        """All but the unedited model."""
        return tuple(c for c in self.columns if c.method != UNEDITED)

    @property
    def baseline(self) -> Column | None:
        """The unedited model."""
        return next((c for c in self.columns if c.method == UNEDITED), None)

    def ranks(self, metric: str) -> dict[str, int]:
        """1 for the best and 2 for the second best of the edited models, by label.

        None where the unedited model is at chance: what is best there is chance.
        """
        unable = at_chance(self.baseline.numbers) if self.baseline else []
        return {} if metric in (*UNRANKED, *unable) else ranks(self.edited, metric)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know to read its numbers."""
        if self.baseline is None:
            return ()
        gone = self.baseline.left_out
        checked = (
            f"{gone} records were left out: the unedited model says their new objects already."
        )
        return (*([checked] if gone else []), *caveats(self.baseline.numbers))


@dataclass(frozen=True)
class Results:
    """One directory.

    Attributes:
        unfinished: runs that have not ended.
        marks: why its numbers do not compare with those of another directory of the page.
    """

    path: Path
    manifest: Mapping[str, Any]
    groups: tuple[Group, ...]
    extras: Mapping[str, Mapping[int, Mapping[str, Any]]]
    unfinished: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def spec(self) -> Mapping[str, Any]:
        """The experiment, as it was run."""
        spec: Mapping[str, Any] = self.manifest["experiment"]
        return spec


def read(paths: Sequence[Path]) -> list[Results]:
    """The results in directories; runs of one experiment that do not compare are marked.

    Raises:
        DataError: a directory holds no results, or broken ones.
    """
    runs = [_read(path) for path in paths]
    first: dict[str, Results] = {}
    marked = []
    for run in runs:
        other = first.setdefault(run.spec["name"], run)
        differ = [k for k in COMPARED if run.spec.get(k) != other.spec.get(k)]
        marks = [
            f"Not comparable with {other.path}: {k.replace('_', ' ')} {run.spec.get(k)} here, "
            f"{other.spec.get(k)} there."
            for k in differ
        ]
        marked.append(
            Results(run.path, run.manifest, run.groups, run.extras, run.unfinished, tuple(marks))
        )
    return marked


def _read(path: Path) -> Results:
    directory = RunDirectory(path)
    manifest = directory.manifest()
    rows, states = directory.rows(), directory.cells()
    known = {state["cell"]: state for state in states}
    for row in rows:  # a cell that was stopped before it could say so
        known.setdefault(row["cell"], {k: row[k] for k in _TAGS})
    order = {
        m["name"] or " + ".join((m["method"], *m["plugins"])): i
        for i, m in enumerate(manifest["experiment"]["methods"])
    }
    groups: dict[tuple[str, str], dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    for state in known.values():
        columns = groups.setdefault((state["model"], state["records"]), {})
        columns.setdefault((state["method"], state["setting"]), []).append(state)
    by_cell: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_cell.setdefault(row["cell"], []).append(row)
    made = []
    for (model, records), columns in groups.items():
        ordered = sorted(columns.items(), key=lambda c: (order.get(c[0][0], -1), _natural(c[0][1])))
        made.append(Group(model, records, tuple(_column(s, by_cell) for _, s in ordered)))
    return Results(
        path,
        manifest,
        tuple(made),
        {name: directory.extras(name) for name in known},
        tuple(name for name, state in known.items() if not state.get("finished")),
    )


_TAGS = ("cell", "model", "records", "method", "setting", "seed")


def _natural(setting: str) -> tuple[float, str]:
    last = setting.rpartition(" ")[2]
    try:
        return float(last), setting
    except ValueError:
        return 0.0, setting


def _column(
    states: Sequence[Mapping[str, Any]], rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Column:
    """One method and setting, over its seeds."""
    values: dict[int, dict[str, list[Mapping[str, Any]]]] = {}
    for state in states:
        for row in rows.get(state["cell"], ()):
            values.setdefault(row["edits"], {}).setdefault(row["metric"], []).append(row)
    curve = {
        edits: {name: over_seeds(by_seed) for name, by_seed in metrics.items()}
        for edits, metrics in sorted(values.items())
    }
    method, setting = states[0]["method"], states[0]["setting"]
    spent: dict[str, float] = {}
    facts = 0
    for state in states:
        facts += state.get("edits", 0)
        for batch in state.get("batches", ()):
            for phase, seconds in batch.items():
                spent[phase] = spent.get(phase, 0.0) + seconds
    return Column(
        label=f"{method}, {setting}" if setting else method,
        method=method,
        setting=setting,
        cells=tuple(state["cell"] for state in states),
        numbers=curve[max(curve)] if curve else {},
        curve=curve,
        # Per 100 edits.
        seconds={k: 100 * v / facts for k, v in spent.items()} if facts else {},
        edits=max(curve) if curve else 0,
        error=next((s["error"] for s in states if s.get("error")), None),
        left_out=sum(state.get("left_out") or 0 for state in states),
    )


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> Rate:
    """The mean over seeds with Student's 95 % interval, or the one value with its own."""
    values = [row["value"] for row in rows]
    mean = sum(values) / len(values)
    if len(values) == 1:
        (row,) = rows
        low, high = row["low"], row["high"]
        return Rate(
            mean, mean if low is None else low, mean if high is None else high, row["n"] or 0
        )
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = float(stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Rate(mean, mean - half, mean + half, len(values))


def metrics_of(columns: Iterable[Column]) -> list[str]:
    """Metrics that a table of `columns` shows: those of `MAIN` in its order, then all others.

    Series ("efficacy:places"), which pictures show, and those of `BESIDE` are left out.
    """
    there = {name for column in columns for name in column.numbers}
    others = there.difference(MAIN, BESIDE)
    return [
        *(name for name in MAIN if name in there),
        *sorted(name for name in others if ":" not in name),
    ]


def ranks(columns: Sequence[Column], metric: str) -> dict[str, int]:
    """1 for the best and 2 for the second best columns by label; equal as shown is equal."""
    values = {c.label: round(c.numbers[metric].value, 1) for c in columns if metric in c.numbers}
    if metric in UNRANKED:
        return {}
    if metric in FINE:
        values = {c.label: c.numbers[metric].value for c in columns if metric in c.numbers}
    order = sorted(set(values.values()), reverse=metric not in LOWER_IS_BETTER)
    return {label: order.index(v) + 1 for label, v in values.items() if v in order[:2]}
