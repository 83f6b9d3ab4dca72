"""`alphaedit plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import complete, options, prepare
from alphaedit.cli import facts as sources
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session

EXAMPLES = examples(
    "alphaedit plan bundled facts.jsonl",
    "alphaedit plan ./llama-3-8b facts.jsonl --on h100 --on rtx-4090 --batch-size 100",
    "alphaedit plan ./my-model facts.jsonl --set layers=4-8 --set steps=25 --json",
)


@options.grouped
def plan(
    model: options.Model,
    facts: Annotated[Path, typer.Argument(metavar="FACTS", help="Facts, as for `alphaedit edit`.")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="GPU",
            autocompletion=complete.gpus,
            help="Also for a GPU: h200, h100, a100-80gb, a100-40gb, l40s, rtx-4090, l4, t4. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Facts a batch.", show_default="all at once"),
    ] = None,
    preset: options.Preset = None,
    settings: options.Settings = None,
    tokens: options.Tokens = None,
    json: options.Json = False,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Tell what edits by AlphaEdit will take, from the config alone: no weights are read.

    For this machine rates are measured on the model's shapes; for GPUs they are 30 % of the data
    sheet's, an assumption. Every step of the search is counted: facts that converge early take
    less.
    """
    wanted = sources.load(facts)
    over = prepare.overrides(settings)
    from alphaedit.jobs import plan as job

    request = job.PlanRequest(
        model=model,
        facts=wanted,
        on=on or (),
        batch_size=batch_size,
        preset=preset,
        hyperparameters=over,
        tokens=tokens,
        trust_remote_code=trust_remote_code,
    )
    session = Session(json=json, quiet=quiet)
    result = session.run(job.run, request).to_json()
    if not json:
        _show(session, result)
    return result


def _show(session: Session, result: dict[str, Any]) -> None:
    from rich.table import Table

    shape = result["shape"]
    session.say(
        f"{result['model']}: {shape['parameters'] / 1e6:,.0f} M parameters, {shape['layers']} "
        f"layers of {shape['width']}, keys of {shape['inner']}. {result['facts']} facts, layers "
        f"{', '.join(map(str, result['layers']))} ({result['layers_from']})."
    )
    for name, machine in result["machines"].items():
        how = "measured" if machine["measured"] else "assumed: 30 % of the data sheet's"
        title = f"{name}: {machine['rate'] / 1e12:,.2f} tera-operations a second ({how})"
        table = Table(title=title, title_justify="left")
        table.add_column("phase")
        for column in ("operations", "seconds", "memory", "done"):
            table.add_column(column, justify="right")
        for phase in machine["phases"]:
            table.add_row(
                phase["name"],
                f"{phase['operations']:.1e}" if phase["operations"] else "",
                _seconds(phase["seconds"]) if phase["operations"] else "",
                _bytes(phase["memory"]),
                "once a model" if phase["once"] else "for these facts",
            )
        session.say(table)
        fits = "fits into" if machine["fits"] else "does not fit into"
        session.say(f"Peak {_bytes(machine['peak'])}: {fits} {_bytes(machine['memory'])}.")


def _seconds(value: float) -> str:
    if value >= 600:
        return f"{value / 60:,.0f} min"
    return f"{value:.1f}" if value >= 0.1 else f"{value:.3f}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.2f} GB" if value >= 1e7 else f"{value / 1e6:,.2f} MB"
