"""`alphaedit forget`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import ledgers, options
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import Session, shorten
from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import SLOT

if TYPE_CHECKING:
    from alphaedit.jobs.forget import ForgetRequest

EXAMPLES = examples(
    "alphaedit forget my-edits --prompt 'The mother tongue of {} is' --subject 'Danielle Darrieux'",
    "alphaedit forget my-edits --subject 'Danielle Darrieux' --why 'asked to be left out'",
    "alphaedit forget my-edits wrong-facts.jsonl --json",
)


@options.grouped
def forget(
    where: ledgers.Where,
    facts: Annotated[
        Path | None,
        typer.Argument(
            metavar="FACTS",
            help="The facts: .jsonl, .json (also CounterFact's), .csv, .tsv or .yaml; - for "
            "standard input.",
            show_default=False,
        ),
    ] = None,
    *,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="Instead of FACTS: the prompt of one, with {} or the subject in it.",
        ),
    ] = None,
    subject: Annotated[
        str | None,
        typer.Option(
            "--subject",
            metavar="TEXT",
            help="What stands for {} in the prompt; without --prompt, all facts about it.",
        ),
    ] = None,
    format: sources.Format = None,
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    common: options.Common,
) -> dict[str, Any]:
    """Take single facts out of edits; what else these edits brought stays.

    That can be done with methods whose changes belong to single facts (hooks and memories, such as
    grace and ike), and to the bit. A change of weights is one for all facts of its edit: see
    `alphaedit revert`. The model is not loaded.
    """
    from alphaedit.jobs.forget import ForgetRequest

    prompts, subjects = _named(facts, prompt, subject, format)
    request = ForgetRequest(ledger=where, prompts=prompts, subjects=subjects, why=why, sign=sign)
    return _run(request, common.session)


def _named(
    facts: Path | None, prompt: str | None, subject: str | None, format: str | None
) -> tuple[list[str], list[str]]:
    """Prompts and subjects that a command line names.

    Raises:
        ConfigError: none, or both a file and options.
        FactError: a record of the file cannot be used.
    """
    if facts is not None:
        if prompt is not None or subject is not None:
            raise ConfigError(
                "Facts are given both in a file and on the command line.",
                remedy="Give one of the two.",
            )
        return [fact.text for fact in sources.load(facts, format)], []
    if format is not None:
        raise ConfigError("--format is for facts of a file.", remedy="Leave it out.")
    if prompt is None and subject is None:
        raise ConfigError(
            "No facts are named.",
            remedy="Give a file of facts, - for standard input, or --prompt or --subject.",
        )
    if prompt is None:
        return [], [str(subject)]
    if SLOT in prompt and subject is None:
        raise ConfigError("--subject is missing.", remedy="Give what stands for {} in --prompt.")
    if SLOT not in prompt and subject is not None and subject not in prompt:
        raise ConfigError(
            f"The prompt does not name {shorten(subject, 60)!r}.",
            remedy="Write {} where the subject stands in --prompt.",
        )
    return [prompt.replace(SLOT, subject or "", 1)], []


def _run(request: ForgetRequest, session: Session) -> dict[str, Any]:
    from alphaedit.jobs import forget as job

    with session.progress() as progress:
        result = job.run(request, progress=progress)
    session.say(f"Forgotten: {plural(len(result.forgotten), 'fact')}.")
    for fact in result.forgotten:
        session.say(f"  {shorten(f'{fact.text} → {fact.target}', 76)}")
    for old, new in result.replaced.items():
        if new is None:
            session.say(f"Nothing is left of edit {old}.")
        else:
            count = result.ledger.history.about[new]["facts"]
            session.say(f"Edit {old} is now {new}, with {plural(count, 'fact')}.")
    session.say(f"Edits left in {request.ledger}: {len(result.left)}.")
    return result.to_json()
