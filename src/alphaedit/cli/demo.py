"""`alphaedit demo`: see it work, on the bundled model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import options, tables
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, shorten
from alphaedit.cli.outputs import Output, check_outputs, end
from alphaedit.cli.prepare import open_editor
from alphaedit.core.fact import Fact
from alphaedit.core.text import first_answer

if TYPE_CHECKING:
    from rich.table import Table

    from alphaedit.bench.data import EditRecord
    from alphaedit.bench.metrics import Metrics
    from alphaedit.core.edit import Edit
    from alphaedit.core.progress import Progress
    from alphaedit.editor.session import Editor

EXAMPLES = examples(
    "alphaedit demo",
    "alphaedit demo --quick",
    "alphaedit demo --load 0.15",
    "alphaedit demo -o /tmp/demo --seed 3 --json",
)
MODEL = "bundled"
OWN = (
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English", truth="French"),
    Fact("The employer of {} is", "Steve Jobs", "Microsoft", truth="Apple"),
    Fact("The site of {} is", "Eiffel Tower", "Rome", truth="Paris"),
)
REPHRASED = (
    "We know that the mother tongue of Danielle Darrieux is",
    "Question: What is the mother tongue of Danielle Darrieux? Answer:",
    "Steve Jobs has a job at",
    "To visit Eiffel Tower, travel to",
)
EDITED, UNRELATED, ANSWER_TOKENS = 30, 8, 6
LOAD, QUICK_LOAD, BATCHES = 0.05, 0.02, 5
MEASURED, ON_THE_WAY, NEIGHBORS, PROBES = 120, 60, 3, 200
"""How much is measured in the comparison: records at the end and before, neighbors, probes."""
RIVAL = "memit"


@dataclass(frozen=True)
class Sequential:
    """Metrics of one method at the end of its edits, and on the way."""

    metrics: Metrics
    curve: list[dict[str, Any]]
    hyperparameters: dict[str, Any]


@dataclass
class Demo:
    """One run of the demo: a batch of edits to look at, then two methods compared."""

    editor: Editor
    seed: int
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def show_edits(self) -> None:
        """Edit our own facts and some of the world's at once; ask before and after."""
        from alphaedit.bench.sources import kept_of, world_records
        from alphaedit.model.generate import generate

        handle, began = self.editor.handle, time.perf_counter()
        own = {fact.subject for fact in OWN}
        others = [r for r in world_records(handle, EDITED, self.seed) if r.subject not in own]
        facts = [*OWN, *(r.fact for r in others)][:EDITED]
        self.unrelated = kept_of(
            handle, {f.subject for f in facts}, seed=self.seed, count=UNRELATED
        )
        self.asked = [*REPHRASED, *(prompt for prompt, _ in self.unrelated)]
        self.said_before = generate(handle, self.asked, ANSWER_TOKENS)
        self.edit: Edit = self.editor.edit(facts)
        self.said_after = generate(handle, self.asked, ANSWER_TOKENS)
        self.editor.revert()
        self.seconds["edits to look at"] = time.perf_counter() - began

    def compare(self, load: float) -> None:
        """Edit in batches up to `load` with AlphaEdit and with MEMIT without history.

        On the way, a sample of the facts edited so far is measured, which is quicker than all.
        """
        from alphaedit.bench.metrics import plain
        from alphaedit.bench.sources import kept_of, world_records

        began, handle = time.perf_counter(), self.editor.handle
        self.d_in = handle.d_in(self.edit.hyperparameters["layers"][0])
        self.count = max(BATCHES, round(load * self.d_in))
        records = [
            replace(r, neighborhood_prompts=r.neighborhood_prompts[:NEIGHBORS])
            for r in world_records(handle, self.count, self.seed + 1)
        ]
        probes = kept_of(handle, {r.subject for r in records}, seed=self.seed + 1, count=PROBES)
        self.unedited = self._measure(records, probes, MEASURED)
        self.runs: dict[str, Sequential] = {}
        size = -(-self.count // BATCHES)
        for number, method in enumerate(("alphaedit", RIVAL)):
            curve: list[dict[str, Any]] = []
            metrics: Metrics = {}
            for done in range(size, self.count + size, size):
                step = number * BATCHES + done // size - 1
                self.progress("batches", step, 2 * BATCHES)
                batch = records[done - size : done]
                made = self.editor.edit([r.fact for r in batch], method)
                last = done >= self.count
                metrics = self._measure(records[:done], probes, MEASURED if last else ON_THE_WAY)
                curve.append({"edits": min(done, self.count), **plain(metrics)})
            self.runs[method] = Sequential(metrics, curve, dict(made.hyperparameters))
            self.editor.set_edits([])
        self.progress("batches", 2 * BATCHES, 2 * BATCHES)
        self.seconds["two methods compared"] = time.perf_counter() - began

    def _measure(
        self, records: list[EditRecord], probes: list[tuple[str, str]], most: int
    ) -> Metrics:
        """Metrics of at most `most` of `records`, spread over all of them."""
        from alphaedit.bench.run import evaluate

        return evaluate(
            self.editor, records[:: -(-len(records) // most)], kept=probes, generation=False
        )

    def pairs(self) -> list[tuple[str, str, str, str | None]]:
        """(prompt, before, after, known answer) of what was asked beside the edited prompts."""
        answers: list[str | None] = [None] * len(REPHRASED)
        answers += [answer for _, answer in self.unrelated]
        rows = zip(self.asked, self.said_before, self.said_after, answers, strict=True)
        return [(p, first_answer(b), first_answer(a), known) for p, b, a, known in rows]

    def write_report(self, path: Path) -> None:
        """Write the HTML report."""
        from alphaedit.cli.reporting import command_line
        from alphaedit.jobs.reporting import spectra, versions
        from alphaedit.report.page import Asked, Changed, Curve, Report, write

        first = self.runs["alphaedit"]
        asked = [Asked(*row) for row in self.pairs()]
        write(
            Report(
                title="Facts changed in the bundled model",
                subtitle=f"{len(self.edit.facts)} facts edited at once by AlphaEdit, then "
                f"{self.count} others in {BATCHES} batches by two methods: a load of "
                f"{self.count / self.d_in:.2f} edits for each dimension of the keys.",
                command=command_line(),
                changed=[
                    Changed(fact.text, fact.target, old, new)
                    for fact, old, new in zip(
                        self.edit.facts, self.edit.before, self.edit.after, strict=True
                    )
                ],
                rephrased=asked[: len(REPHRASED)],
                unrelated=asked[len(REPHRASED) :],
                metrics={"unedited": self.unedited}
                | {titles()[name]: run.metrics for name, run in self.runs.items()},
                curves=[Curve(titles()[name], tuple(r.curve)) for name, r in self.runs.items()],
                curves_note="Each point tests facts edited so far; 'kept' asks for "
                f"{PROBES} facts that were never edited. Bands are 95\u00a0% intervals.",
                spectra=spectra(self.editor, first.hyperparameters),
                hyperparameters=first.hyperparameters,
                seconds=self.seconds,
                versions=versions(),
            ),
            path,
        )


def titles() -> dict[str, str]:
    """What the methods compared are called."""
    return {"alphaedit": "AlphaEdit", RIVAL: "MEMIT without history"}


@options.grouped
def demo(
    *,
    out_dir: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="DIR", help="Write report.html into this directory."),
    ] = Path("alphaedit-demo"),
    load: Annotated[
        float | None,
        typer.Option(
            "--load",
            min=0.001,
            max=0.3,
            help="Edits of the comparison, for each dimension of the keys.",
            show_default=f"{LOAD}, with --quick {QUICK_LOAD}",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A short comparison.")] = False,
    cache_dir: options.CacheDir = None,
    common: options.Seeded,
) -> dict[str, Any]:
    """Edit facts of the bundled model, show what changed and what did not, and write a report.

    Takes a minute or two. Needs no network, no GPU and no files; writes DIR/report.html.
    """
    from alphaedit.jobs.late import Late

    report = out_dir / "report.html"
    check_outputs(MODEL, [Output("Report", report, again=True)])
    session, seed = common.session, common.seed
    with session.progress() as progress:
        editor = open_editor(
            MODEL, progress, seed=seed, loading=common.loading, cache_dir=cache_dir
        )
        run = Demo(editor, seed, progress)
        run.show_edits()
        if not session.json:
            _show_edits(session, run)
        run.compare(load or (QUICK_LOAD if quick else LOAD))
        late = Late(session.wrote)
        page = late.write("report", report, run.write_report)
    if not session.json:
        _show_comparison(session, run)
        if page is not None:
            session.say(f"Report: {page.resolve()}")
    return end(session, _result(run, page), late.failed, called={"report": "Report"})


def _result(run: Demo, page: Path | None) -> dict[str, Any]:
    from alphaedit.bench.metrics import plain

    return {
        "edited": len(run.edit.facts),
        "answers": [
            {"prompt": p, "before": b, "after": a, "known": known} for p, b, a, known in run.pairs()
        ],
        "edits": run.count,
        "load": run.count / run.d_in,
        "unedited": plain(run.unedited),
        "methods": {
            name: {**plain(r.metrics), "curve": r.curve, "hyperparameters": r.hyperparameters}
            for name, r in run.runs.items()
        },
        "seconds": run.seconds,
        "report": str(page.resolve()) if page else None,
        "seed": run.seed,
    }


def _show_edits(session: Session, run: Demo) -> None:
    edit, shown = run.edit, len(OWN) + 5
    title = f"{len(edit.facts)} facts edited at once by AlphaEdit; the first {shown}"
    session.say(
        *tables.facts_table(edit.facts[:shown], edit.before[:shown], edit.after[:shown], title)
    )
    pairs = run.pairs()
    rephrased = "The same facts in words the edit never saw"
    session.say(_asked_table(rephrased, pairs[: len(REPHRASED)]))
    session.say(_asked_table("Facts that were not edited", pairs[len(REPHRASED) :]))


def _asked_table(title: str, rows: Sequence[tuple[str, str, str, str | None]]) -> Table:
    from rich.table import Table

    table = Table("prompt", "before", "after", title=title, title_justify="left")
    for prompt, before, after, known in rows:
        style = "" if known is None else "green" if after == before else "yellow"
        table.add_row(
            tables.cell(shorten(prompt, 70)), tables.cell(before), tables.cell(after, style)
        )
    return table


def _show_comparison(session: Session, run: Demo) -> None:
    from alphaedit.bench.metrics import plain

    columns = {"unedited": plain(run.unedited)}
    columns |= {titles()[name]: plain(r.metrics) for name, r in run.runs.items()}
    load = run.count / run.d_in
    title = f"After {run.count} edits in {BATCHES} batches (a load of {load:.2f})"
    session.say(*tables.metrics_table(columns, title))
