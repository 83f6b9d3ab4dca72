"""`alphaedit export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import complete, export_gguf, ledgers, options, outputs
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.core.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from alphaedit.editor.export import Exported

EXAMPLES = examples(
    "alphaedit export my-edits -o my-adapter",
    "alphaedit export my-edits --at head~1 -o my-adapter --tolerance 0.01",
    "alphaedit export my-edits --model ./my-model --format checkpoint -o edited-model",
    "alphaedit export my-edits --format gguf-lora -o my-adapter.gguf",
    "alphaedit export my-edits --model Base.Q4_1.gguf --format gguf -o edited.gguf --ollama",
)
KINDS = {"lora": "adapter", "delta": "delta", "checkpoint": "checkpoint"}


@options.loads_model
def export(
    where: ledgers.Where,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR|FILE",
            help="Directory to write; for gguf and gguf-lora, NAME.gguf.",
        ),
    ],
    model: ledgers.ModelOption = None,
    version: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="VERSION",
            autocompletion=complete.versions,
            help="An entry of the log (@3, head~1, base), or an edit's id.",
        ),
    ] = "head",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            autocompletion=complete.formats,
            help="lora: an adapter for PEFT and vLLM; gguf-lora: one for llama.cpp; gguf: the base "
            "GGUF file with the edited tensors; checkpoint: the whole model; delta: plain factors.",
        ),
    ] = "lora",
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            min=0,
            max=1,
            help="Relative error of a matrix allowed, to make ranks smaller.",
        ),
    ] = 1e-7,
    max_rank: Annotated[
        int | None,
        typer.Option(
            "--max-rank",
            min=1,
            help="Rank of an adapter at most; the table tells the error.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Of tensors in GGUF: F16, F32, BF16, Q8_0, or same (as the base has them).",
            show_default="F16; F32 for gguf-lora",
        ),
    ] = None,
    ollama: Annotated[
        bool, typer.Option("--ollama", help="With gguf: write a Modelfile beside it.")
    ] = False,
    force: options.Force = False,
    json: options.Json = False,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Write edits for deployment, with a part of a model card that lists the facts changed.

    An adapter gives the edited model's outputs on the unedited model, in PEFT and in what loads
    its adapters.
    """
    if form not in (*KINDS, *export_gguf.FORMS):
        raise unknown_name("--format", form, (*KINDS, *export_gguf.FORMS))
    if max_rank is not None and form not in ("lora", "gguf-lora"):
        raise ConfigError(
            f"--max-rank is not for --format {form}.", remedy="Leave it out, or use --tolerance."
        )
    export_gguf.check(out, form, kind=kind, ollama=ollama)
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    model = ledgers.model_of(ledger, model)
    at = ledger.version(version)
    if form in KINDS:
        places = [outputs.Output("-o", out, KINDS[form])]
    else:
        places = export_gguf.places(out, model, form, ollama=ollama)
    outputs.check_outputs(model, places, force=force, inputs={"LEDGER": where})
    said = Session(json=json, quiet=quiet)
    with said.progress() as progress:
        editor = ledgers.editor_at(ledger, model, at, progress, loading=loading)
        from alphaedit.editor import export as write

        written: dict[str, Any] = {}
        if form == "lora":
            report = write.save_lora(
                editor.handle,
                editor.edits,
                out,
                base=model,
                tolerance=tolerance,
                max_rank=max_rank,
                only_ours=True,
            )
        elif form == "gguf-lora":
            from alphaedit.editor.gguf_export import base_of, save_gguf_lora

            report = save_gguf_lora(
                editor.handle,
                editor.edits,
                out,
                base=model,
                gguf=base_of(model),
                tolerance=tolerance,
                max_rank=max_rank,
                kind=kind or "F32",
            )
        elif form == "gguf":
            report = []
            written = export_gguf.write_gguf(editor, model, out, kind=kind, ollama=ollama)
        elif form == "delta":
            report = write.save_delta(
                editor.edits, out, base=model, tolerance=tolerance, only_ours=True
            )
        else:
            from alphaedit.editor.checkpoint import save_checkpoint

            report = write.summed(editor.edits)[1]
            texts = {"FACTS.md": write.card(editor.edits, model, report)}
            save_checkpoint(editor.handle, out, texts=texts, only_ours=True)
        said.wrote(out)
    if not json:
        title = f"{len(editor.edits)} edits as {form}"
        if written:
            lines = export_gguf.show_gguf(written, out, title)
        else:
            _show(report, title)
            rank = max([1, *(row.rank for row in report)])
            lines = export_gguf.ranks_line(form, rank, out)
        for line in (f"Written to {out}", *lines):
            output_console().print(line, highlight=False, markup=False, soft_wrap=True)
    return {
        "ledger": str(where),
        "model": model,
        "format": form,
        "out": str(out),
        "edits": [edit.id for edit in editor.edits],
        **({"matrices": [asdict(row) for row in report]} if form != "gguf" else written),
    }


def _show(report: Sequence[Exported], title: str) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("matrix")
    for name in ("rank", "of", "norm", "relative error"):
        table.add_column(name, justify="right")
    for row in report:
        cells = (str(row.rank), str(row.given), f"{row.size:.4g}", f"{row.error:.1e}")
        table.add_row(row.name, *cells)
    output_console().print(table)
