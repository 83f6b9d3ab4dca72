"""`alphaedit edit`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import ledgers, options, outputs, prepare
from alphaedit.cli.edit_shown import show
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Session
from alphaedit.cli.reporting import command_line
from alphaedit.core import defaults

if TYPE_CHECKING:
    from alphaedit.jobs.edit import EditRequest

EXAMPLES = examples(
    "alphaedit edit bundled --prompt 'The mother tongue of {} is' --subject 'Danielle Darrieux' "
    "--target English -o my-edits",
    "alphaedit edit bundled facts.jsonl --method alphaedit -o my-edits --report report.html",
    "alphaedit edit bundled more.csv -o my-edits --batch-size 100 --why 'ticket 123'",
    "alphaedit edit bundled facts.jsonl --batch-size 50 --guard rollback:max_kl=0.05 -o my-edits",
    "grep -v draft facts.jsonl | alphaedit edit bundled - -o my-edits",
    "torchrun --nproc-per-node 2 -m alphaedit edit ./my-model facts.jsonl -o my-edits",
    "alphaedit edit ./my-instruct-model facts.jsonl --chat -o my-edits",
    "alphaedit edit ./my-model facts.yaml --set layers=3-5 --set clamp=1.5 --checkpoint edited",
)


@dataclass(frozen=True, kw_only=True)
class FactsGiven:
    """Facts of a file, of standard input, or one on the command line."""

    facts: Annotated[
        Path | None,
        typer.Argument(
            metavar="FACTS",
            help="Facts: .jsonl, .json (also CounterFact's), .csv, .tsv or .yaml; - for standard "
            "input.",
        ),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="Instead of FACTS: prompt with {} in it."),
    ] = None
    subject: Annotated[
        str | None,
        typer.Option("--subject", metavar="TEXT", help="What stands for {} in the prompt."),
    ] = None
    target: Annotated[
        str | None, typer.Option("--target", metavar="TEXT", help="What the model should say next.")
    ] = None
    truth: Annotated[
        str | None,
        typer.Option("--truth", metavar="TEXT", help="What it says now, to compare with."),
    ] = None
    format: sources.Format = None


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where the edits go, and on what."""

    ledger: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="LEDGER",
            help="Write each batch into the ledger there, which is begun if there is none.",
        ),
    ] = None
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="DIR", help="Save the edited model here."),
    ] = None
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="LEDGER",
            help="Go on from the edits in force in another ledger.",
            show_default="the one of -o",
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Facts a batch.", show_default="all at once"),
    ] = None
    why: ledgers.Why = ""
    sign: ledgers.Sign = None


@options.grouped
def edit(
    model: options.Model,
    *,
    given: FactsGiven,
    method: options.Method = defaults.METHOD,
    destination: Destination,
    chat: options.Chat = False,
    how: options.Hyperparameters,
    guard: options.Guard = None,
    moments: options.Moments,
    report: options.ReportFile = None,
    generation: options.Generation = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if a fact does not hold afterwards.")
    ] = False,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any] | int:
    """Change a model so that facts hold.

    With -o each batch is recorded in a ledger as soon as it is made, and can be undone (see
    `alphaedit log` and `alphaedit revert`). Without -o or --checkpoint this is a dry run: it shows
    what an edit would do and keeps nothing. MODEL itself is never written to.

    By default facts are edited by gated: what they need is added where their subjects are told, at
    no other token. For an adapter or a GGUF file give --method alphaedit-weighted, which changes
    weights.
    """
    source = sources.read(**vars(given))
    over = how.given(method)
    watch = prepare.guard_of(guard)
    from alphaedit.jobs.edit import EditRequest

    request = EditRequest(
        model=model,
        facts=source.facts,
        rows=source.rows,
        method=method,
        preset=how.preset,
        hyperparameters=over,
        chat=chat,
        guard=watch,
        report=report,
        generation=generation,
        command=command_line(),
        seed=common.seed,
        **vars(destination),
        **vars(common.loading),
        **vars(moments),
    )
    _check_outputs(request, force=force)
    return _run(request, common, strict=strict)


def _check_outputs(request: EditRequest, *, force: bool) -> None:
    kind = outputs.LEDGER if request.grows else outputs.NEW_LEDGER
    places = (
        outputs.Output("-o", request.ledger, kind),
        outputs.Output("--checkpoint", request.checkpoint, "checkpoint"),
        outputs.Output("--report", request.report),
    )
    outputs.check_outputs(request.model, places, force=force, inputs={"--from": request.start})


def _run(request: EditRequest, common: options.Seeded, *, strict: bool) -> dict[str, Any] | int:
    """Run the job; of several processes one prints and writes."""
    from alphaedit.jobs import edit as job

    chosen = [request.method, request.hyperparameters, request.seed]
    ranks = prepare.join_ranks(
        request.device, {"facts": [fact.to_dict() for fact in request.facts], "options": chosen}
    )
    first = ranks is None or ranks.first
    session = common.session
    if not first:
        request = replace(request, ledger=None, checkpoint=None, report=None)
        session = Session(json=False, quiet=True)
    edited = session.run(job.run, request, ranks=ranks)
    failed = edited.stopped is not None or (strict and bool(edited.fails))
    if not first:
        return FAILED if failed else 0
    result = edited.to_json()
    show(session, edited, result)
    after = outputs.after_edits(request.ledger, edited.made, request.model)
    return outputs.end(session, result, edited.failed, code=FAILED if failed else 0, **after)
