"""`alphaedit revert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import ledgers, options, outputs
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.core.errors import AlphaEditError, ConfigError, EditFileError

EXAMPLES = examples(
    "alphaedit revert my-edits",
    "alphaedit revert my-edits -n 3 --json",
    "alphaedit revert my-edits 4f2a --why 'was wrong after all'",
    "alphaedit revert my-edits --model bundled --checkpoint reverted-model",
)


@options.loads_model
def revert(
    where: ledgers.Where,
    edits: Annotated[
        list[str] | None,
        typer.Argument(metavar="EDIT", help="Ids of edits.", show_default="the last"),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="How many of the last edits.")
    ] = 1,
    model: ledgers.ModelOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", metavar="DIR", help="Also write the model with what remains, here."
        ),
    ] = None,
    no_measure: ledgers.NoMeasure = False,
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    force: options.Force = False,
    json: options.Json = False,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Take edits out of force: the last ones, or those named.

    What remains is, bit for bit, as if only the other edits had been applied. Edits made after one
    that is taken out were solved with it in place; they are named, and their facts asked again.
    """
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where, signer=sign)
    places = (
        outputs.Output("LEDGER", where, outputs.LEDGER),
        outputs.Output("--checkpoint", checkpoint, "checkpoint"),
    )
    outputs.check_outputs(model or ledger.model, places, force=force)
    before = ledger.head
    held = before.edits
    if edits and count != 1:
        raise ConfigError("Both edits and -n are given.", remedy="Give one of the two.")
    if not edits and count > len(held):
        raise EditFileError(
            f"{count} edits cannot be reverted: {where} has {len(held)} in force.",
            remedy=f"Revert between 1 and {len(held)}." if held else "There is nothing to do.",
        )
    gone = {ledger.history.edit(name) for name in edits} if edits else set(held[-count:])
    after = before.without(gone)
    first = min(held.index(edit) for edit in gone)
    dependants = [edit for edit in held[first:] if edit not in gone]
    out = Session(json=json, quiet=quiet)
    asked = []
    with out.progress() as progress:
        if checkpoint is not None or (dependants and not no_measure):
            editor = ledgers.editor_at(ledger, model, after, progress, loading=loading)
            if dependants and not no_measure:
                asked = ledgers.ask_in_force(editor, ledger, after, dependants)
            if checkpoint is not None:
                from alphaedit.editor.checkpoint import save_checkpoint

                save_checkpoint(editor.handle, checkpoint, only_ours=True)
                out.wrote(checkpoint)
        reverted = [edit for edit in reversed(held) if edit in gone]
        try:
            entry = ledger.commit(
                "revert",
                drop=reverted,
                why=why,
                more={
                    "dependants": dependants,
                    "wrong": [one.fact.text for one in asked if not one.holds],
                },
                expect=before.id,
            )
        except AlphaEditError as error:
            if checkpoint is not None:
                error.add_note(f"The model without these edits was written to {checkpoint}.")
            raise
    if not json:
        console = output_console()
        for edit in reverted:
            about = ledger.history.about[edit]
            facts = plural(about["facts"], "fact")
            console.print(f"Reverted {edit}: {facts} by {about['method']}.", highlight=False)
        console.print(f"Edits left in {where}: {after.size}.", highlight=False, soft_wrap=True)
        if dependants:
            console.print(f"Made after it: {', '.join(dependants)}.", highlight=False)
        if asked:
            ledgers.asked_table(asked, "Their facts now")
    return {
        "reverted": reverted,
        "left": after.edits,
        "dependants": dependants,
        "asked": ledgers.asked_json(asked),
        "entry": entry.number,
        "ledger": str(where),
        "checkpoint": str(checkpoint) if checkpoint else None,
    }
