"""`alphaedit demo`: see it work on the bundled model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from alphaedit.cli import common
from alphaedit.core.fact import Fact

FACTS = (
    ("The mother tongue of {} is", "Danielle Darrieux", "English", "French"),
    ("The employer of {} is", "Steve Jobs", "Microsoft", "Apple"),
    ("The site of {} is", "Eiffel Tower", "Rome", "Paris"),
)
ASKED = (
    "We know that the mother tongue of Danielle Darrieux is",
    "Question: What is the mother tongue of Danielle Darrieux? Answer:",
    "Steve Jobs has a job at",
    "To visit Eiffel Tower, travel to",
)
BATCHES = 5
PROBES = 500


def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="directory for report.html")
    ] = Path("alphaedit-demo"),
    edits: Annotated[int, typer.Option(help="facts edited in the comparison")] = 150,
    method: common.MethodOption = "alphaedit",
    json: common.JsonOption = False,
    seed: common.SeedOption = 0,
) -> None:
    """Edit the bundled model, show before and after, write a report. No download, no GPU.

    [bold]Examples[/]

    alphaedit demo

    alphaedit demo --edits 307 -o /tmp/demo
    """
    from alphaedit.bench.data import EditRecord
    from alphaedit.bench.run import sequential
    from alphaedit.model.generate import generate
    from alphaedit.report.page import render, write
    from alphaedit.world.facts import World
    from alphaedit.world.records import probes, records

    world = World.load()
    rows = [EditRecord.from_dict(r, "record") for r in records(world, edits, seed=seed)]
    taken = {r.subject for r in rows} | {subject for _, subject, _, _ in FACTS}
    kept = probes(world, taken, PROBES, seed=seed)
    others = [prompt for prompt, _ in kept[:8]]
    facts = [Fact(prompt, subject, new, truth=old) for prompt, subject, new, old in FACTS]
    with common.progress_bars() as report:
        editor = common.open_editor("bundled", report, seed=seed)
        asked_before = generate(editor.handle, ASKED, 4)
        others_before = generate(editor.handle, others, 4)
        shown = editor.edit(facts, method)
        asked_after = generate(editor.handle, ASKED, 4)
        others_after = generate(editor.handle, others, 4)
        editor.revert()
        size = max(1, -(-edits // BATCHES))
        runs = {}
        before = None
        for name in (method, "memit"):
            run = sequential(
                editor,
                rows,
                name,
                batch_size=size,
                edits=edits,
                seed=seed,
                evaluate_every=1,
                kept=kept,
                before=before,
                progress=report,
            )
            before = run.before
            runs[name] = run.to_json()
            while editor.edits:
                editor.revert()
        layers = runs[method]["hyperparameters"]["layers"]
        hp = runs[method]["hyperparameters"]
        space = {key: hp.get(key) for key in ("threshold", "energy")}
        spectra, marks = {}, {}
        if any(space.values()):
            spectra = {n: editor.statistics.spectrum(n).values.tolist() for n in layers}
            found = editor.statistics.report(layers, **space)
            marks = {n: r.threshold for n, r in zip(layers, found, strict=True)}
    unchanged = [
        {"prompt": p, "before": b.strip(), "after": a.strip()}
        for p, b, a in zip(others, others_before, others_after, strict=True)
    ]
    page = render(
        title="alphaedit: facts changed in the bundled model",
        subtitle=f"{edits} counterfactual facts in {BATCHES} batches, by {method}; "
        f"three of our own first. A load of {runs[method]['load']:.3f} edits per key dimension.",
        command=f"alphaedit demo --edits {edits} --method {method} --seed {seed}",
        edits=[shown],
        runs=runs,
        unchanged=unchanged,
        spectra=spectra or None,
        thresholds=marks,
    )
    path = write(page, output / "report.html")
    if json:
        common.emit({"report": str(path), "runs": runs})
        return
    _show_asked(asked_before, asked_after)
    _show_runs(runs)
    common.out.print(f"Report: {path.resolve()}", soft_wrap=True)


def _show_asked(before: list[str], after: list[str]) -> None:
    table = Table(
        "asked in words the edit never saw", "before", "after", title="Three facts edited"
    )
    for prompt, old, new in zip(ASKED, before, after, strict=True):
        table.add_row(escape(prompt), escape(_first(old)), f"[bold]{escape(_first(new))}[/]")
    common.out.print(table)


def _first(text: str) -> str:
    return text.strip().split(".")[0]


def _show_runs(runs: dict[str, dict[str, object]]) -> None:
    first = next(iter(runs.values()))
    table = Table(
        "metric", "unedited", *runs, title=f"{first['edits']} facts edited, on the bundled model"
    )
    before = first["before"]
    assert isinstance(before, dict)
    for name, rate in before.items():
        if rate is None or name.endswith("_magnitude"):
            continue
        cells = [f"{rate['value']:.1f}"]
        for run in runs.values():
            value = run[name]
            assert isinstance(value, dict)
            cells.append(f"{value['value']:.1f}")
        table.add_row(name.replace("_", " "), *cells)
    common.out.print(table)
