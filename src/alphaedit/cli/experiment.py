"""`alphaedit experiment` and `alphaedit report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Outcome, Session
from alphaedit.cli.reporting import command_line
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.bench.experiments.spec import Spec
    from alphaedit.jobs.experiment import ExperimentResult
    from alphaedit.report.results import Group

EXAMPLES = examples(
    "alphaedit experiment --list",
    "alphaedit experiment main-table -o results/main-table",
    "alphaedit experiment threshold --model bundled-small --set edits=50 -o results/threshold",
    "alphaedit experiment main-table --model ./llama-3-8b --records counterfact.json "
    "--set edits=2000 --set batch_size=100 --device cuda -o results/llama",
    "alphaedit report results/main-table results/threshold -o report.html",
)
REPORT_EXAMPLES = examples(
    "alphaedit report results/main-table",
    "alphaedit report results/* -o report.html",
    "alphaedit report results/llama --published",
)
PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Fields of the experiment that are given on the command line."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="MODEL",
            autocompletion=complete.models,
            help="Model in place of the experiment's. Repeatable.",
        ),
    ] = None
    records: Annotated[
        list[str] | None,
        typer.Option(
            "--records",
            metavar="RECORDS",
            autocompletion=complete.records,
            help="Data set in place of the experiment's. Repeatable.",
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Another field of the experiment, such as edits=100, seeds=[0,1,2] or "
            "methods=[alphaedit,memit]. Repeatable.",
        ),
    ] = None
    preset: options.Preset = None

    def overrides(self) -> dict[str, Any]:
        """Those fields.

        Raises:
            ConfigError: one is given twice, or is not KEY=VALUE.
        """
        from alphaedit.bench.experiments.spec import parse_overrides

        over = parse_overrides(self.settings or ())
        given = (("models", self.model), ("records", self.records), ("preset", self.preset))
        for field, value in given:
            if value and field in over:
                raise ConfigError(f"{field} is given twice.", remedy="Give it once.")
            if value:
                over[field] = value
        return over


@options.grouped
def experiment(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT",
            autocompletion=complete.experiments,
            help="An experiment of --list, or a YAML file of your own.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="Write the results here; a run that was stopped goes on from there.",
            show_default="results/EXPERIMENT",
        ),
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="List the experiments.")] = False,
    *,
    changes: Changes,
    tolerance: options.Tolerance = None,
    cache_dir: options.CacheDir = None,
    common: options.WithModel,
) -> dict[str, Any]:
    """Run one of the paper's experiments, or one of your own.

    Numbers go into DIR as JSON Lines, each with the model, method, protocol, batch size, edits and
    load it belongs to; DIR/report.html shows them. Stopped at any moment, the same command goes on
    and gives the same numbers; at most one batch is done again.
    """
    from alphaedit.bench.experiments import spec as specs

    session = common.session
    if listing or name is None:
        return _list([specs.load(known) for known in specs.names()], session)
    chosen = specs.load(name, changes.overrides())
    folder = out or Path("results") / chosen.name
    outputs.check_outputs(chosen.models, [outputs.Output("-o", folder, outputs.RESULTS)])
    outputs.check_outputs(None, [outputs.Output("", folder / PAGE, again=True)])
    from alphaedit.jobs import experiment as job

    request = job.ExperimentRequest(
        spec=chosen,
        out=folder,
        tolerance=tolerance,
        cache_dir=cache_dir,
        command=command_line(),
        **vars(common.loading),
    )
    note = f"What is done is in {folder}: the same command goes on."
    result = session.run(job.run, request, note=note)
    _show(session, result)
    return Outcome(result.to_json(), code=FAILED) if result.failed else result.to_json()


@options.grouped
def report(
    directories: Annotated[
        list[Path],
        typer.Argument(metavar="DIR", help="Directories that `alphaedit experiment` wrote."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write the page here.",
            show_default="report.html in DIR, or here for several",
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show the paper's figures beside.")
    ] = False,
    *,
    common: options.Common,
) -> dict[str, Any]:
    """Turn results of experiments into one HTML page, with pictures saved beside the results.

    Runs of one experiment whose settings differ are marked as not comparable.
    """
    from alphaedit.report.experiment import report as write

    given = list(dict.fromkeys(directories))
    page = out or (given[0] / PAGE if len(given) == 1 else Path(PAGE))
    outputs.check_outputs(None, [outputs.Output("-o" if out else "", page, again=True)])
    write(given, page, published=published)
    common.session.say(f"Report written to {page}")
    return {"report": str(page), "directories": [str(path) for path in given]}


def _list(experiments: Sequence[Spec], session: Session) -> dict[str, Any]:
    if not session.json:
        from rich.table import Table

        table = Table(title="Experiments", title_justify="left")
        for column in ("name", "what it asks", "in the paper"):
            table.add_column(column)
        for spec in experiments:
            table.add_row(spec.name, spec.question, spec.paper)
        session.say(table)
    shown = ("name", "title", "question", "paper", "edits", "batch_size")
    return {"experiments": [spec.model_dump(include=set(shown)) for spec in experiments]}


def _show(session: Session, result: ExperimentResult) -> None:
    if session.json:
        return
    for group in result.results().groups:
        session.say(_table(group))
        for note in group.notes:
            session.say(note, style="yellow")
    for name, error in result.failed.items():
        session.say(f"{name} failed: {error}", style="red")
    session.say(f"Report written to {result.page}")


def _table(group: Group) -> Any:
    """Methods and their numbers; the best one bold, the second underlined."""
    from rich.table import Table
    from rich.text import Text

    from alphaedit.report.results import FINE, metrics_of

    table = Table(title=group.title, title_justify="left")
    table.add_column("")
    metrics = metrics_of(group.columns)
    best = {metric: group.ranks(metric) for metric in metrics}
    for metric in metrics:
        table.add_column(metric.replace("_", " "), justify="right")
    for column in group.columns:
        cells = []
        for metric in metrics:
            rate, rank = column.numbers.get(metric), best[metric].get(column.label)
            digits = 3 if metric in FINE else 1
            style = {1: "bold", 2: "underline"}.get(rank or 0, "")
            cells.append(Text(f"{rate.value:.{digits}f}" if rate else "-", style))
        table.add_row(column.label, *cells)
    return table
