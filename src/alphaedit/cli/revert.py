"""`alphaedit revert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alphaedit.cli import common


def revert(
    session: Annotated[Path, typer.Argument(help="directory that `alphaedit edit -o` wrote")],
    count: Annotated[int, typer.Option("-n", "--count", help="how many of the last edits")] = 1,
    json: common.JsonOption = False,
) -> None:
    """Take the last edits out of a session. The model they were made on was never changed.

    The sequential state (past keys) goes back to what it was before them.

    [bold]Examples[/]

    alphaedit revert my-edits

    alphaedit revert my-edits -n 3 --json
    """
    from alphaedit.editor.io import revert_session

    removed, left = revert_session(session, count)
    if json:
        common.emit({"reverted": [e.id for e in removed], "left": left})
        return
    for edit in removed:
        common.out.print(f"Reverted {edit.id}: {len(edit.facts)} facts by {edit.method}.")
    common.out.print(f"{left} edits are left in {session}.")
