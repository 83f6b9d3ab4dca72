"""`alphaedit eval`."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs, prepare, tables
from alphaedit.cli.facts import STDIN, name_of, standard_input
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Session, output_console

if TYPE_CHECKING:
    from alphaedit.bench.data import EditRecord
    from alphaedit.bench.run import RunResult
    from alphaedit.editor.session import Editor

EXAMPLES = examples(
    "alphaedit eval bundled world --method alphaedit --batch-size 31 --edits 307 --json",
    "alphaedit eval bundled world --method none --edits 100",
    "alphaedit eval bundled world:knowedit --edits 50",
    "alphaedit eval ./my-model zsre_mend_eval.json --edits 200 --json",
    "zcat zsre_mend_eval.json.gz | alphaedit eval ./my-model - --edits 200 --json",
    "alphaedit eval ./my-model counterfact.json --method memit --batch-size 50 --edits 200 "
    "--every 1 --report report.html",
)
WORLD = "world"
DEFAULT_EDITS = 100


@options.loads_model
def evaluate(
    model: options.Model,
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
    method: Annotated[
        str,
        typer.Option(
            "--method",
            "-m",
            metavar="METHOD",
            autocompletion=complete.methods_or_none,
            help="Editing method (see `alphaedit methods`), or 'none': the unedited model.",
        ),
    ] = "alphaedit",
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Records edited at a time.")
    ] = 100,
    edits: Annotated[
        int | None,
        typer.Option(
            "--edits",
            min=1,
            help="How many records to edit and evaluate.",
            show_default=f"{DEFAULT_EDITS}, or all if fewer",
        ),
    ] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw records by --seed instead of the first ones.")
    ] = False,
    schema: Annotated[
        str | None,
        typer.Option(
            "--schema",
            metavar="SCHEMA",
            autocompletion=complete.schemas,
            help="Schema of RECORDS (see docs/datasets.md).",
            show_default="told from the first record",
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option("--every", min=1, help="Also evaluate after every so many batches."),
    ] = None,
    from_session: Annotated[
        Path | None,
        typer.Option("--from", metavar="LEDGER", help="Start with the edits in force there."),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="URL|MODEL",
            help="Also let a model judge free answers at the end: an OpenAI-compatible address "
            "(key in $ALPHAEDIT_JUDGE_KEY), or a model to load.",
            show_default="exact matching only",
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option("--judge-model", metavar="NAME", help="The model's name at that address."),
    ] = None,
    no_generation: options.NoGeneration = False,
    preset: options.Preset = None,
    settings: options.Settings = None,
    plugins: options.Plugins = None,
    guard: options.Guard = None,
    corpus: options.CorpusName = None,
    tokens: options.Tokens = None,
    tolerance: options.Tolerance = None,
    cache_dir: options.CacheDir = None,
    report: options.ReportFile = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Edit records in batches, one batch after the other, and evaluate at the end.

    Gives efficacy, generalization, specificity, fluency and consistency as published, exact
    generation, and for bundled models the share of facts kept that were not edited. Nothing is
    saved.
    """
    over = prepare.overrides(settings, plugins, method=method)
    watch = prepare.guard_of(guard)
    place = outputs.Output("--report", report)
    outputs.check_outputs(model, [place], force=force, inputs={"--from": from_session})
    if method != "none":
        from alphaedit.methods.registry import get_method

        method = get_method(method).name
    chosen = None if _of_world(records) else _from_file(records, schema, edits, sample, seed)
    out = Session(json=json, quiet=quiet)
    began = time.perf_counter()
    with out.progress() as progress:
        editor = prepare.open_editor(
            model,
            progress,
            seed=seed,
            loading=loading,
            corpus=corpus,
            tokens=tokens,
            tolerance=tolerance,
            cache_dir=cache_dir,
            session=from_session,
            guard=watch,
        )
        loaded = time.perf_counter() - began
        if chosen is None:
            from alphaedit.bench.sources import records_of

            chosen = records_of(editor.handle, records, edits or DEFAULT_EDITS, seed, schema)
        from alphaedit.bench.run import sequential
        from alphaedit.bench.sources import kept_of

        run = sequential(
            editor,
            chosen,
            method,
            batch_size=batch_size,
            edits=edits or len(chosen),
            seed=seed,
            evaluate_every=every,
            kept=kept_of(editor.handle, {r.subject for r in chosen}, seed=seed),
            generation=not no_generation,
            preset=preset,
            progress=progress,
            **over,
        )
        run.seconds["model"] = loaded
        if judge is not None:
            from alphaedit.bench.judge import judged_metrics, open_judge

            measured = chosen[: run.edits or edits or len(chosen)]
            with_judge = open_judge(judge, judge_model, device=loading.device)
            run.metrics.update(
                judged_metrics(editor.handle, measured, with_judge, progress=progress)
            )
        late = outputs.Late(out)
        page = partial(write_report, editor=editor, run=run, model=model, records=records)
        report = late.write("--report", report, page)
    result = {
        **run.to_json(),
        "model": model,
        "records": records,
        "seed": seed,
        "from": [edit.id for edit in editor.edits[: len(editor.edits) - _made(run)]],
        "report": str(report) if report else None,
    }
    if not json:
        _show(result, report)
    return late.end(result, code=FAILED if run.stopped else 0)


def _made(run: RunResult) -> int:
    return -(-run.edits // run.batch_size)


def _of_world(records: str) -> bool:
    return records.partition(":")[0] == WORLD


def _from_file(
    path: str, schema: str | None, edits: int | None, sample: bool, seed: int
) -> list[EditRecord]:
    from alphaedit.bench.datasets.registry import load

    limit = edits or DEFAULT_EDITS
    text = standard_input() if path == STDIN else None
    path = name_of(path)
    found = list(load(path, schema, limit=limit, seed=seed if sample else None, text=text).records)
    if edits is not None and len(found) < edits:
        from alphaedit.core.errors import DataError

        raise DataError(
            f"{edits} edits are asked for, and {path} holds {len(found)} records.",
            remedy=f"Give --edits {len(found)}, or a larger file.",
        )
    return found


def write_report(path: Path, editor: Editor, run: RunResult, model: str, records: str) -> None:
    """Write the HTML report of a run."""
    from alphaedit.cli.reporting import command_line, spectra, versions
    from alphaedit.report.page import Changed, Curve, Report, write

    made = _made(run)
    changed = [
        Changed(fact.text, fact.target, before, after)
        for edit in (editor.edits[-made:] if made else [])
        for fact, before, after in zip(edit.facts, edit.before, edit.after, strict=True)
    ]
    write(
        Report(
            title=f"Evaluation of {run.method}",
            subtitle=f"{run.edits} records of {records} edited into {model} in batches of "
            f"{run.batch_size}: a load of {run.load:.3f} edits for each dimension of the keys.",
            command=command_line(),
            changed=changed,
            metrics={"unedited": run.before, run.method: run.metrics},
            curves=[Curve(run.method, tuple(run.curve))] if len(run.curve) > 1 else [],
            spectra=spectra(editor, run.hyperparameters),
            hyperparameters=run.hyperparameters,
            seconds=run.seconds,
            versions=versions(),
        ),
        path,
    )


def _show(result: dict[str, Any], report: Path | None) -> None:
    console = output_console()
    columns = {"unedited": result["before"]}
    title = f"{result['model']}, unedited"
    if result["method"] != "none":
        columns[result["method"]] = result
        title = f"{result['edits']} edits by {result['method']}, load {result['load']:.3f}"
    tables.metrics_table(columns, title)
    if result["stopped"]:
        console.print(f"Guard: {result['stopped']}", style="red", highlight=False, soft_wrap=True)
    console.print(tables.seconds_line(result["seconds"]), highlight=False, soft_wrap=True)
    if report is not None:
        console.print(f"Report written to {report}", highlight=False, soft_wrap=True)
