"""`alphaedit eval`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs, prepare, tables
from alphaedit.cli.facts import STDIN, STDIN_NAME, standard_input
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Session
from alphaedit.cli.reporting import command_line
from alphaedit.core import defaults
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.jobs.evaluate import EvaluateRequest

EXAMPLES = examples(
    "alphaedit eval bundled world --method alphaedit --batch-size 31 --edits 307 --json",
    "alphaedit eval bundled world --method none --edits 100",
    "alphaedit eval bundled world:knowedit --edits 50",
    "alphaedit eval ./my-model zsre_mend_eval.json --edits 200 --json",
    "zcat zsre_mend_eval.json.gz | alphaedit eval ./my-model - --edits 200 --json",
    "alphaedit eval http://localhost:8000/v1 counterfact.json --served-model NAME --method none",
    "alphaedit eval ./my-model counterfact.json --method memit --batch-size 50 --edits 200 "
    "--every 1 --report report.html",
)
DEFAULT_EDITS = 100
SCHEMES = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How records are edited, how many, how they are drawn, and when they are measured."""

    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            autocompletion=complete.methods_or_none,
            help="Editing method (see `alphaedit methods`); auto, as `edit` has it; none: the "
            "unedited model.",
        ),
    ] = defaults.METHOD
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Records edited at a time.")
    ] = 100
    edits: Annotated[
        int | None,
        typer.Option(
            "--edits",
            min=1,
            help="How many records to edit and evaluate.",
            show_default=f"{DEFAULT_EDITS}, or all if fewer",
        ),
    ] = None
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw records by --seed instead of the first ones.")
    ] = False
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            metavar="SCHEMA",
            autocompletion=complete.schemas,
            help="Schema of RECORDS (see docs/datasets.md).",
            show_default="told from the first record",
        ),
    ] = None
    every: Annotated[
        int | None,
        typer.Option("--every", min=1, help="Also evaluate after every so many batches."),
    ] = None
    start: Annotated[
        Path | None,
        typer.Option("--from", metavar="LEDGER", help="Start with the edits in force there."),
    ] = None
    oracle: Annotated[
        bool,
        typer.Option(
            "--oracle",
            help="Tell memories which edit each prompt belongs to, as IKE was published, in place "
            "of looking it up.",
        ),
    ] = False
    pre_check: Annotated[
        bool,
        typer.Option(
            "--pre-check", help="Leave out records whose new objects the model says already."
        ),
    ] = False
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Also stricter probes: negation, true or false, choices, old answers (see "
            "docs/strict.md).",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who judges free answers."""

    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="URL|MODEL",
            help="Also let a model judge free answers at the end: an OpenAI-compatible address "
            "(key in $ALPHAEDIT_JUDGE_KEY), or a model to load.",
            show_default="exact matching only",
        ),
    ] = None
    judge_model: Annotated[
        str | None,
        typer.Option("--judge-model", metavar="NAME", help="The model's name at that address."),
    ] = None
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="DIR",
            help="Also compare long answers with what they should be, by the cosines of this "
            "sentence encoder, such as all-MiniLM-L6-v2.",
        ),
    ] = None


ServedModel = Annotated[
    str | None,
    typer.Option(
        "--served-model",
        metavar="NAME",
        help="MODEL is the address of an OpenAI-compatible endpoint of completions, such as "
        "http://localhost:8000/v1, and this the model's name there (key in "
        "$ALPHAEDIT_ENDPOINT_KEY); with --method none.",
    ),
]


@options.grouped
def evaluate(
    model: options.Model,
    *,
    records: Annotated[
        str,
        typer.Argument(
            metavar="RECORDS",
            autocompletion=complete.records,
            help="A data set in its published schema (.json, .jsonl, hf:NAME), - for standard "
            "input, or 'world': records about the bundled world, drawn by --seed ('world:zsre' for "
            "another schema).",
        ),
    ],
    plan: Plan,
    judging: Judge,
    served_model: ServedModel = None,
    no_generation: options.NoGeneration = False,
    how: options.Hyperparameters,
    guard: options.Guard = None,
    moments: options.Moments,
    report: options.ReportFile = None,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any]:
    """Edit records in batches, one batch after the other, and evaluate at the end.

    Gives efficacy, generalization, specificity, fluency and consistency as published, exact
    generation, and for bundled models the share of facts kept that were not edited. Nothing is
    saved.
    """
    if served_model is not None or model.startswith(SCHEMES):
        given = _given(plan, judging, guard=guard, report=report, preset=how.preset)
        return _served(model, records, plan, served_model, given, not no_generation, common)
    over = how.given(plan.method)
    watch = prepare.guard_of(guard)
    outputs.check_outputs(
        model,
        [outputs.Output("--report", report)],
        force=force,
        inputs={"--from": plan.start},
    )
    from alphaedit.jobs.evaluate import EvaluateRequest

    request = EvaluateRequest(
        model=model,
        records=records,
        text_name=STDIN_NAME,
        generation=not no_generation,
        preset=how.preset,
        hyperparameters=over,
        guard=watch,
        report=report,
        command=command_line(),
        seed=common.seed,
        **vars(plan),
        **vars(judging),
        **vars(common.loading),
        **vars(moments),
    )
    return _run(request, common.session)


def _given(plan: Plan, judging: Judge, **more: object) -> list[str]:
    """Options that are given and mean nothing for a served model."""
    values = {"from": plan.start, "every": plan.every, **more}
    values |= {"judge": judging.judge, "encoder": judging.encoder}
    return [f"--{name}" for name, value in values.items() if value is not None]


def _served(
    model: str,
    records: str,
    plan: Plan,
    name: str | None,
    given: list[str],
    generation: bool,
    common: options.Seeded,
) -> dict[str, Any]:
    """Evaluate a model behind an address."""
    from alphaedit.jobs import served as job

    if not job.is_address(model):
        raise ConfigError(
            f"--served-model names a model behind an address, and MODEL is {model!r}.",
            remedy="Give an address that begins with http:// or https://.",
        )
    if plan.method != "none" or given:
        what = f"{', '.join(given)} cannot be used" if given else "It cannot be edited from here"
        raise ConfigError(
            f"MODEL is an address: the model there is evaluated as it is. {what}.",
            remedy="Give --method none, or load the model here.",
        )
    request = job.ServedRequest(
        url=model,
        served_model=name,
        records=records,
        schema=plan.schema,
        limit=plan.edits,
        sample=plan.sample,
        seed=common.seed,
        generation=generation,
    )
    result = common.session.run(job.run, request).to_json()
    _show(common.session, result, None)
    return outputs.end(common.session, result, {})


def _run(request: EvaluateRequest, session: Session) -> dict[str, Any]:
    from alphaedit.jobs import evaluate as job

    if request.records == STDIN:
        request = replace(request, text=standard_input())
    evaluation = session.run(job.run, request)
    result = evaluation.to_json()
    _show(session, result, evaluation.report)
    return outputs.end(
        session, result, evaluation.failed, code=FAILED if evaluation.run.stopped else 0
    )


def _show(session: Session, result: dict[str, Any], report: Path | None) -> None:
    columns = {"unedited": result["before"]}
    title = f"{result['model']}, unedited"
    if result["method"] != "none":
        columns[result["method"]] = result
        title = f"{result['edits']} edits by {result['method']}, load {result['load']:.3f}"
    session.say(*tables.metrics_table(columns, title))
    if result["left_out"]:
        session.say(f"Pre-check: {result['left_out']} records were left out, as said already.")
    for note in tables.strict_notes(result["before"]):
        session.say(note, style="yellow")
    if result["stopped"]:
        session.say(f"Guard: {result['stopped']}", style="red")
    session.say(tables.seconds_line(result["seconds"]))
    if report is not None:
        session.say(f"Report written to {report}")
