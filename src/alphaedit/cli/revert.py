"""`alphaedit revert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import options
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, output_console
from alphaedit.cli.prepare import CHECKPOINT, check_folder, open_editor, require_session
from alphaedit.core.errors import ConfigError

EXAMPLES = examples(
    "alphaedit revert my-edits",
    "alphaedit revert my-edits -n 3 --json",
    "alphaedit revert my-edits --model bundled --checkpoint reverted-model",
)


def revert(
    session: Annotated[
        Path, typer.Argument(metavar="SESSION", help="Directory that `alphaedit edit -o` wrote.")
    ],
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, help="How many of the last edits.")
    ] = 1,
    model: Annotated[
        str | None, typer.Option("--model", help="The unedited model, for --checkpoint.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Also write the model with what remains, here."),
    ] = None,
    force: options.Force = False,
    json: options.Json = False,
    device: options.Device = None,
    dtype: options.Dtype = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Take the last edits out of a saved session.

    What remains, sequential state included, is as it was before those edits were made. The model
    that they were made on was never changed.
    """
    if (model is None) != (checkpoint is None):
        raise ConfigError("--model and --checkpoint go together.", remedy="Give both, or neither.")
    require_session(session)
    check_folder(checkpoint, CHECKPOINT, force=force)
    from alphaedit.editor.io import check_count, load_session, revert_session

    out = Session(json=json, quiet=quiet)
    with out.progress() as progress:
        check_count(session, load_session(session)[0], count)
        if model is not None and checkpoint is not None:
            editor = open_editor(model, progress, device=device, dtype=dtype, session=session)
            for _ in range(count):
                editor.revert()
            editor.save_pretrained(checkpoint)
            out.wrote(checkpoint)
        removed = revert_session(session, count)
    left = [edit.id for edit in load_session(session)[0]]
    if not json:
        console = output_console()
        for edit in removed:
            facts = "1 fact" if len(edit.facts) == 1 else f"{len(edit.facts)} facts"
            console.print(f"Reverted {edit.id}: {facts} by {edit.method}.", highlight=False)
        console.print(f"Edits left in {session}: {len(left)}.", highlight=False, soft_wrap=True)
    return {
        "reverted": [edit.id for edit in removed],
        "left": left,
        "session": str(session),
        "checkpoint": str(checkpoint) if checkpoint else None,
    }
