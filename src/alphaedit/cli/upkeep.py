"""`alphaedit verify`, `gc`, `pack`, `unpack`, `push` and `pull`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alphaedit.cli import ledgers, options
from alphaedit.cli.ledgers import plural
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Outcome, Session

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked
    from alphaedit.ledger.check import Verdict

VERIFY_EXAMPLES = examples(
    "alphaedit verify my-edits",
    "alphaedit verify my-edits --ask",
    "alphaedit verify my-edits --allowed-signers team.txt --require-signatures",
)
GC_EXAMPLES = examples("alphaedit gc my-edits --dry-run", "alphaedit gc my-edits --prune")
PACK_EXAMPLES = examples("alphaedit pack my-edits my-edits.tar.gz")
UNPACK_EXAMPLES = examples("alphaedit unpack my-edits.tar.gz my-edits")
PUSH_EXAMPLES = examples(
    "alphaedit push my-edits me/my-edits --dry-run",
    "alphaedit push my-adapter me/my-adapter --public",
)
PULL_EXAMPLES = examples("alphaedit pull me/my-edits my-edits")


@options.grouped
def verify(
    where: ledgers.Where,
    ask: Annotated[
        bool, typer.Option("--ask", help="Also load the model and ask for all facts in force.")
    ] = False,
    allowed_signers: Annotated[
        Path | None,
        typer.Option(
            "--allowed-signers",
            metavar="FILE",
            help="Who may sign, in ssh's format: NAME KEY-TYPE KEY, a line each.",
            exists=True,
            dir_okay=False,
            show_default=False,
        ),
    ] = None,
    require_signatures: Annotated[
        bool, typer.Option("--require-signatures", help="Every entry must be signed.")
    ] = False,
    model: ledgers.ModelOption = None,
    *,
    common: options.Seeded,
) -> dict[str, Any]:
    """Check that a ledger is what its writers left: hashes, ids, fingerprints, signatures.

    Exit code 1 if anything is wrong, with --ask also if a fact does not hold.
    """
    from alphaedit.jobs.ledgers import ask_in_force, asked_json, editor_at, model_of
    from alphaedit.ledger.check import verify as check
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    if ask:
        model_of(ledger, model)
    session = common.session
    asked: list[Asked] = []
    with session.progress() as progress:
        verdict = check(
            ledger,
            allowed=allowed_signers,
            require_signatures=require_signatures,
            progress=progress,
        )
        if ask and not verdict.problems:
            opening = {**vars(common.loading), "seed": common.seed}
            editor = editor_at(ledger, model, ledger.head, progress, **opening)
            asked = ask_in_force(editor, ledger, ledger.head)
    wrong = _say_verdict(session, verdict, asked)
    result = {
        "ledger": str(where),
        **asdict(verdict),
        "asked": asked_json(asked),
        "wrong": len(wrong),
        "ok": not verdict.problems and not wrong,
    }
    return result if result["ok"] else Outcome(result, code=FAILED)


def _say_verdict(session: Session, verdict: Verdict, asked: Sequence[Asked]) -> list[Asked]:
    """Say what was found; facts that do not hold."""
    wrong = [reply for reply in asked if not reply.holds]
    session.say(
        f"{plural(verdict.entries, 'entry')} and {plural(verdict.edits, 'edit')} are whole."
    )
    for who, number in verdict.signed.items():
        session.say(f"{plural(number, 'entry')} signed by {who}.")
    session.say(*verdict.problems, style="red")
    if asked:
        session.say(f"{len(asked) - len(wrong)} of {len(asked)} facts hold.")
    if wrong:
        session.say(ledgers.asked_table(wrong, "Facts that do not hold"))
    return wrong


@options.grouped
def gc(
    where: ledgers.Where,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Also remove edits that are not in force, for ever."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell.")] = False,
    why: ledgers.Why = "",
    sign: ledgers.Sign = None,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Remove what killed writers left, and with --prune edits that are not in force."""
    from alphaedit.ledger.check import sweep
    from alphaedit.ledger.ledger import Ledger

    swept = sweep(Ledger(where, signer=sign), prune=prune, dry_run=dry_run, why=why)
    verb = "Would remove" if dry_run else "Removed"
    common.session.say(
        f"{verb} {plural(len(swept.pruned), 'edit')} not in force, "
        f"{plural(len(swept.orphans) + swept.litter, 'leftover')}: {swept.freed / 1e6:.2f} MB."
    )
    return {"ledger": str(where), "dry_run": dry_run, **asdict(swept)}


@options.grouped
def pack(
    where: ledgers.Where,
    file: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", help="A new .tar, .tar.gz or .tgz file.")
    ],
    force: options.Force = False,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Write a ledger into one file, to send it."""
    from alphaedit.cli.outputs import Output, check_outputs
    from alphaedit.ledger.archive import is_packed
    from alphaedit.ledger.archive import pack as packed
    from alphaedit.ledger.ledger import Ledger

    ledger = Ledger(where)
    place = Output("", file, ours=is_packed)
    check_outputs(None, [place], force=force, inputs={"LEDGER": where})
    count = packed(ledger, file)
    common.session.say(f"{plural(count, 'file')} in {file}, {file.stat().st_size / 1e6:.2f} MB.")
    return {"ledger": str(where), "file": str(file), "files": count, "bytes": file.stat().st_size}


@options.grouped
def unpack(
    file: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A file of `alphaedit pack`.")],
    where: ledgers.Where,
    max_size: Annotated[
        float | None,
        typer.Option(
            "--max-size",
            metavar="GB",
            min=0.001,
            max=1e6,
            help="How large it may be when unpacked.",
            show_default="16, and at most 100 times the file",
        ),
    ] = None,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Take a ledger out of a file, into a new directory; it is verified first."""
    from alphaedit.cli.outputs import NEW_LEDGER, Output, check_outputs
    from alphaedit.ledger.archive import unpack as unpacked

    check_outputs(None, [Output("", where, NEW_LEDGER)])
    size = None if max_size is None else int(max_size * 1e9)
    return _came(unpacked(file, where, max_size=size), None, common.session)


@options.grouped
def push(
    folder: Annotated[
        Path,
        typer.Argument(metavar="LEDGER|DIR", help="A ledger, or an exported adapter or delta."),
    ],
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository on the Hugging Face Hub: owner/name.")
    ],
    public: Annotated[
        bool, typer.Option("--public", help="If the repository is made: for all to see.")
    ] = False,
    why: ledgers.Why = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would go there; needs no network.")
    ] = False,
    *,
    common: options.Common,
) -> dict[str, Any]:
    """Copy a ledger or an export to the Hugging Face Hub."""
    from alphaedit.ledger.check import verify as check
    from alphaedit.ledger.hub import push as pushed
    from alphaedit.ledger.ledger import Ledger

    session = common.session
    with session.progress() as progress:
        if Ledger.at(folder):
            problems = check(Ledger(folder), progress=progress).problems
            if problems:
                from alphaedit.core.errors import LedgerError

                raise LedgerError(problems[0], remedy="Mend it first; nothing was pushed.")
        done = pushed(folder, repo, private=not public, dry_run=dry_run, message=why)
    size = sum(done.files.values()) / 1e6
    where = done.url or f"would go to {repo}"
    session.say(f"{done.kind}: {plural(len(done.files), 'file')}, {size:.2f} MB, {where}")
    return {**asdict(done), "dry_run": dry_run}


@options.grouped
def pull(
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository on the Hugging Face Hub: owner/name.")
    ],
    where: ledgers.Where,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="REVISION", help="Branch, tag or commit.")
    ] = None,
    *,
    common: options.Plain,
) -> dict[str, Any]:
    """Bring a ledger from the Hugging Face Hub, or one here up to it; it is verified first."""
    from alphaedit.cli.outputs import LEDGER, Output, check_outputs
    from alphaedit.ledger.hub import pull as pulled
    from alphaedit.ledger.ledger import Ledger

    check_outputs(None, [Output("", where, LEDGER)])
    count = pulled(repo, where, revision=revision)
    return _came(Ledger(where), count, common.session)


def _came(ledger: Any, count: int | None, session: Session) -> dict[str, Any]:
    entries = len(ledger.history.entries)
    new = "" if count is None else f" ({count} new)"
    session.say(
        f"{ledger.path}: {plural(entries, 'entry')}{new}, "
        f"{plural(ledger.head.size, 'edit')} in force."
    )
    return {
        "ledger": str(ledger.path),
        "entries": entries,
        "new": entries if count is None else count,
        "edits": ledger.head.edits,
    }
