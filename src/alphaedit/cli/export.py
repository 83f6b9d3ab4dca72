"""`alphaedit export`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, export_gguf, ledgers, options, outputs
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session
from alphaedit.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from rich.table import Table

    from alphaedit.editor.export import Exported
    from alphaedit.jobs.export import ExportRequest, ExportResult

EXAMPLES = examples(
    "alphaedit export my-edits -o my-adapter",
    "alphaedit export my-edits --at head~1 -o my-adapter --tolerance 0.01",
    "alphaedit export my-edits --model ./my-model --format checkpoint -o edited-model",
    "alphaedit export my-edits --format gguf-lora -o my-adapter.gguf",
    "alphaedit export my-edits --model Base.Q4_1.gguf --format gguf -o edited.gguf --ollama",
)
KINDS = {"lora": "adapter", "delta": "delta", "checkpoint": "checkpoint"}


@dataclass(frozen=True, kw_only=True)
class Form:
    """Which edits are written, and how."""

    version: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="VERSION",
            autocompletion=complete.versions,
            help="An entry of the log (@3, head~1, base), or an edit's id.",
        ),
    ] = "head"
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            autocompletion=complete.formats,
            help="lora: an adapter for PEFT and vLLM; gguf-lora: one for llama.cpp; gguf: the base "
            "GGUF file with the edited tensors; checkpoint: the whole model; delta: plain factors.",
        ),
    ] = "lora"
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            min=0,
            max=1,
            help="Relative error of a matrix allowed, to make ranks smaller.",
        ),
    ] = 1e-7
    max_rank: Annotated[
        int | None,
        typer.Option(
            "--max-rank",
            min=1,
            help="Rank of an adapter at most; the table tells the error.",
            show_default=False,
        ),
    ] = None
    tensor_type: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Of tensors in GGUF: F16, F32, BF16, Q8_0, or same (as the base has them).",
            show_default="F16; F32 for gguf-lora",
        ),
    ] = None
    ollama: Annotated[
        bool, typer.Option("--ollama", help="With gguf: write a Modelfile beside it.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class OfHooks:
    """By which text facts of hooks become neurons, or are edited anew."""

    corpus: options.CorpusName = None
    tokens: options.Tokens = None
    cache_dir: options.CacheDir = None


@options.grouped
def export(
    where: ledgers.Where,
    *,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|FILE",
            help="Write into this directory; for gguf and gguf-lora, NAME.gguf.",
        ),
    ],
    model: ledgers.ModelOption = None,
    how: Form,
    text: OfHooks,
    force: options.Force = False,
    common: options.WithModel,
) -> dict[str, Any]:
    """Write edits for deployment, with a part of a model card that lists the facts changed.

    An adapter gives the edited model's outputs on the unedited model, in PEFT and in what loads
    its adapters. Facts edited by gated become neurons in a checkpoint, and are edited anew by
    alphaedit-weighted for the other forms.
    """
    form = how.form
    if form not in (*KINDS, *export_gguf.FORMS):
        raise unknown_name("--format", form, (*KINDS, *export_gguf.FORMS))
    if how.max_rank is not None and form not in ("lora", "gguf-lora"):
        raise ConfigError(
            f"--max-rank is not for --format {form}.", remedy="Leave it out, or use --tolerance."
        )
    export_gguf.check(out, form, kind=how.tensor_type, ollama=how.ollama)
    from alphaedit.jobs.export import ExportRequest
    from alphaedit.jobs.ledgers import model_of
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    model = model_of(ledger, model)
    ledger.version(how.version)
    if form in KINDS:
        places = [outputs.Output("-o", out, KINDS[form])]
    else:
        places = export_gguf.places(out, model, form, ollama=how.ollama)
    outputs.check_outputs(model, places, force=force, inputs={"LEDGER": where})
    request = ExportRequest(
        ledger=where, out=out, model=model, **vars(how), **vars(text), **vars(common.loading)
    )
    return _run(request, common.session)


def _run(request: ExportRequest, session: Session) -> dict[str, Any]:
    from alphaedit.jobs import export as job

    result = session.run(job.run, request)
    if not session.json:
        _show(session, result)
    return result.to_json()


def _show(session: Session, result: ExportResult) -> None:
    form, out = result.request.form, result.request.out
    count = len(result.edits)
    title = f"{count} edit{'s' * (count != 1)} as {form}"
    if result.gguf:
        table, lines = export_gguf.show_gguf(dict(result.gguf), title)
    else:
        table = _table(result.matrices, title)
        rank = max([1, *(row.rank for row in result.matrices)])
        lines = export_gguf.ranks_line(form, rank, out)
    if result.neurons:
        lines += neurons_lines(result.neurons)
    if result.anew:
        lines.append(result.anew.told)
    shown = [table] if result.matrices or result.gguf else [title]
    session.say(*shown, f"Written to {out}", *lines)


def neurons_lines(about: Mapping[str, Any]) -> list[str]:
    """What became of edits that act while the model runs."""
    from alphaedit.editor.export import of_neurons

    facts = about["facts"]
    lines = [
        of_neurons(about),
        f"As it was written {facts['hold_as_written']} of {facts['asked']} facts hold, "
        f"{facts['hold']} before.",
    ]
    return lines + [f"Lost: {text}" for text in facts["lost"]]


def _table(report: Sequence[Exported], title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("matrix")
    for name in ("rank", "of", "norm", "relative error"):
        table.add_column(name, justify="right")
    for row in report:
        cells = (str(row.rank), str(row.given), f"{row.size:.4g}", f"{row.error:.1e}")
        table.add_row(row.name, *cells)
    return table
