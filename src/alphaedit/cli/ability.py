"""`alphaedit ability`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import options
from alphaedit.cli.options import examples

if TYPE_CHECKING:
    from rich.table import Table

    from alphaedit.bench.ability import Result

EXAMPLES = examples(
    "alphaedit ability bundled",
    "alphaedit ability bundled --edits my-edits --json",
    "alphaedit ability ./my-model --data glue_eval --tasks sst2,rte,mmlu",
    "alphaedit ability ./my-model --harness hellaswag,arc_easy --limit 200",
)


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """Which tasks, and how many questions of each."""

    edits: Annotated[
        Path | None,
        typer.Option("--edits", metavar="LEDGER", help="Apply the edits in force there first."),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="The published tasks: sst2.json, mrpc.json, cola.json, rte.json, nli.json, "
            "mmlu.json.",
            show_default="the bundled models' own tasks",
        ),
    ] = None
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAME,...",
            help="Only these, by name.",
            show_default="all there are",
        ),
    ] = None
    harness: Annotated[
        str | None,
        typer.Option(
            "--harness",
            metavar="NAME,...",
            help="Tasks of lm-evaluation-harness instead, by name.",
        ),
    ] = None
    count: Annotated[int, typer.Option("--count", min=2, help="Questions of each task.")] = 100
    shots: Annotated[
        int, typer.Option("--shots", min=0, help="Examples in front of each question.")
    ] = 4
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Questions of each harness task.")
    ] = None


@options.grouped
def ability(model: options.Model, *, asked: Tasks, common: options.Seeded) -> dict[str, Any]:
    """Measure what a model can do besides facts: F1 on six published tasks, or on your own choice.

    Answers are greedy and read as labels; those that are none count as wrong.
    """
    from alphaedit.jobs import ability as job

    request = job.AbilityRequest(
        model=model,
        seed=common.seed,
        **{
            **vars(asked),
            "tasks": [name.strip() for name in (asked.tasks or "").split(",") if name.strip()],
            "harness": [name.strip() for name in asked.harness.split(",")] if asked.harness else (),
        },
        **vars(common.loading),
    )
    session = common.session
    result = session.run(job.run, request)
    for task, metrics in result.harness.items():
        session.say(f"{task}: {', '.join(f'{k} {v:.4f}' for k, v in metrics.items())}")
    if not result.harness:
        session.say(_table(result.tasks, f"Ability of {model}"))
    return result.to_json()


def _table(tasks: Mapping[str, Result], title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("task", "F1 x 100", "95 %", "accuracy x 100", "no label", "questions"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for name, result in tasks.items():
        f1 = result.f1
        interval = f"{f1.low:.1f} to {f1.high:.1f}"
        cells = (f"{f1.value:.1f}", interval, f"{result.accuracy:.1f}", str(result.unread))
        table.add_row(name, *cells, str(f1.n))
    return table
