"""`alphaedit plan`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import complete, options, prepare
from alphaedit.cli import facts as sources
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console

EXAMPLES = examples(
    "alphaedit plan bundled facts.jsonl",
    "alphaedit plan ./llama-3-8b facts.jsonl --on h100 --on rtx-4090 --batch-size 100",
    "alphaedit plan ./my-model facts.jsonl --set layers=4-8 --set steps=25 --json",
)


def plan(
    model: options.Model,
    facts: Annotated[Path, typer.Argument(metavar="FACTS", help="Facts, as for `alphaedit edit`.")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            metavar="GPU",
            autocompletion=complete.gpus,
            help="Also for a GPU: h200, h100, a100-80gb, a100-40gb, l40s, rtx-4090, l4, t4. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Facts a batch.", show_default="all at once"),
    ] = None,
    preset: options.Preset = None,
    settings: options.Settings = None,
    tokens: options.Tokens = None,
    json: options.Json = False,
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Tell what edits by AlphaEdit will take, from the config alone: no weights are read.

    For this machine rates are measured on the model's shapes; for GPUs they are 30 % of the data
    sheet's, an assumption. Every step of the search is counted: facts that converge early take
    less.
    """
    wanted = sources.load(facts)
    over = prepare.overrides(settings)
    from alphaedit.editor import plan as planning

    machines = [planning.gpu(name) for name in on or ()]
    out = Session(json=json, quiet=quiet)
    with out.progress():
        shape, hp, chosen, rows = _given(model, trust_remote_code, preset, over, wanted)
        machines.insert(0, planning.here(shape))
        plans = {
            machine.name: planning.plan(
                shape,
                hp,
                machine,
                facts=len(wanted),
                rows=rows,
                batch=batch_size,
                tokens=tokens,
            )
            for machine in machines
        }
    result = {
        "model": model,
        "shape": {**vars(shape), "dtype": str(shape.dtype).removeprefix("torch.")},
        "facts": len(wanted),
        "layers": list(hp.layers),
        "layers_from": chosen,
        "tokens_a_row": asdict(rows),
        "machines": {
            machine.name: {
                "rate": machine.rate,
                "memory": machine.memory,
                "measured": machine.measured,
                "peak": _peak(plans[machine.name]),
                "fits": _peak(plans[machine.name]) < machine.memory,
                "phases": [asdict(phase) for phase in plans[machine.name]],
            }
            for machine in machines
        },
    }
    if not json:
        _show(result)
    return result


def _given(
    model: str, trust: bool, preset: str | None, over: dict[str, Any], facts: list[Any]
) -> Any:
    from alphaedit.cli.output import quiet_libraries
    from alphaedit.editor import plan as planning
    from alphaedit.methods.config import Hyperparameters, build
    from alphaedit.methods.presets import matching
    from alphaedit.methods.presets import preset as values_of
    from alphaedit.model.load import read_tokenizer
    from alphaedit.model.shape import shape_of
    from alphaedit.model.tokens import Tokens

    quiet_libraries()
    shape = shape_of(model, trust_remote_code=trust)
    tokenizer = read_tokenizer(model, trust_remote_code=trust)
    chosen = "given"
    if "layers" not in over:
        name = preset or matching(shape.facts)
        chosen = f"preset {name}" if name else "a guess; the edit itself measures"
        middle = max(1, shape.layers // 2)
        guess = {"layers": tuple(range(max(0, middle - 5), middle))}
        over = {**(values_of(name, "alphaedit") if name else guess), **over}
    hp: Hyperparameters = build(over, f"hyperparameters of {model}")
    rows = planning.lengths(
        Tokens(tokenizer, shape.vocabulary), facts, hp.contexts, hp.context_tokens
    )
    return shape, hp, chosen, rows


def _peak(phases: Any) -> float:
    weights = next(p.memory for p in phases if p.name == "weights")
    held = next(p.memory for p in phases if p.name == "apply")
    return float(
        weights + held + max(p.memory for p in phases if p.name not in ("weights", "apply"))
    )


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    console = output_console()
    shape = result["shape"]
    console.print(
        f"{result['model']}: {shape['parameters'] / 1e6:,.0f} M parameters, {shape['layers']} "
        f"layers of {shape['width']}, keys of {shape['inner']}. {result['facts']} facts, layers "
        f"{', '.join(map(str, result['layers']))} ({result['layers_from']}).",
        highlight=False,
        soft_wrap=True,
    )
    for name, machine in result["machines"].items():
        how = "measured" if machine["measured"] else "assumed: 30 % of the data sheet's"
        title = f"{name}: {machine['rate'] / 1e12:,.2f} tera-operations a second ({how})"
        table = Table(title=title, title_justify="left")
        table.add_column("phase")
        for column in ("operations", "seconds", "memory", "done"):
            table.add_column(column, justify="right")
        for phase in machine["phases"]:
            table.add_row(
                phase["name"],
                f"{phase['operations']:.1e}" if phase["operations"] else "",
                _seconds(phase["seconds"]) if phase["operations"] else "",
                _bytes(phase["memory"]),
                "once a model" if phase["once"] else "for these facts",
            )
        console.print(table)
        fits = "fits into" if machine["fits"] else "does not fit into"
        console.print(
            f"Peak {_bytes(machine['peak'])}: {fits} {_bytes(machine['memory'])}.", highlight=False
        )


def _seconds(value: float) -> str:
    if value >= 600:
        return f"{value / 60:,.0f} min"
    return f"{value:.1f}" if value >= 0.1 else f"{value:.3f}"


def _bytes(value: float) -> str:
    return f"{value / 1e9:,.2f} GB" if value >= 1e7 else f"{value / 1e6:,.2f} MB"
