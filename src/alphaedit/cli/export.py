"""`alphaedit export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import ledgers, options, prepare
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.core.errors import unknown_name

EXAMPLES = examples(
    "alphaedit export my-edits -o my-adapter",
    "alphaedit export my-edits --at head~1 -o my-adapter --tolerance 0.01",
    "alphaedit export my-edits --model ./my-model --format checkpoint -o edited-model",
)
MARKS = {"lora": "adapter_config.json", "delta": "delta.json", "checkpoint": "config.json"}


@options.loads_model
def export(
    where: ledgers.Where,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Write here.")],
    model: ledgers.ModelOption = None,
    version: Annotated[
        str, typer.Option("--at", help="An entry of the log: @3, head~1, or an edit's id.")
    ] = "head",
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="lora: an adapter for PEFT; delta: plain factors; checkpoint: the whole model.",
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
    if form not in MARKS:
        raise unknown_name("--format", form, MARKS)
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    model = ledgers.model_of(ledger, model)
    at = ledger.version(version)
    prepare.check_folder(out, MARKS[form], force=force)
    said = Session(json=json, quiet=quiet)
    with said.progress() as progress:
        editor = ledgers.editor_at(ledger, model, at, progress, loading=loading)
        from alphaedit.editor import export as write

        if form == "lora":
            report = write.save_lora(
                editor.handle, editor.edits, out, base=model, tolerance=tolerance
            )
        elif form == "delta":
            report = write.save_delta(editor.edits, out, base=model, tolerance=tolerance)
        else:
            report = write.summed(editor.edits)[1]
            editor.save_pretrained(out)
            text = write.card(editor.edits, model, report)
            (out / "FACTS.md").write_text(text, encoding="utf-8")
        said.wrote(out)
    if not json:
        from rich.table import Table

        table = Table(title=f"{len(editor.edits)} edits as {form}", title_justify="left")
        table.add_column("matrix")
        for name in ("rank", "of", "norm", "relative error"):
            table.add_column(name, justify="right")
        for row in report:
            cells = (str(row.rank), str(row.given), f"{row.size:.4g}", f"{row.error:.1e}")
            table.add_row(row.name, *cells)
        console = output_console()
        console.print(table)
        console.print(f"Written to {out}", highlight=False, soft_wrap=True)
    return {
        "ledger": str(where),
        "model": model,
        "format": form,
        "out": str(out),
        "edits": [edit.id for edit in editor.edits],
        "matrices": [asdict(row) for row in report],
    }
