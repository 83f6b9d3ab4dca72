"""`alphaedit ability`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import options, prepare
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.core.errors import ConfigError, unknown_name

EXAMPLES = examples(
    "alphaedit ability bundled",
    "alphaedit ability bundled --edits my-edits --json",
    "alphaedit ability ./my-model --data glue_eval --tasks sst2,rte,mmlu",
    "alphaedit ability ./my-model --harness hellaswag,arc_easy --limit 200",
)


@options.loads_model
def ability(
    model: options.Model,
    edits: Annotated[
        Path | None,
        typer.Option("--edits", metavar="LEDGER", help="Apply the edits in force there first."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="The published tasks: sst2.json, mrpc.json, cola.json, rte.json, nli.json, "
            "mmlu.json.",
            show_default="the bundled models' own tasks",
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAME,...",
            help="Only these, by name.",
            show_default="all there are",
        ),
    ] = None,
    harness: Annotated[
        str | None,
        typer.Option(
            "--harness",
            metavar="NAME,...",
            help="Tasks of lm-evaluation-harness instead, by name.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", min=2, help="Questions of each task.")] = 100,
    shots: Annotated[
        int, typer.Option("--shots", min=0, help="Examples in front of each question.")
    ] = 4,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Questions of each harness task.")
    ] = None,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Measure what a model can do besides facts: F1 on six published tasks, or on your own choice.

    Answers are greedy and read as labels; those that are none count as wrong.
    """
    if harness and (data or tasks):
        raise ConfigError("--harness has tasks of its own.", remedy="Leave --data and --tasks out.")
    wanted = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    out = Session(json=json, quiet=quiet)
    with out.progress() as progress:
        from alphaedit.bench import ability as bench

        for name in wanted:
            if data and name not in bench.FORMS:
                raise unknown_name("task", name, list(bench.FORMS))
        made = None
        if data:
            chosen = wanted or list(bench.FORMS)
            made = bench.published_tasks(data, chosen, count=count, shots=shots, seed=seed)
        editor = prepare.open_editor(model, progress, seed=seed, loading=loading, session=edits)
        if harness:
            names = [name.strip() for name in harness.split(",")]
            scores = bench.harness_scores(editor.handle, names, limit=limit)
            if not json:
                for task, metrics in scores.items():
                    shown = ", ".join(f"{k} {v:.4f}" for k, v in metrics.items())
                    output_console().print(f"{task}: {shown}", highlight=False)
            return {"model": model, "harness": scores}
        if made is None:
            made = bench.world_tasks(editor.handle, count=count, seed=seed)
            known = [task.name for task in made]
            for name in wanted:
                if name not in known:
                    raise unknown_name("task", name, known)
            made = [task for task in made if not wanted or task.name in wanted]
        found = {task.name: bench.run_task(editor.handle, task, progress=progress) for task in made}
    if not json:
        from rich.table import Table

        table = Table(title=f"Ability of {model}", title_justify="left")
        for column in ("task", "F1 x 100", "95 %", "accuracy x 100", "no label", "questions"):
            table.add_column(column, justify="left" if column == "task" else "right")
        for name, result in found.items():
            f1 = result.f1
            interval = f"{f1.low:.1f} to {f1.high:.1f}"
            cells = (f"{f1.value:.1f}", interval, f"{result.accuracy:.1f}", str(result.unread))
            table.add_row(name, *cells, str(f1.n))
        output_console().print(table)
    return {
        "model": model,
        "edits": [edit.id for edit in editor.edits],
        "tasks": {
            name: {"f1": r.f1.to_json(), "accuracy": r.accuracy, "unread": r.unread}
            for name, r in found.items()
        },
        "seed": seed,
    }
