"""`alphaedit tune`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import options, outputs, prepare
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.core.fact import Fact
    from alphaedit.model.handle import ModelHandle
    from alphaedit.tune.search import Trial
    from alphaedit.tune.tuner import Tuned

EXAMPLES = examples(
    "alphaedit tune ./my-model facts.jsonl -o preset.yaml",
    "alphaedit tune ./my-model counterfact.json --method memit --budget 1800 --edits 2000 "
    "-o memit.yaml",
    "alphaedit edit ./my-model facts.jsonl --preset preset.yaml -o my-edits",
    "alphaedit tune bundled world --trials 10 --set layers=0-3 -o preset.yaml",
)
WORLD = "world"
WORLD_FACTS = 72


@options.loads_model
def tune(
    model: options.Model,
    facts: Annotated[
        str,
        typer.Argument(
            metavar="FACTS",
            help="Facts to try (see `edit`), best with paraphrases and neighborhood prompts, or "
            "'world': counterfactuals of the bundled world. They are not kept.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Write the preset here (.yaml).")
    ],
    method: options.Method = "alphaedit",
    pilots: Annotated[
        int, typer.Option("--pilots", min=2, help="Facts edited in each trial.")
    ] = 24,
    edits: Annotated[
        int | None,
        typer.Option(
            "--edits",
            min=1,
            help="How many edits you plan: the drift of the pilots is scaled to them.",
            show_default="a tenth of the keys' dimension",
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option("--budget", min=0, help="Seconds for trials; none is begun after them."),
    ] = 600.0,
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Most trials.", show_default="as the budget allows"),
    ] = None,
    preset: options.Preset = None,
    settings: options.Settings = None,
    plugins: options.Plugins = None,
    corpus: options.CorpusName = None,
    tokens: options.Tokens = None,
    tolerance: options.Tolerance = None,
    cache_dir: options.CacheDir = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Find hyperparameters for a model by pilot edits, and write them as a preset.

    Layers, clamp, learning rate, null space, ridge and steps are searched one after the other from
    a first choice (a preset, or what the model shows); what --set gives stays. Each trial edits the
    same few facts and counts efficacy, generalization, specificity and drift on held-out text.
    Trials are kept beside FILE: a search that was stopped goes on there, and --force begins anew.
    """
    from alphaedit.methods.presets import ENDINGS

    over = prepare.overrides(settings, plugins, method=method)
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{out} does not end in .yaml.", remedy="By that, --preset knows files.")
    log = out.with_name(f"{out.name}.trials.jsonl")
    trials_of = outputs.Output("The log of trials", log, ours=_is_log, again=True)
    outputs.check_outputs(model, [outputs.Output("-o", out), trials_of], force=force)
    anew = force and out.exists()
    given = None if facts == WORLD else sources.load(facts)
    said = Session(json=json, quiet=quiet)
    began = time.perf_counter()
    with said.progress(f"Trials so far are in {log}: the same command goes on from there.") as on:
        editor = prepare.open_editor(
            model,
            on,
            seed=seed,
            loading=loading,
            corpus=corpus,
            tokens=tokens,
            tolerance=tolerance,
            cache_dir=cache_dir,
        )
        from alphaedit.methods.presets import write_preset
        from alphaedit.tune.tuner import tune as run

        handle = editor.handle
        if anew:
            log.unlink(missing_ok=True)
        tuned = run(
            handle,
            editor.statistics,
            given or _from_world(handle, seed),
            method,
            pilots=pilots,
            planned=edits,
            seconds=budget,
            trials=trials,
            fixed=over,
            preset=preset,
            log=log,
            seed=seed,
            progress=on,
        )
        comment = f"Use: alphaedit edit {model} FACTS --method {tuned.method} --preset {out}"
        write_preset(out, tuned.preset(handle), comment)
        said.wrote(out)
    result = _result(tuned, model, out, log, time.perf_counter() - began, seed)
    if not json:
        _show(tuned, result)
    return result


def _is_log(path: Path) -> bool:
    from alphaedit.tune.tuner import is_log

    return is_log(path)


def _from_world(handle: ModelHandle, seed: int) -> list[Fact]:
    from alphaedit.bench.sources import records_of

    return [record.fact for record in records_of(handle, WORLD, WORLD_FACTS, seed)]


def _row(trial: Trial) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(trial), "score": trial.score}


def _result(
    tuned: Tuned, model: str, out: Path, log: Path, seconds: float, seed: int
) -> dict[str, Any]:
    from dataclasses import asdict

    checked = tuned.checked
    return {
        "model": model,
        "method": tuned.method,
        "preset": str(out),
        "log": str(log),
        "hyperparameters": tuned.hyperparameters.model_dump(mode="json", exclude_none=True),
        "start": _row(tuned.found.start),
        "best": _row(tuned.found.best),
        "checked": {"start": asdict(checked[0]), "best": asdict(checked[1])} if checked else None,
        "trials": len(tuned.found.trials),
        "finished": tuned.found.finished,
        "planned": tuned.planned,
        "seconds": seconds,
        "seed": seed,
    }


def _show(tuned: Tuned, result: dict[str, Any]) -> None:
    from rich.table import Table

    console = output_console()
    table = Table(title=f"{tuned.method}: {result['trials']} trials", title_justify="left")
    table.add_column("")
    for name in ("efficacy", "generalization", "specificity", "stability", "score"):
        table.add_column(name, justify="right")
    rows = [("start", tuned.found.start.measured), ("best", tuned.found.best.measured)]
    if tuned.checked:
        rows += [("start, other facts", tuned.checked[0]), ("best, other facts", tuned.checked[1])]
    for name, found in rows:
        if found is None:
            table.add_row(name, *["-"] * 5)
            continue
        shares = (found.efficacy, found.generalization, found.specificity, found.stability)
        cells = ["-" if share is None else f"{100 * share:.1f}" for share in (*shares, found.score)]
        table.add_row(name, *cells)
    console.print(table)
    start, best = tuned.found.start.values, tuned.found.best.values
    changed = [f"{k} {start.get(k)} -> {v}" for k, v in best.items() if start.get(k) != v]
    lines = [
        "Changed: " + ("; ".join(changed) or "nothing, the first choice was the best found") + ".",
        f"Stability: what is left of held-out text's predictions after {tuned.planned} edits.",
    ]
    if not result["finished"]:
        lines.append(
            f"The budget ended the search: a larger one goes on from {result['log']} (with --force "
            "it begins anew)."
        )
    lines.append(f"Preset written to {result['preset']}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
