"""Run the cells of an experiment, from where an earlier run stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.experiments.cells import Cell, cells
from alphaedit.bench.experiments.measures import Context, Probes, get_measure
from alphaedit.bench.experiments.measuring import PROTOCOLS
from alphaedit.bench.experiments.spec import NONE, Spec
from alphaedit.bench.experiments.store import Row, RunDirectory
from alphaedit.bench.intervals import Rate
from alphaedit.bench.sources import known_facts, records_of
from alphaedit.bench.strict import unsaid
from alphaedit.core.errors import AlphaEditError, Cancelled, ConfigError, ResourceError
from alphaedit.core.progress import Progress, silent
from alphaedit.editor.session import Editor
from alphaedit.ledger.ledger import Ledger
from alphaedit.methods.registry import config_of, get_method
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import check_corpus
from alphaedit.stats.statistics import ModelStatistics

LOADING = ("device", "dtype", "cache_dir", "tolerance")


def check(spec: Spec) -> None:
    """Find wrong names before a model is loaded.

    Raises:
        UnknownNameError: no such method, plug-in, measure or hyperparameter.
        ConfigError: a setting that is impossible.
    """
    from alphaedit.methods.config import build
    from alphaedit.methods.plugin import make

    for name in (*spec.measures, *spec.final):
        get_measure(name)
    check_corpus(spec.corpus)
    check_corpus(spec.held_out)
    for method in spec.methods:
        if method.method != NONE:
            get_method(method.method)
        for plugin in method.plugins:
            make(plugin)
    for cell in cells(spec):
        where = f"experiment {spec.name}, {cell.label}"
        build({"layers": (0,), **cell.settings}, where, config_of(cell.method.method))
        if cell.vary in ("tokens", "batch_size") and not (
            isinstance(cell.varied, int) and cell.varied > 0
        ):
            raise ConfigError(f"{cell.vary} is {cell.varied!r}.", remedy="Give whole numbers.")


def run(
    spec: Spec,
    out: Path,
    *,
    about: Mapping[str, Any],
    progress: Progress = silent,
    **loading: Any,
) -> RunDirectory:
    """Run what is missing of `spec` in the directory `out`.

    Args:
        about: for the manifest: command, versions, machine.
        loading: `device`, `dtype`, `cache_dir`, `tolerance`, as for `Editor.from_pretrained`.

    Raises:
        DataError: `out` holds something else, or a data set is broken.
        ConfigError: the experiment cannot be run.
    """
    check(spec)
    directory = RunDirectory(out)
    directory.begin(spec, about)
    todo = list(cells(spec))
    models = _Models(spec, progress, loading)
    for number, cell in enumerate(todo):
        progress("runs", number, len(todo))
        if not directory.state(cell).get("finished"):
            _Run(spec, cell, directory, models, progress).go()
    progress("runs", len(todo), len(todo))
    return directory


class _Models:
    """The model at hand, and its statistics by token budget."""

    def __init__(self, spec: Spec, progress: Progress, loading: Mapping[str, Any]) -> None:
        self.spec, self.progress, self.loading = spec, progress, loading
        self.name: str | None = None
        self.editor: Editor | None = None
        self.statistics: dict[tuple[int | None, int], ModelStatistics] = {}

    def fresh(self, cell: Cell) -> Editor:
        """An editor on the unedited model of `cell`."""
        if self.name != cell.model or self.editor is None:
            self.editor, self.statistics = None, {}
            self.editor = Editor.from_pretrained(
                cell.model,
                corpus=self.spec.corpus,
                tokens=self.spec.tokens,
                progress=self.progress,
                **{k: v for k, v in self.loading.items() if v is not None},
            )
            self.name = cell.model
        handle = self.editor.handle
        tokens = cell.varied if cell.vary == "tokens" else self.spec.tokens
        if (tokens, cell.seed) not in self.statistics:
            self.statistics[(tokens, cell.seed)] = self._statistics(handle, tokens)
        return Editor(
            handle,
            self.statistics[(tokens, cell.seed)],
            seed=cell.seed,
            progress=self.progress,
        )

    def _statistics(self, handle: ModelHandle, tokens: int | None) -> ModelStatistics:
        assert self.editor is not None
        return ModelStatistics(
            handle,
            self.editor.statistics.spec,
            tokens=tokens,
            tolerance=self.loading.get("tolerance"),
            cache_dir=self.loading.get("cache_dir"),
            progress=self.progress,
        )


class _Run:
    """One cell."""

    def __init__(
        self, spec: Spec, cell: Cell, directory: RunDirectory, models: _Models, progress: Progress
    ) -> None:
        self.spec, self.cell, self.directory, self.progress = spec, cell, directory, progress
        self.editor = models.fresh(cell)
        drawn = records_of(self.editor.handle, cell.records, spec.edits, cell.seed)
        self.records = unsaid(self.editor.handle, drawn) if spec.pre_check else drawn
        self.left_out = len(drawn) - len(self.records)
        subjects = {record.subject for record in self.records}
        self.kept: Probes = known_facts(self.editor.handle, subjects, cell.seed)
        self.batch = cell.varied if cell.vary == "batch_size" else spec.batch_size
        self.session = directory.folder(cell) / "session"
        self.before: dict[str, Any] = {}

    def go(self) -> None:
        """Edit and measure from where the session stands; the model is left unedited."""
        began = time.perf_counter()
        try:
            layer = self._layer()
            for name in (*self.spec.measures, *self.spec.final):
                self.before[name] = get_measure(name).before(self._context(0, layer))
            if self.cell.method.method == NONE:
                self._measure(0, layer, last=True)
            else:
                self._edit(layer)
            error = None
        except (ResourceError, Cancelled):
            raise
        except AlphaEditError as failure:
            error = str(failure)
        finally:
            edits = list(self.editor.edits)
            self.editor.set_edits([])
        last = edits[-1] if edits else None
        self.directory.set_state(
            self.cell,
            {
                "finished": True,
                "error": error,
                "edits": sum(len(edit.facts) for edit in edits),
                "left_out": self.left_out,
                "hyperparameters": dict(last.hyperparameters) if last else {},
                "null_space": {k: dict(v) for k, v in last.null_space.items()} if last else {},
                "batches": [dict(edit.seconds) for edit in edits],
                "seconds": time.perf_counter() - began,
            },
        )
        shutil.rmtree(self.session, ignore_errors=True)

    def _layer(self) -> int:
        """The last edited layer: of the cell's method, or of the experiment's first."""
        spec, chosen = self.spec, self.cell.method
        if chosen.method == NONE:
            chosen = next((m for m in spec.methods if m.method != NONE), chosen)
        if chosen.method == NONE:
            return 0
        facts = [fact for record in self.records[: self.batch] for fact in record.facts]
        over = self.cell.settings if chosen is self.cell.method else chosen.settings
        hp = self.editor.hyperparameters(chosen.method, spec.preset, facts, **over)
        return hp.layers[-1] if hp.layers else 0

    def _edit(self, layer: int) -> None:
        editor, spec, total = self.editor, self.spec, len(self.records)
        if Ledger.at(self.session):
            editor.load(self.session)
        done = self._records_in(sum(len(edit.facts) for edit in editor.edits))
        self._checkpoint(done, layer)
        self.progress("facts", done, total)
        batches = [self.records[at : at + self.batch] for at in range(done, total, self.batch)]
        facts = [[fact for record in batch for fact in record.facts] for batch in batches]
        made = editor.edit_in_batches(
            facts, self.cell.method.method, preset=spec.preset, **self.cell.settings
        )
        for records, _ in zip(batches, made, strict=True):
            done += len(records)
            editor.save(self.session)
            self._checkpoint(done, layer)
            self.progress("facts", done, total)

    def _records_in(self, facts: int) -> int:
        """How many records the first `facts` facts are."""
        done = 0
        while facts > 0:
            facts -= len(self.records[done].facts)
            done += 1
        return done

    def _checkpoint(self, done: int, layer: int) -> None:
        last = done == len(self.records)
        every, batches = self.spec.every, -(-done // self.batch)
        due = last or (every is not None and done and batches % every == 0)
        # A count that is no multiple of a batch is reached by the batch it is in.
        due = due or any(-(-count // self.batch) == batches for count in self.spec.at)
        if due and not self.directory.measured(self.cell, done):
            self._measure(done, layer, last=last)

    def _context(self, done: int, layer: int) -> Context:
        shown: Sequence[EditRecord] = self.records[:done] if done else self.records
        most = self.spec.sample
        if most is not None and len(shown) > most:
            shown = shown[:: -(-len(shown) // most)]
        return Context(
            editor=self.editor,
            records=shown,
            coming=self.records,
            kept=self.kept,
            layer=layer,
            seed=self.cell.seed,
            options=self.spec.model_dump(include={"ability_data", "held_out"}),
            before=self.before,
            progress=self.progress,
        )

    def _measure(self, done: int, layer: int, *, last: bool) -> None:
        context = self._context(done, layer)
        names = (*self.spec.measures, *self.spec.final) if last else self.spec.measures
        rows: list[Row] = []
        extra: dict[str, Any] = {}
        for name in names:
            outcome = get_measure(name).now(context)
            tags = {
                "experiment": self.spec.name,
                **self.cell.tags,
                "batch_size": self.batch,
                "edits": done,
                "total": len(self.records),
                "load": done / self.editor.handle.d_in(layer),
                "measure": name,
                "protocol": PROTOCOLS.get(name, name),
            }
            for metric, value in outcome.numbers.items():
                if value is not None:
                    rows.append({**tags, "metric": metric, **_number(value)})
            extra |= outcome.extra or {}
        self.directory.add(self.cell, done, rows, extra)


def _number(value: Rate | float | int) -> dict[str, Any]:
    if is_dataclass(value):
        return asdict(value)
    return {"value": float(value), "low": None, "high": None, "n": None}
