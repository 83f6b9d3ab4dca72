"""`alphaedit tune`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import options, outputs
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session
from alphaedit.core import defaults
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.jobs.tune import TuneRequest
    from alphaedit.tune.tuner import Tuned

EXAMPLES = examples(
    "alphaedit tune ./my-model facts.jsonl -o preset.yaml",
    "alphaedit tune ./my-model counterfact.json --method memit --budget 1800 --edits 2000 "
    "-o memit.yaml",
    "alphaedit edit ./my-model facts.jsonl --preset preset.yaml -o my-edits",
    "alphaedit tune bundled world --trials 10 --set layers=0-3 -o preset.yaml",
)
WORLD = "world"


@dataclass(frozen=True, kw_only=True)
class Search:
    """How long the search goes on."""

    pilots: Annotated[int, typer.Option("--pilots", min=2, help="Facts edited in each trial.")] = 24
    edits: Annotated[
        int | None,
        typer.Option(
            "--edits",
            min=1,
            help="How many edits you plan: the drift of the pilots is scaled to them.",
            show_default="a tenth of the keys' dimension",
        ),
    ] = None
    budget: Annotated[
        float,
        typer.Option("--budget", min=0, help="Seconds for trials; none is begun after them."),
    ] = 600.0
    trials: Annotated[
        int | None,
        typer.Option("--trials", min=1, help="Most trials.", show_default="as the budget allows"),
    ] = None


@options.grouped
def tune(
    model: options.Model,
    *,
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
    method: options.Method = defaults.WEIGHTS,
    search: Search,
    how: options.Hyperparameters,
    moments: options.Moments,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any]:
    """Find hyperparameters for a model by pilot edits, and write them as a preset.

    Layers, clamp, learning rate, null space, ridge and steps are searched one after the other from
    a first choice (a preset, or what the model shows); what --set gives stays. Each trial edits the
    same few facts and counts efficacy, generalization, specificity and drift on held-out text.
    Trials are kept beside FILE: a search that was stopped goes on there, and --force begins anew.
    """
    from alphaedit.methods.presets import ENDINGS

    over = how.given(method)
    if out.suffix.lower() not in ENDINGS:
        raise ConfigError(f"{out} does not end in .yaml.", remedy="By that, --preset knows files.")
    from alphaedit.jobs.tune import TuneRequest

    request = TuneRequest(
        model=model,
        out=out,
        method=method,
        preset=how.preset,
        hyperparameters=over,
        anew=force and out.exists(),
        seed=common.seed,
        **vars(search),
        **vars(common.loading),
        **vars(moments),
    )
    return _run(request, facts, common.session, force=force)


def _run(request: TuneRequest, facts: str, session: Session, *, force: bool) -> dict[str, Any]:
    from alphaedit.jobs import tune as job

    log = request.log
    trials_of = outputs.Output("The log of trials", log, ours=_is_log, again=True)
    places = [outputs.Output("-o", request.out), trials_of]
    outputs.check_outputs(request.model, places, force=force)
    request = replace(request, facts=None if facts == WORLD else sources.load(facts))
    note = f"Trials so far are in {log}: the same command goes on from there."
    tuning = session.run(job.run, request, note=note)
    result = tuning.to_json()
    if not session.json:
        _show(session, tuning.tuned, result)
    return result


def _is_log(path: Path) -> bool:
    from alphaedit.tune.tuner import is_log

    return is_log(path)


def _show(session: Session, tuned: Tuned, result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{tuned.method}: {result['trials']} trials", title_justify="left")
    table.add_column("")
    for name in ("efficacy", "generalization", "specificity", "stability", "score"):
        table.add_column(name, justify="right")
    rows = [("start", tuned.search.start.measured), ("best", tuned.search.best.measured)]
    if tuned.checked:
        rows += [("start, other facts", tuned.checked[0]), ("best, other facts", tuned.checked[1])]
    for name, measured in rows:
        if measured is None:
            table.add_row(name, *["-"] * 5)
            continue
        shares = (
            measured.efficacy,
            measured.generalization,
            measured.specificity,
            measured.stability,
        )
        cells = [
            "-" if share is None else f"{100 * share:.1f}" for share in (*shares, measured.score)
        ]
        table.add_row(name, *cells)
    session.say(table)
    start, best = tuned.search.start.values, tuned.search.best.values
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
    session.say(*lines)
