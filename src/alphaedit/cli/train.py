"""`alphaedit train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs, prepare
from alphaedit.cli import facts as sources
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session

if TYPE_CHECKING:
    from alphaedit.jobs.train import TrainRequest, TrainResult

EXAMPLES = examples(
    "alphaedit train mend bundled world -o my-editor",
    "alphaedit train serac ./my-model facts.jsonl --set layers=3 --set steps=200 -o my-editor",
    "alphaedit edit bundled facts.jsonl --method mend --set editor=my-editor -o my-edits",
)
WORLD = "world"
TrainedMethod = Annotated[
    str,
    typer.Argument(
        metavar="METHOD",
        autocompletion=complete.methods,
        help="A method that edits by something trained, such as mend or serac.",
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Facts with paraphrases and neighborhood prompts (see `edit`), or 'world': those "
        "of the bundled world but for the subjects that tests draw first.",
        show_default=False,
    ),
]


@options.grouped
def train(
    method: TrainedMethod,
    model: options.Model,
    data: Data,
    *,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="EDITOR", help="Write the trained editor here.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="One setting of the training, such as rank=64 or steps=500. Repeatable.",
            show_default=False,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", help="Write the network in float16: half the size.")
    ] = False,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any]:
    """Train what a method edits by: a network that proposes changes, or a scope of edits.

    The model's own weights stay as they are. Some facts are set aside, and edits of them are
    measured every so many steps; what was best is written. A training that was stopped, however,
    goes on from its last measurement when the same command is given.
    """
    from alphaedit.jobs.train import TrainRequest, check_folder, trained_method

    chosen = trained_method(method)
    given = prepare.pairs(settings, chosen.train_settings)
    outputs.check_outputs(model, [outputs.Output("-o", out, outputs.RESULTS)])
    check_folder(out, anew=force)
    request = TrainRequest(
        method=chosen.name,
        model=model,
        out=out,
        facts=None if data == WORLD else sources.load(data),
        settings=given,
        half=half,
        anew=force,
        seed=common.seed,
        **vars(common.loading),
    )
    return _run(request, common.session)


def _run(request: TrainRequest, session: Session) -> dict[str, Any]:
    from alphaedit.jobs import train as job

    note = f"The training so far is in {request.out}: the same command goes on from there."
    trained = session.run(job.run, request, note=note)
    result = trained.to_json()
    if not session.json:
        _show(session, trained)
    return result


def _show(session: Session, trained: TrainResult) -> None:
    from rich.table import Table

    request = trained.request
    title = f"{request.method}: held-out edits, in percent"
    table = Table(title=title, title_justify="left")
    names = ("efficacy", "generalization", "specificity", "score")
    for name in ("step", *names):
        table.add_column(name, justify="right")
    for row in trained.place.curve:
        best = row["step"] == trained.place.best
        cells = [f"{row['step']:.0f}", *(f"{row[name]:.1f}" for name in names)]
        table.add_row(*cells, style="bold" if best else None)
    session.say(
        table,
        f"Trained editor of step {trained.place.best} written to {request.out}",
        f"Use it: alphaedit edit {request.model} FACTS --method {request.method} "
        f"--set editor={request.out}",
    )
