"""`alphaedit trace`."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs
from alphaedit.cli import facts as sources
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console, quiet_libraries
from alphaedit.core.errors import ConfigError

if TYPE_CHECKING:
    from alphaedit.core.fact import Fact
    from alphaedit.locate.trace import Trace
    from alphaedit.model.handle import ModelHandle

EXAMPLES = examples(
    "alphaedit trace bundled --count 20 --suggest-layers",
    "alphaedit trace bundled world --kind all --plot trace.svg",
    "alphaedit trace ./my-model facts.jsonl --kind mlp --window 5 --json",
    "grep France facts.jsonl | alphaedit trace ./my-model - --json",
)
WORLD = "world"
ALL = "all"
DEFAULT_COUNT = 100


@options.loads_model
def trace(
    model: options.Model,
    facts: Annotated[
        str,
        typer.Argument(
            metavar="FACTS",
            help="A file of facts (.json, .jsonl, .csv, .yaml), - for standard input, or 'world': "
            "facts of the bundled world, drawn by --seed.",
        ),
    ] = WORLD,
    format: sources.Format = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            min=1,
            help="How many facts to trace.",
            show_default=f"{DEFAULT_COUNT}, or all if fewer",
        ),
    ] = None,
    noise: Annotated[
        float,
        typer.Option(
            "--noise",
            help="Standard deviation of the noise, in standard deviations of the subjects' "
            "embeddings.",
        ),
    ] = 3.0,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Noises for each fact.")] = 10,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            autocompletion=complete.kinds,
            help="What is restored: hidden (states that leave a layer), mlp or attention (outputs "
            "in a window of layers), or all.",
        ),
    ] = "hidden",
    window: Annotated[
        int | None,
        typer.Option(
            "--window",
            min=1,
            help="Layers restored together, for mlp and attention.",
            show_default="a fifth of the layers, 3 to 10",
        ),
    ] = None,
    suggest_layers: Annotated[
        bool, typer.Option("--suggest-layers", help="Say which layers to edit.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw heat maps: .svg, .png or .pdf."),
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Show where a model keeps its facts, by causal tracing.

    The subject is corrupted by noise, then one clean state is put back: the share of the answer's
    probability that returns tells what that state carries. Answers are the model's own, so facts
    that it knows tell most. Nothing is changed.
    """
    kinds = _kinds(kind, window)
    if not noise > 0:
        raise ConfigError(f"--noise {noise} corrupts nothing.", remedy="Give a number above 0.")
    outputs.check_outputs(model, [outputs.Output("--plot", plot)], force=force)
    if plot is not None:
        from alphaedit.report.figures import check_ending

        check_ending(plot)
    chosen = None if facts == WORLD else _from_file(facts, format, count)
    out = Session(json=json, quiet=quiet)
    began = time.perf_counter()
    with out.progress() as progress:
        quiet_libraries()
        from alphaedit.locate.suggest import suggest_layers as suggest
        from alphaedit.locate.trace import trace as run
        from alphaedit.model.handle import ModelHandle

        handle = ModelHandle.load(model, **asdict(loading))
        if chosen is None:
            chosen = _from_world(handle, count or DEFAULT_COUNT, seed)
        seconds = {"model": time.perf_counter() - began}
        traces: dict[str, Trace] = {}
        for name in [*kinds, *(["hidden"] if suggest_layers and "hidden" not in kinds else [])]:
            started = time.perf_counter()
            traces[name] = run(
                handle,
                chosen,
                kind=name,
                window=None if name == "hidden" else window,
                noise=noise,
                samples=samples,
                seed=seed,
                progress=progress,
            )
            seconds[name] = time.perf_counter() - started
        suggested = list(suggest(traces["hidden"])) if suggest_layers else None
        from alphaedit.report.heatmap import save_traces

        late = outputs.Late(out)
        plot = late.write("--plot", plot, partial(save_traces, list(traces.values())))
    result: dict[str, Any] = {
        "model": model,
        "facts": facts,
        "count": len(chosen),
        "noise": noise,
        "samples": samples,
        "seed": seed,
        "traces": [_plain(traced) for traced in traces.values()],
        "by_fact": _by_fact(chosen, next(iter(traces.values()))),
        "suggested_layers": suggested,
        "plot": str(plot) if plot else None,
        "seconds": seconds,
    }
    if not json:
        _show(list(traces.values()), suggested, plot)
    return late.end(result)


def _kinds(kind: str, window: int | None) -> list[str]:
    known = ("hidden", "mlp", "attention")
    if kind not in (*known, ALL):
        from alphaedit.core.errors import unknown_name

        raise unknown_name("--kind", kind, (*known, ALL))
    if kind == "hidden" and window is not None:
        raise ConfigError(
            "--window is for outputs of the MLP or the attention; hidden states are restored in "
            "one layer.",
            remedy="Leave it out, or give --kind mlp, attention or all.",
        )
    return list(known) if kind == ALL else [kind]


def _from_file(path: str, kind: str | None, count: int | None) -> list[Fact]:
    found = sources.load(path, kind)
    if count is not None and len(found) < count:
        raise _too_few(count, sources.name_of(path), len(found))
    return found[: count or DEFAULT_COUNT]


def _from_world(handle: ModelHandle, count: int, seed: int) -> list[Fact]:
    """True facts of the part of the bundled world that the model knows, or of all of it."""
    from alphaedit.core.fact import Fact
    from alphaedit.world.facts import World
    from alphaedit.world.records import records

    world = World.load()
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    rows = records(world.largest(known) if known else world, count, seed=seed)
    if len(rows) < count:
        raise _too_few(count, "the world", len(rows))
    asked = [row["requested_rewrite"] for row in rows]
    return [Fact(r["prompt"], r["subject"], r["target_true"]["str"]) for r in asked]


def _too_few(count: int, where: str, held: int) -> ConfigError:
    return ConfigError(
        f"--count {count} is asked for, and {where} holds {held} facts.",
        remedy=f"Give --count {held} or fewer.",
    )


def _plain(traced: Trace) -> dict[str, Any]:
    """A trace as plain data; positions that no fact has are null."""
    from alphaedit.locate.trace import POSITIONS

    low, high = traced.band
    return {
        "kind": traced.kind,
        "window": traced.window,
        "clean": traced.clean,
        "corrupted": traced.corrupted,
        "positions": list(POSITIONS),
        "indirect_effect": traced.indirect_effect.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "effect_by_fact": traced.effect_by_fact.tolist(),
    }


def _by_fact(facts: list[Fact], traced: Trace) -> list[dict[str, Any]]:
    values = zip(
        facts, traced.clean_by_fact.tolist(), traced.corrupted_by_fact.tolist(), strict=True
    )
    return [{"prompt": f.text, "clean": clean, "corrupted": bad} for f, clean, bad in values]


def _show(traces: list[Trace], suggested: list[int] | None, plot: Path | None) -> None:
    from rich.table import Table

    from alphaedit.locate.trace import POSITIONS

    console = output_console()
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
        console.print(table)
    if suggested is not None:
        layers = ",".join(map(str, suggested))
        console.print(f"Layers to edit: --set layers={layers}", highlight=False, soft_wrap=True)
    if plot is not None:
        console.print(f"Heat maps drawn in {plot}", highlight=False, soft_wrap=True)
