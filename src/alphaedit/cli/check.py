"""`alphaedit check`: do facts hold? For continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import ledgers, options
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED
from alphaedit.cli.outputs import Output, check_outputs, end

EXAMPLES = examples(
    "alphaedit check bundled facts.jsonl --edits my-edits",
    "alphaedit check ./my-model facts.csv --junit report.xml",
    "alphaedit check ./my-model facts.csv --edits my-edits --at-least 0.95 --json",
    "psql -c 'COPY facts TO STDOUT CSV HEADER' | alphaedit check ./my-model - --format csv",
)


@options.grouped
def check(
    model: options.Model,
    facts: Annotated[
        Path,
        typer.Argument(
            metavar="FACTS", help="Facts, as for `alphaedit edit`; - for standard input."
        ),
    ],
    *,
    edits: Annotated[
        Path | None,
        typer.Option("--edits", metavar="LEDGER", help="Apply the edits in force there first."),
    ] = None,
    format: sources.Format = None,
    paraphrases: Annotated[
        bool, typer.Option("--paraphrases", help="Also ask the paraphrases of each fact.")
    ] = False,
    at_least: Annotated[
        float,
        typer.Option("--at-least", min=0, max=1, help="Share that must hold for exit code 0."),
    ] = 1.0,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="FILE", help="Write a JUnit XML report.", show_default=False
        ),
    ] = None,
    chat: options.Chat = False,
    force: options.Force = False,
    common: options.Seeded,
) -> dict[str, Any]:
    """Ask a model for facts; exit code 1 if one is wrong.

    A fact holds if what the model says to its prompt begins with the target.
    """
    check_outputs(model, [Output("--junit", junit)], force=force, inputs={"--edits": edits})
    wanted = sources.load(facts, format)
    from alphaedit.jobs import check as job

    request = job.CheckRequest(
        model=model,
        facts=wanted,
        facts_from=sources.name_of(facts),
        edits=edits,
        paraphrases=paraphrases,
        at_least=at_least,
        chat=chat,
        junit=junit,
        seed=common.seed,
        **vars(common.loading),
    )
    session = common.session
    result = session.run(job.run, request)
    if result.wrong:
        session.say(ledgers.asked_table(result.wrong, "Wrong"))
    session.say(f"{len(result.asked) - len(result.wrong)} of {len(result.asked)} facts hold.")
    return end(session, result.to_json(), result.failed, code=0 if result.ok else FAILED)
