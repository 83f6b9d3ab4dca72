"""`alphaedit revert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import ledgers, options, outputs
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session

if TYPE_CHECKING:
    from alphaedit.jobs.revert import RevertRequest

EXAMPLES = examples(
    "alphaedit revert my-edits",
    "alphaedit revert my-edits -n 3 --json",
    "alphaedit revert my-edits 4f2a --why 'was wrong after all'",
    "alphaedit revert my-edits --model bundled --checkpoint reverted-model",
)


@options.grouped
def revert(
    where: ledgers.Where,
    edits: Annotated[
        list[str] | None,
        typer.Argument(metavar="EDIT", help="Ids of edits.", show_default="the last"),
    ] = None,
    *,
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
    common: options.WithModel,
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
    from alphaedit.jobs.revert import RevertRequest

    request = RevertRequest(
        ledger=where,
        edits=edits or (),
        count=count,
        model=model,
        measure=not no_measure,
        checkpoint=checkpoint,
        why=why,
        sign=sign,
        **vars(common.loading),
    )
    return _run(request, common.session)


def _run(request: RevertRequest, session: Session) -> dict[str, Any]:
    from alphaedit.jobs import revert as job

    result = session.run(job.run, request)
    for edit in result.reverted:
        about = result.ledger.history.about[edit]
        session.say(f"Reverted {edit}: {plural(about['facts'], 'fact')} by {about['method']}.")
    session.say(f"Edits left in {request.ledger}: {len(result.left)}.")
    if result.dependants:
        session.say(f"Made after it: {', '.join(result.dependants)}.")
    if result.asked:
        session.say(ledgers.asked_table(result.asked, "Their facts now"))
    return result.to_json()
