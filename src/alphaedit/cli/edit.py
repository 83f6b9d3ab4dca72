"""`alphaedit edit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from alphaedit.cli import common
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact, check_facts, load_facts

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit

SHOWN = 20


def _facts(
    path: Path | None, prompt: str | None, subject: str | None, target: str | None
) -> list[Fact]:
    given = {"--prompt": prompt, "--subject": subject, "--target": target}
    if path is not None:
        if any(given.values()):
            raise ConfigError(
                "Facts are given by a file and on the command line.", remedy="Give one of the two."
            )
        return load_facts(path)
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ConfigError(
            f"No facts: {', '.join(missing)} missing.",
            remedy="Give a file of facts, or --prompt, --subject and --target.",
        )
    return check_facts([Fact(str(prompt), str(subject), str(target))])


def edit(
    model: Annotated[str, typer.Argument(help="directory, hub name, or 'bundled'")],
    facts: Annotated[Path | None, typer.Argument(help="JSONL, JSON, CSV or YAML file")] = None,
    prompt: Annotated[str | None, typer.Option(help="prompt with {} for the subject")] = None,
    subject: Annotated[str | None, typer.Option(help="the subject")] = None,
    target: Annotated[str | None, typer.Option(help="the new object")] = None,
    method: common.MethodOption = "alphaedit",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="directory for the edits")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="also write the edited model here, for transformers")
    ] = None,
    go_on: Annotated[
        Path | None, typer.Option("--from", help="go on from the edits in this directory")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="edit in batches of this size")] = None,
    preset: common.PresetOption = None,
    set_: common.SetOption = None,
    corpus: common.CorpusOption = None,
    tokens: common.TokensOption = None,
    force: Annotated[bool, typer.Option(help="replace directories that exist")] = False,
    json: common.JsonOption = False,
    seed: common.SeedOption = 0,
    device: common.DeviceOption = None,
    dtype: common.DtypeOption = None,
) -> None:
    """Change a model so that facts hold. Without -o or --checkpoint nothing is kept.

    [bold]Examples[/]

    alphaedit edit bundled facts.jsonl --method alphaedit -o my-edits

    alphaedit edit bundled --prompt "The mother tongue of {} is" --subject "Danielle Darrieux"
    --target English -o my-edits

    alphaedit edit ./my-model facts.csv --set layers=[3,4,5] --checkpoint edited-model
    """
    wanted = _facts(facts, prompt, subject, target)
    if batch_size is not None and batch_size < 1:
        raise ConfigError("--batch-size must be at least 1.")
    over = common.overrides(set_)
    common.refuse_existing(output, force or output == go_on)
    common.refuse_existing(checkpoint, force)
    size = batch_size or len(wanted)
    made: list[Edit] = []
    with common.progress_bars() as report:
        editor = common.open_editor(
            model,
            report,
            seed=seed,
            device=device,
            dtype=dtype,
            corpus=corpus,
            tokens=tokens,
            session=go_on,
        )
        for start in range(0, len(wanted), size):
            batch = wanted[start : start + size]
            made.append(editor.edit(batch, method, preset=preset, **over))
        if output is not None:
            editor.save(output)
        if checkpoint is not None:
            editor.save_pretrained(checkpoint)
    summary = _summary(made)
    if json:
        common.emit({**summary, "output": output, "checkpoint": checkpoint})
        return
    _show(made)
    efficacy = summary["efficacy"]
    common.out.print(
        f"{efficacy['value']:.1f}% of {efficacy['n']} facts hold "
        f"({efficacy['low']:.1f} to {efficacy['high']:.1f})."
    )
    for name, path in (("Edits", output), ("Model", checkpoint)):
        if path is not None:
            common.out.print(f"{name} written to {path}")
    if output is None and checkpoint is None:
        common.out.print("Nothing was kept: give -o DIR or --checkpoint DIR.")


def _summary(made: list[Edit]) -> dict[str, Any]:
    from alphaedit.bench.intervals import percent

    after = [(fact, answer) for e in made for fact, answer in zip(e.facts, e.after, strict=True)]
    before = [answer for e in made for answer in e.before]
    said = percent([a.text.strip().startswith(f.target) for f, a in after])
    known = [(a.p_target, a.p_truth) for _, a in after if a.p_truth is not None]
    holds = percent([t > old for t, old in known]) if len(known) == len(after) else said
    seconds: dict[str, float] = {}
    for e in made:
        for phase, spent in e.seconds.items():
            seconds[phase] = seconds.get(phase, 0.0) + spent
    assert said is not None and holds is not None
    return {
        "method": made[-1].method,
        "hyperparameters": dict(made[-1].hyperparameters),
        "edits": [e.id for e in made],
        "efficacy": holds.to_json(),
        "efficacy_generate": said.to_json(),
        "facts": [
            {
                **fact.to_dict(),
                "before": old.text,
                "after": new.text,
                "p_before": old.p_target,
                "p_after": new.p_target,
            }
            for (fact, new), old in zip(after, before, strict=True)
        ],
        "null_space": dict(made[-1].null_space),
        "seconds": seconds,
    }


def _show(made: list[Edit]) -> None:
    from rich.markup import escape

    table = Table("prompt", "wanted", "before", "after", "p before", "p after")
    rows = [
        (fact, old, new)
        for e in made
        for fact, old, new in zip(e.facts, e.before, e.after, strict=True)
    ]
    for fact, old, new in rows[:SHOWN]:
        table.add_row(
            *(escape(t) for t in (fact.text, fact.target, old.text.strip(), new.text.strip())),
            common.percent(old.p_target),
            common.percent(new.p_target),
        )
    common.out.print(table)
    if len(rows) > SHOWN:
        common.out.print(f"... and {len(rows) - SHOWN} more.")
