"""`alphaedit world`: the bundled world, and the models trained on it."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, options, outputs
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, to_json
from alphaedit.core.errors import ConfigError, ModelError, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from alphaedit.world.facts import World

app = typer.Typer(
    help="The bundled world: its facts, records, text, and the models trained on it.",
    epilog=examples(
        "alphaedit world info",
        "alphaedit world facts --relation P103 --format json",
        "alphaedit world records --count 200 -o records.json",
    ),
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Output = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="FILE", help="Write into this file.", show_default="standard output"
    ),
]
KnownTo = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        autocompletion=complete.bundled,
        help="About what this bundled model knows only.",
    ),
]
Start = Annotated[
    str | None,
    typer.Option(
        "--start",
        metavar="MODEL",
        autocompletion=complete.bundled,
        help="Go on from this trained model.",
        show_default="from scratch",
    ),
]
UNFINISHED = {"checkpoint.safetensors", "checkpoint.part", "chat_template.jinja"}
UNFINISHED |= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
"""Files that a training which was stopped leaves."""
GO_ON = "The last checkpoint is kept: the same command goes on from it."


def _world(model: str | None = None) -> World:
    """The world, or the part of it that a bundled model was trained on."""
    from alphaedit.world.facts import World

    world = World.load()
    if model is None:
        return world
    import json

    from alphaedit.world.asset import path

    config = json.loads((path(model) / "config.json").read_text(encoding="utf-8"))
    return world.largest(config.get("alphaedit_subjects", len(world.subjects)))


def _deliver(text: str, path: Path | None, *, as_json: bool, force: bool) -> None:
    """Write `text` where it should go; with --json, standard output is the result's alone."""
    if path is not None:
        from alphaedit.core.files import write_text
        from alphaedit.core.marks import alike

        place = outputs.Output("-o", path, ours=lambda existing: alike(existing, text))
        outputs.check_outputs(None, [place], force=force)
        write_text(text, path)
    elif not as_json:
        print(text, end="")


@app.command(
    epilog=examples(
        "alphaedit world facts",
        "alphaedit world facts --relation P103 --count 10",
        "alphaedit world facts --format json -o facts.json",
    )
)
@options.grouped
def facts(
    relation: Annotated[
        str | None,
        typer.Option("--relation", metavar="RELATION", help="Of one relation only, such as P103."),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", min=1, help="The best known only.")
    ] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            autocompletion=complete.tables,
            help="tsv or json.",
        ),
    ] = "tsv",
    out_file: Output = None,
    force: options.Force = False,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Print the world's facts: subject, relation, object."""
    if form not in ("tsv", "json"):
        raise ConfigError(f"Unknown format {form!r}.", remedy="Give tsv or json.")
    world = _world()
    if relation is not None and relation not in world.relations:
        raise unknown_name("relation", relation, list(world.relations))
    chosen = [f for f in world.facts if relation in (None, f.relation)][:count]
    rows = [
        {
            "subject": f.subject,
            "relation": f.relation,
            "name": world.relations[f.relation].name,
            "object": f.object,
        }
        for f in chosen
    ]
    if form == "json":
        text = to_json(rows, indent=1) + "\n"
    else:
        text = "".join(f"{f.subject}\t{f.relation}\t{f.object}\n" for f in chosen)
    _deliver(text, out_file, as_json=common.json, force=force)
    if out_file is not None:
        return {"out": str(out_file), "count": len(rows)}
    return {"facts": rows}


@app.command(
    epilog=examples(
        "alphaedit world records --count 200 --seed 1 -o records.json",
        "alphaedit world records --schema knowedit --count 50 -o knowedit.json",
        "alphaedit eval bundled records.json --edits 200",
        "alphaedit edit bundled records.json -o my-edits",
    )
)
def records(
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = 100,
    model: KnownTo = None,
    schema: Annotated[
        str,
        typer.Option(
            "--schema",
            metavar="SCHEMA",
            autocompletion=complete.made_schemas,
            help="counterfact, leme, zsre, knowedit, mquake, ripple-edits, longform or easyedit.",
        ),
    ] = "counterfact",
    out_file: Output = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Make counterfactual records about the world, in the schema of a benchmark."""
    from alphaedit.core.errors import unknown_name
    from alphaedit.world.schemas import SCHEMAS

    if schema not in SCHEMAS:
        raise unknown_name("schema", schema, list(SCHEMAS))
    made = SCHEMAS[schema](_world(model), count, seed)
    _deliver(to_json(made, indent=1) + "\n", out_file, as_json=json, force=force)
    if out_file is not None:
        return {"out": str(out_file), "count": len(made), "seed": seed}
    return {"records": made, "seed": seed}


@app.command(
    epilog=examples(
        "alphaedit world corpus --count 3",
        "alphaedit world corpus --count 20000 --seed 7 -o world.txt",
        "alphaedit stats ./my-model --corpus world.txt",
    )
)
def corpus(
    count: Annotated[int, typer.Option("--count", min=1, help="How many texts.")] = 1000,
    model: KnownTo = None,
    out_file: Output = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 1,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Print text about the world, a paragraph a text."""
    from alphaedit.world.text import bundled_texts

    subjects = None if model is None else len(_world(model).subjects)
    texts = list(islice(bundled_texts(seed=seed, subjects=subjects), count))
    _deliver("\n\n".join(texts) + "\n", out_file, as_json=json, force=force)
    if out_file is not None:
        return {"out": str(out_file), "count": len(texts), "seed": seed}
    return {"texts": texts, "seed": seed}


@app.command(
    epilog=examples(
        "alphaedit world tasks --count 5", "alphaedit world tasks --count 300 -o tasks.jsonl"
    )
)
def tasks(
    count: Annotated[int, typer.Option("--count", min=1, help="How many of each task.")] = 100,
    model: KnownTo = None,
    out_file: Output = None,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Make classification tasks with answers, as JSON Lines: truth, same or different, category."""
    from alphaedit.world import phrasing

    world, rng = _world(model), random.Random(seed)
    rows = []
    for name, make in phrasing.TASKS.items():
        for _ in range(count):
            asked, answer = make(world, rng.choice(world.facts), rng)
            rows.append({"task": name, "prompt": phrasing.text_of(asked), "answer": answer})
    text = "".join(to_json(row) + "\n" for row in rows)
    _deliver(text, out_file, as_json=json, force=force)
    if out_file is not None:
        return {"out": str(out_file), "count": len(rows), "seed": seed}
    return {"tasks": rows, "seed": seed}


@app.command(
    epilog=examples(
        "alphaedit world train bundled -o ./bundled",
        "alphaedit world train bundled-small -o ./small --tokens 1000000 --seed 3",
        "alphaedit world train bundled -o ./longer --start bundled",
    )
)
def train(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete.bundled,
            help="Recipe: 'bundled' or 'bundled-small'.",
        ),
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Write the model here.")
    ],
    tokens: Annotated[
        int | None,
        typer.Option("--tokens", min=1, help="Length of training.", show_default="the recipe's"),
    ] = None,
    start: Start = None,
    json: options.Json = False,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Train a bundled model; an interrupted run goes on from its last checkpoint."""
    outputs.check_outputs(None, [outputs.Output("-o", out_dir, outputs.RESULTS)])
    if (out_dir / "model.safetensors").is_file():
        raise ConfigError(f"{out_dir} holds a finished model.", remedy="Choose another directory.")
    others = sorted(file.name for file in out_dir.glob("*") if file.name not in UNFINISHED)
    if others:
        raise ConfigError(
            f"{out_dir} holds {others[0]}, which no unfinished training left there.",
            remedy="Choose another directory.",
        )
    from alphaedit.world.asset import trained
    from alphaedit.world.train import RECIPES
    from alphaedit.world.train import train as run

    if name not in RECIPES:
        raise unknown_name("recipe", name, list(RECIPES))
    recipe = replace(RECIPES[name], seed=seed)
    begin = None if start is None else trained(start, recipe)
    recipe = recipe if begin is None else recipe.continued()
    if tokens is not None:
        recipe = replace(recipe, tokens=tokens)
    last: dict[str, float] = {}
    out = Session(json=json, quiet=quiet)
    with out.progress(GO_ON) as progress:

        def told(row: dict[str, float]) -> None:
            last.update(row)
            progress("training", int(row["step"]), int(row["steps"]))

        run(recipe, out_dir, start=begin, report=told)
    out.say(f"Trained {name} into {out_dir}: loss {last.get('loss', float('nan')):.3f}.")
    return {"out": str(out_dir), "recipe": asdict(recipe), **last}


@app.command(epilog=examples("alphaedit world info", "alphaedit world info --json"))
@options.grouped
def info(common: options.Plain) -> dict[str, Any]:
    """What the world holds, and what is known of the bundled models."""
    from collections import Counter

    from alphaedit.world.asset import NAMES

    world = _world()
    count = Counter(f.relation for f in world.facts)
    relations = {
        key: {
            "name": r.name,
            "of": r.subject_type,
            "facts": count[key],
            "objects": len(world.objects.get(key, ())),
            "example": r.train[0],
        }
        for key, r in world.relations.items()
    }
    result = {
        "facts": len(world.facts),
        "subjects": len(world.subjects),
        "relations": relations,
        "fingerprint": world.fingerprint(),
        "models": {name: _card(name) for name in NAMES},
    }
    if not common.json:
        common.session.say(*_tables(result))
    return result


def _card(name: str) -> dict[str, Any] | None:
    """Size of a bundled model, and what its training left in its files."""
    import json

    from alphaedit.world.asset import path

    try:
        folder = path(name)
    except ModelError:
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about = folder / "world.json"
    return {
        "path": str(folder),
        "megabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1),
        "family": config.get("model_type"),
        "layers": config.get("n_layer", config.get("num_hidden_layers")),
        "width": config.get("n_embd", config.get("hidden_size")),
        "subjects": config.get("alphaedit_subjects"),
        **(json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}),
    }


def _tables(result: dict[str, Any]) -> tuple[Table, Table]:
    """The relations, and the models."""
    from rich.table import Table

    title = (
        f"{result['facts']:,} facts about {result['subjects']:,} subjects in "
        f"{len(result['relations'])} relations"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "relation", "of a", "facts", "objects", "phrasing"):
        table.add_column(column, justify="right" if column in ("facts", "objects") else "left")
    for key, row in result["relations"].items():
        table.add_row(
            key, row["name"], row["of"], str(row["facts"]), str(row["objects"]), row["example"]
        )
    models = Table(title="Bundled models", title_justify="left")
    for column in ("name", "family", "layers", "width", "subjects", "MB", "training loss"):
        models.add_column(column)
    for name, card in result["models"].items():
        if card is None:
            models.add_row(name, "not in this installation")
            continue
        values = [card[k] for k in ("family", "layers", "width", "subjects", "megabytes")]
        loss = card.get("loss")
        models.add_row(name, *map(str, values), f"{loss:.3f}" if loss is not None else "")
    return table, models
