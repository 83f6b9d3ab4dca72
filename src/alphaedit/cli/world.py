"""`alphaedit world`: the bundled world and its models."""

from __future__ import annotations

import json as json_module
import random
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from alphaedit.cli import common
from alphaedit.core.errors import ConfigError, unknown_name

app = typer.Typer(
    help="The bundled world: facts, records, text, and training of the bundled models.",
    no_args_is_help=True,
)
OutputOption = Annotated[Path | None, typer.Option("-o", "--output", help="file to write")]


def _write(text: str, output: Path | None) -> None:
    if output is None:
        typer.echo(text, nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(output.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(output)
    common.err.print(f"Written: {output}")


@app.command()
def info(json: common.JsonOption = False) -> None:
    """What the world holds, and how the bundled models were trained.

    [bold]Examples[/]

    alphaedit world info --json
    """
    from alphaedit.world.asset import NAMES, path
    from alphaedit.world.facts import World

    world = World.load()
    models = {}
    for name in NAMES:
        file = path(name) / "world.json"
        models[name] = json_module.loads(file.read_text(encoding="utf-8"))
    data = {
        "facts": len(world.facts),
        "subjects": len(world.subjects),
        "relations": len(world.relations),
        "fingerprint": world.fingerprint(),
        "models": models,
    }
    if json:
        common.emit(data)
        return
    table = Table("relation", "facts", "objects", "example")
    for key, relation in world.relations.items():
        facts = [f for f in world.facts if f.relation == key]
        sample = f"{facts[0].subject}: {facts[0].object}" if facts else ""
        table.add_row(relation.name, str(len(facts)), str(len(world.objects.get(key, ()))), sample)
    common.out.print(table)
    common.out.print(
        f"{data['facts']} facts about {data['subjects']} subjects; models: {', '.join(NAMES)}"
    )


@app.command()
def facts(
    output: OutputOption = None,
    count: Annotated[int, typer.Option(help="how many facts")] = 20,
    seed: common.SeedOption = 0,
) -> None:
    """Counterfactual facts to edit in, as JSON Lines for `alphaedit edit`.

    [bold]Examples[/]

    alphaedit world facts --count 50 -o facts.jsonl
    """
    from alphaedit.bench.data import EditRecord
    from alphaedit.world.facts import World
    from alphaedit.world.records import records as make

    rows = [EditRecord.from_dict(r, "record") for r in make(World.load(), count, seed=seed)]
    lines = [json_module.dumps(r.fact.to_dict(), ensure_ascii=False) + "\n" for r in rows]
    _write("".join(lines), output)


@app.command()
def records(
    output: OutputOption = None,
    count: Annotated[int, typer.Option(help="how many records")] = 100,
    seed: common.SeedOption = 0,
) -> None:
    """Records in CounterFact's schema, for `alphaedit eval`.

    [bold]Examples[/]

    alphaedit world records --count 307 --seed 1 -o records.json
    """
    from alphaedit.world.facts import World
    from alphaedit.world.records import records as make

    if count < 1:
        raise ConfigError("--count must be at least 1.")
    text = json_module.dumps(make(World.load(), count, seed=seed), indent=1, ensure_ascii=False)
    _write(text + "\n", output)


@app.command()
def corpus(
    output: OutputOption = None,
    count: Annotated[int, typer.Option(help="how many texts")] = 1000,
    seed: common.SeedOption = 1,
) -> None:
    """Text about the world, one text a line.

    [bold]Examples[/]

    alphaedit world corpus --count 5000 -o world.txt
    """
    from alphaedit.world.text import bundled_texts

    _write("\n\n".join(islice(bundled_texts(seed), count)) + "\n", output)


@app.command()
def tasks(
    output: OutputOption = None,
    count: Annotated[int, typer.Option(help="how many of each task")] = 100,
    seed: common.SeedOption = 0,
) -> None:
    """Classification tasks with answers (true or false, same or different, category).

    [bold]Examples[/]

    alphaedit world tasks --count 300 -o tasks.jsonl
    """
    from alphaedit.world import phrasing
    from alphaedit.world.facts import World

    world, rng, lines = World.load(), random.Random(seed), []
    for name, make in phrasing.TASKS.items():
        for _ in range(count):
            asked, answer = make(world, rng.choice(world.facts), rng)
            row = {"task": name, "prompt": phrasing.text_of(asked), "answer": answer}
            lines.append(json_module.dumps(row, ensure_ascii=False) + "\n")
    _write("".join(lines), output)


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="bundled or bundled-small")],
    output: Annotated[Path, typer.Option("-o", "--output", help="directory of the model")],
    tokens: Annotated[int | None, typer.Option(help="how many tokens to train on")] = None,
    seed: common.SeedOption = 0,
    json: common.JsonOption = False,
) -> None:
    """Train a bundled model from scratch. Resumes if interrupted; needs an hour on two cores.

    [bold]Examples[/]

    alphaedit world train bundled -o my-bundled

    alphaedit world train bundled-small -o small --tokens 1000000
    """
    from alphaedit.world.train import RECIPES
    from alphaedit.world.train import train as run

    if name not in RECIPES:
        raise unknown_name("bundled model", name, list(RECIPES))
    recipe = replace(RECIPES[name], seed=seed)
    if tokens is not None:
        recipe = replace(recipe, tokens=tokens)
    last: dict[str, float] = {}
    with common.progress_bars() as report:

        def show(row: dict[str, float]) -> None:
            last.update(row)
            phase = f"training, loss {row['loss']:.3f}, recall {row['recall']:.3f}"
            report("training", int(row["step"]), int(row["steps"]))
            if int(row["step"]) % 500 == 0:
                common.err.log(phase)

        run(recipe, output, report=show)
    if json:
        common.emit({"model": str(output), "recipe": asdict(recipe), **last})
        return
    common.out.print(f"Model written to {output}")
