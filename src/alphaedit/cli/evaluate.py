"""`alphaedit eval`."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from alphaedit.cli import common
from alphaedit.core.errors import ConfigError

KEPT = 1000


def evaluate(
    model: Annotated[str, typer.Argument(help="directory, hub name, or 'bundled'")],
    records: Annotated[str, typer.Argument(help="CounterFact-schema file, or 'world'")],
    method: Annotated[str, typer.Option(help="a method, or 'none': the unedited model")] = "none",
    batch_size: Annotated[int, typer.Option(help="facts edited at once")] = 100,
    edits: Annotated[int | None, typer.Option(help="how many records; default: all")] = None,
    every: Annotated[int | None, typer.Option(help="also evaluate every so many batches")] = None,
    generation: Annotated[bool, typer.Option(help="fluency and consistency")] = True,
    preset: common.PresetOption = None,
    set_: common.SetOption = None,
    corpus: common.CorpusOption = None,
    tokens: common.TokensOption = None,
    json: common.JsonOption = False,
    seed: common.SeedOption = 0,
    device: common.DeviceOption = None,
    dtype: common.DtypeOption = None,
) -> None:
    """Edit records in batches, then evaluate on them: the paper's metrics with intervals.

    [bold]Examples[/]

    alphaedit eval bundled world --method alphaedit --batch-size 31 --edits 307

    alphaedit eval bundled counterfact.json --method none --json
    """
    from alphaedit.bench.data import EditRecord, load_records
    from alphaedit.bench.run import sequential
    from alphaedit.world.facts import World
    from alphaedit.world.records import probes
    from alphaedit.world.records import records as world_records

    if edits is not None and edits < 1:
        raise ConfigError("--edits must be at least 1.")
    if batch_size < 1:
        raise ConfigError("--batch-size must be at least 1.")
    over = common.overrides(set_)
    with common.progress_bars() as report:
        kept: list[tuple[str, str]] = []
        if records != "world":
            rows = load_records(records, edits)
        editor = common.open_editor(
            model, report, seed=seed, device=device, dtype=dtype, corpus=corpus, tokens=tokens
        )
        subjects = getattr(editor.handle.model.config, "alphaedit_subjects", None)
        world = World.load().largest(subjects) if subjects else World.load()
        if records == "world":
            made = world_records(world, edits or 100, seed=seed)
            rows = [EditRecord.from_dict(row, f"record {i}") for i, row in enumerate(made)]
        if subjects:
            kept = probes(world, {row.subject for row in rows}, KEPT, seed=seed)
        result = sequential(
            editor,
            rows,
            method.lower(),
            batch_size=batch_size,
            edits=edits or len(rows),
            seed=seed,
            evaluate_every=every,
            kept=kept,
            generation=generation,
            preset=preset,
            progress=report,
            **over,
        ).to_json()
    result = {"model": model, "records": records, "seed": seed, **result}
    if json:
        common.emit(result)
        return
    show(result)


def show(result: dict[str, Any]) -> None:
    """Print the metrics of a run as a table."""
    title = f"{result['method']}: {result['edits']} edits, load {result['load']:.3f}"
    table = Table("metric", "unedited", "after", "95 % interval", "n", title=title)
    for name, before in result["before"].items():
        after = result.get(name)
        if before is None or after is None:
            continue
        table.add_row(
            name,
            f"{before['value']:.2f}",
            f"{after['value']:.2f}",
            f"{after['low']:.2f} to {after['high']:.2f}",
            str(after["n"]),
        )
    common.out.print(table)
    spent = ", ".join(f"{name} {value:.1f} s" for name, value in result["seconds"].items())
    common.out.print(f"Time: {spent}")
