"""`alphaedit edit`."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import ledgers, options, outputs, prepare
from alphaedit.cli.edit_shown import show
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Session
from alphaedit.core.errors import GuardError, VerdictWarning

if TYPE_CHECKING:
    from alphaedit.bench.data import EditRecord
    from alphaedit.bench.metrics import Metrics
    from alphaedit.core.edit import Answer, Edit
    from alphaedit.core.fact import Fact
    from alphaedit.editor.measured import Asked
    from alphaedit.editor.session import Editor

EXAMPLES = examples(
    "alphaedit edit bundled --prompt 'The mother tongue of {} is' --subject 'Danielle Darrieux' "
    "--target English -o my-edits",
    "alphaedit edit bundled facts.jsonl --method alphaedit -o my-edits --report report.html",
    "alphaedit edit bundled more.csv -o my-edits --batch-size 100 --why 'ticket 123'",
    "alphaedit edit bundled facts.jsonl --batch-size 50 --guard rollback:max_kl=0.05 -o my-edits",
    "grep -v draft facts.jsonl | alphaedit edit bundled - -o my-edits",
    "torchrun --nproc-per-node 2 -m alphaedit edit ./my-model facts.jsonl -o my-edits",
    "alphaedit edit ./my-instruct-model facts.jsonl --chat -o my-edits",
    "alphaedit edit ./my-model facts.yaml --set layers=3-5 --set clamp=1.5 --checkpoint edited",
)
KEPT = 100
"""Facts of the bundled world that are asked before and after an edit."""


@options.loads_model
def edit(
    model: options.Model,
    facts: Annotated[
        Path | None,
        typer.Argument(
            metavar="FACTS",
            help="Facts: .jsonl, .json (also CounterFact's), .csv, .tsv or .yaml; - for standard "
            "input.",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="Instead of FACTS: prompt with {} in it."),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option("--subject", metavar="TEXT", help="What stands for {} in the prompt."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", metavar="TEXT", help="What the model should say next.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option("--truth", metavar="TEXT", help="What it says now, to compare with."),
    ] = None,
    format: sources.Format = None,
    method: options.Method = "alphaedit",
    out_dir: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="LEDGER",
            help="Record each batch in the ledger there, which is begun if there is none.",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="DIR", help="Save the edited model here."),
    ] = None,
    from_session: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="LEDGER",
            help="Go on from the edits in force in another ledger.",
            show_default="the one of -o",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Facts a batch.", show_default="all at once"),
    ] = None,
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    chat: options.Chat = False,
    preset: options.Preset = None,
    settings: options.Settings = None,
    plugins: options.Plugins = None,
    guard: options.Guard = None,
    corpus: options.CorpusName = None,
    tokens: options.Tokens = None,
    tolerance: options.Tolerance = None,
    cache_dir: options.CacheDir = None,
    report: options.ReportFile = None,
    generation: options.Generation = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if a fact does not hold afterwards.")
    ] = False,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any] | int:
    """Change a model so that facts hold.

    With -o each batch is recorded in a ledger as soon as it is made, and can be undone (see
    `alphaedit log` and `alphaedit revert`). Without -o or --checkpoint this is a dry run: it shows
    what an edit would do and keeps nothing. MODEL itself is never written to.
    """
    source = sources.read(facts, prompt, subject, target, truth, format)
    over = prepare.overrides(settings, plugins, method=method)
    watch = prepare.guard_of(guard)
    from alphaedit.ledger.ledger import Ledger

    goes_on = out_dir is not None and Ledger.at(out_dir)
    start = from_session or (out_dir if goes_on else None)
    grows = start is None or out_dir is None or start.resolve() == out_dir.resolve()
    places = (
        outputs.Output("-o", out_dir, outputs.LEDGER if grows else outputs.NEW_LEDGER),
        outputs.Output("--checkpoint", checkpoint, "checkpoint"),
        outputs.Output("--report", report),
    )
    outputs.check_outputs(model, places, force=force, inputs={"--from": from_session})
    ranks = prepare.join_ranks(
        loading.device,
        {"facts": [fact.to_dict() for fact in source.facts], "options": [method, over, seed]},
    )
    if ranks is not None and not ranks.first:  # one prints and writes
        json, quiet, out_dir, checkpoint, report = False, True, None, None, None
    out = Session(json=json, quiet=quiet)
    began = time.perf_counter()
    with out.progress() as progress:
        from alphaedit.editor.checkpoint import save_checkpoint

        editor = prepare.open_editor(
            model,
            progress,
            seed=seed,
            loading=loading,
            corpus=corpus,
            tokens=tokens,
            tolerance=tolerance,
            cache_dir=cache_dir,
            session=start,
            guard=watch,
            ranks=ranks,
        )
        if out_dir is not None:
            editor.track(out_dir, model=model, sign=sign)
        if chat:
            source = sources.in_chat(source, editor.handle)
            over = {"contexts": 0, **over}
        run = Run(
            editor, source, method, preset, {**over, "why": why}, batch_size or len(source.facts)
        )
        run.seconds["model"] = time.perf_counter() - began
        if generation is None:
            generation = report is not None or editor.handle.is_bundled
        with outputs.telling_what_is_recorded(editor):
            run.go(seed=seed, generation=generation, out=out)
        late = outputs.Late(out)
        save = partial(save_checkpoint, editor.handle, only_ours=True)
        written = {
            "out": out_dir,
            "checkpoint": late.write("--checkpoint", checkpoint, save),
            "report": late.write("--report", report, partial(run.write_report, model=model)),
        }
    result = {
        **run.result(model),
        "seed": seed,
        "dry_run": out_dir is None and checkpoint is None,
        **{name: str(path) if path else None for name, path in written.items()},
    }
    if not json and editor.ranks.first:
        show(run, result, written)
    failed = run.stopped is not None or (strict and bool(run.fails))
    if not editor.ranks.first:
        return FAILED if failed else 0
    kept = outputs.after_edits(out_dir, run.made, model)
    return late.end(result, code=FAILED if failed else 0, **kept)


class Run:
    """Facts edited in batches by one editor, and what that did."""

    def __init__(
        self,
        editor: Editor,
        source: sources.Source,
        method: str,
        preset: str | None,
        over: Mapping[str, Any],
        batch_size: int,
    ) -> None:
        self.editor, self.source = editor, source
        self.method, self.preset, self.over = method, preset, over
        self.batch_size = batch_size
        self.facts: list[Fact] = source.facts
        self.made: list[Edit] = []
        self.seconds: dict[str, float] = {}
        self.stopped: GuardError | None = None

    def go(self, *, seed: int, generation: bool, out: Session) -> None:
        """Measure, edit batch by batch, measure again."""
        from alphaedit.bench.sources import kept_of
        from alphaedit.editor.verdict import without_verdicts

        editor, facts = self.editor, self.facts
        began = time.perf_counter()
        self.before: tuple[Answer, ...] = editor.answers(facts)
        records = sources.records_of(self.source, self.before)
        self.kept = kept_of(editor.handle, {f.subject for f in facts}, seed=seed, count=KEPT)
        options: dict[str, Any] = {"kept": self.kept, "generation": generation, "seed": seed}
        self.metrics_before = self._evaluate(records, options)
        self.seconds["evaluation"] = time.perf_counter() - began
        began = time.perf_counter()
        first = len(editor.edits)
        for at in range(0, len(facts), self.batch_size):
            if len(facts) > self.batch_size:
                editor.progress("facts", at, len(facts))
            batch = facts[at : at + self.batch_size]
            try:
                with without_verdicts():  # told once, of all batches together
                    editor.edit(batch, self.method, preset=self.preset, **self.over)
            except GuardError as stop:
                self.stopped = stop
                break
            finally:
                ledger = editor.ledger
                if ledger is not None and len(editor.edits) == first + 1:
                    out.wrote(ledger.path)
        self.made = editor.edits[first:]
        if self.stopped and not self.made:
            raise self.stopped
        editor.progress("facts", len(facts), len(facts))
        self.seconds["edit"] = time.perf_counter() - began
        for made in self.made:
            for phase, spent in made.seconds.items():
                self.seconds[phase] = self.seconds.get(phase, 0.0) + spent
        began = time.perf_counter()
        self.asked = editor.asked(facts)
        self.after = tuple(one.answer for one in self.asked)
        self.metrics = self._evaluate(records, options)
        self.seconds["evaluation"] += time.perf_counter() - began
        if editor.ranks.first:
            self._warn()

    def _warn(self) -> None:
        """Say which facts do not hold, and what to do next."""
        from alphaedit.editor.verdict import complaint, losses_of

        ledger = self.editor.ledger
        undo = f"undo it: alphaedit revert {ledger.path}" if ledger else "do not keep it"
        losses = losses_of(self.made)
        if losses is not None and len(losses) < len(self.facts):  # a guard ended the run
            losses = None
        said = complaint(self.asked, losses, undo=undo)
        if said is not None:
            warnings.warn(VerdictWarning(said), stacklevel=2)

    @property
    def fails(self) -> list[Asked]:
        """Facts that the model does not say at the end; those of an undone batch too."""
        return [one for one in self.asked if not one.holds]

    def _evaluate(self, records: Sequence[EditRecord], options: Mapping[str, Any]) -> Metrics:
        """Metrics now; only the first rank needs them."""
        from alphaedit.bench.run import evaluate

        if not self.editor.ranks.first:
            return {}
        return evaluate(self.editor, records, progress=self.editor.progress, **options)

    def result(self, model: str) -> dict[str, Any]:
        """All of it as JSON values, metrics at the top under the papers' names."""
        last = self.made[-1]
        answers = zip(self.facts, self.before, self.asked, strict=True)
        return {
            **{name: rate.to_json() if rate else None for name, rate in self.metrics.items()},
            "before": {
                name: rate.to_json() if rate else None for name, rate in self.metrics_before.items()
            },
            "model": model,
            "method": last.method,
            "hyperparameters": dict(last.hyperparameters),
            "null_space": {name: dict(row) for name, row in last.null_space.items()},
            "facts": [
                {
                    **fact.to_dict(),
                    "before": asdict(old),
                    "after": asdict(new.answer),
                    "holds": new.holds,
                }
                for fact, old, new in answers
            ],
            "holds": len(self.facts) - len(self.fails),
            "fails": ledgers.asked_json(self.fails),
            "edits": [made.id for made in self.made],
            "guard": self._guarded(),
            "seconds": self.seconds,
        }

    def _guarded(self) -> dict[str, Any] | None:
        """What the guard measured after each batch, and whether it ended the run."""
        guard = self.editor.guard
        if guard is None:
            return None
        return {
            **asdict(guard),
            "drift": [dict(made.drift) for made in self.made],
            "stopped": self.stopped.message if self.stopped else None,
            "edited": sum(len(made.facts) for made in self.made),
        }

    def write_report(self, path: Path, model: str) -> None:
        """Write the HTML report of this run."""
        from alphaedit.cli.reporting import command_line, spectra, versions
        from alphaedit.report.page import Changed, Report, write

        last = self.made[-1]
        count = len(self.facts)
        write(
            Report(
                title="What was edited, and what it did",
                subtitle=f"{count} {'fact' if count == 1 else 'facts'} edited into {model} "
                f"by {last.method}.",
                command=command_line(),
                changed=[
                    Changed(f.text, f.target, b, a)
                    for f, b, a in zip(self.facts, self.before, self.after, strict=True)
                ],
                metrics={"unedited": self.metrics_before, "edited": self.metrics},
                spectra=spectra(self.editor, last.hyperparameters),
                hyperparameters=dict(last.hyperparameters),
                seconds=self.seconds,
                versions=versions(),
            ),
            path,
        )
