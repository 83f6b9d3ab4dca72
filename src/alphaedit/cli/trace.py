"""`alphaedit trace`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs
from alphaedit.cli import facts as sources
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session

if TYPE_CHECKING:
    from alphaedit.core.fact import Fact
    from alphaedit.jobs.trace import TraceRequest
    from alphaedit.locate.trace import Trace

EXAMPLES = examples(
    "alphaedit trace bundled --count 20 --suggest-layers",
    "alphaedit trace bundled world --kind all --plot trace.svg",
    "alphaedit trace ./my-model facts.jsonl --kind mlp --window 5 --json",
    "grep France facts.jsonl | alphaedit trace ./my-model - --json",
)
WORLD = "world"
DEFAULT_COUNT = 100


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """What is traced, and how."""

    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            help="How many facts to trace.",
            show_default=f"{DEFAULT_COUNT}, or all if fewer",
        ),
    ] = None
    noise: Annotated[
        float,
        typer.Option(
            "--noise",
            help="Standard deviation of the noise, in standard deviations of the subjects' "
            "embeddings.",
        ),
    ] = 3.0
    samples: Annotated[int, typer.Option("--samples", min=1, help="Noises for each fact.")] = 10
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            autocompletion=complete.kinds,
            help="What is restored: hidden (states that leave a layer), mlp or attention (outputs "
            "in a window of layers), or all.",
        ),
    ] = "hidden"
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            min=1,
            help="Layers restored together, for mlp and attention.",
            show_default="a fifth of the layers, 3 to 10",
        ),
    ] = None
    suggest_layers: Annotated[
        bool, typer.Option("--suggest-layers", help="Say which layers to edit.")
    ] = False


@options.grouped
def trace(
    model: options.Model,
    *,
    facts: Annotated[
        str,
        typer.Argument(
            metavar="FACTS",
            help="A file of facts (.json, .jsonl, .csv, .yaml), - for standard input, or 'world': "
            "facts of the bundled world, drawn by --seed.",
        ),
    ] = WORLD,
    format: sources.Format = None,
    tracing: Tracing,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw heat maps: .svg, .png or .pdf."),
    ] = None,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any]:
    """Show where a model keeps its facts, by causal tracing.

    The subject is corrupted by noise, then one clean state is put back: the share of the answer's
    probability that returns tells what that state carries. Answers are the model's own, so facts
    that it knows tell most. Nothing is changed.
    """
    from alphaedit.jobs.trace import TraceRequest

    request = TraceRequest(
        model=model,
        facts_from=facts,
        plot=plot,
        seed=common.seed,
        **vars(tracing),
        **vars(common.loading),
    )
    outputs.check_outputs(model, [outputs.Output("--plot", plot)], force=force)
    if plot is not None:
        from alphaedit.report.figures import check_ending

        check_ending(plot)
    if facts != WORLD:
        request = replace(request, facts=_from_file(facts, format, request.count))
    return _run(request, common.session)


def _run(request: TraceRequest, session: Session) -> dict[str, Any]:
    from alphaedit.jobs import trace as job

    result = session.run(job.run, request)
    if not session.json:
        _show(session, result.traces, result.suggested, result.plot)
    return outputs.end(session, result.to_json(), result.failed)


def _from_file(path: str, kind: str | None, count: int | None) -> list[Fact]:
    from alphaedit.jobs.trace import too_few

    facts = sources.load(path, kind)
    if count is not None and len(facts) < count:
        raise too_few(count, sources.name_of(path), len(facts))
    return facts[: count or DEFAULT_COUNT]


def _show(
    session: Session, traces: Sequence[Trace], suggested: list[int] | None, plot: Path | None
) -> None:
    from rich.table import Table

    from alphaedit.locate.trace import POSITIONS

    for traced in traces:
        effect, (low, high) = traced.indirect_effect, traced.band
        seen = [i for i, row in enumerate(effect) if not row.isnan().all()]
        what = {"hidden": "Hidden states", "mlp": "MLP outputs", "attention": "Attention outputs"}
        over = f" of {traced.window} layers" if traced.window > 1 else ""
        title = (
            f"{what[traced.kind]}{over} restored: what returns of p(answer), "
            f"{traced.corrupted:.3f} with noise and {traced.clean:.3f} without, {traced.facts} "
            "facts, 95 % intervals"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("layer", justify="right", no_wrap=True, min_width=5)
        for i in seen:
            table.add_column(POSITIONS[i], justify="right")
        for layer in range(effect.shape[1]):
            cells = (
                f"{effect[i, layer]:.2f} ({low[i, layer]:.2f}, {high[i, layer]:.2f})".replace(
                    "-0.00", "0.00"
                )
                for i in seen
            )
            table.add_row(str(layer), *cells)
        session.say(table)
    if suggested is not None:
        layers = ",".join(map(str, suggested))
        session.say(f"Layers to edit: --set layers={layers}")
    if plot is not None:
        session.say(f"Heat maps drawn in {plot}")
