"""What the studio does in runs: check, preview, revert, export, trace, spectra."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import ConfigError, FactError
from alphaedit.core.fact import check_facts
from alphaedit.core.progress import Progress
from alphaedit.jobs import checking, commands, export, look, preview, revert
from alphaedit.jobs.runs import Run
from alphaedit.jobs.studio import EDITED, Studio
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.methods.state import Learned

ENDINGS = {"gguf": ".gguf", "gguf-lora": ".gguf"}
MOST_NAME = 200


def start_check(studio: Studio, rows: Sequence[checking.Row]) -> Run:
    """Ask the model for facts that are to be edited: does it know them already?"""

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        studio.models.bring(EDITED)
        return {"answers": checking.ask(rows, studio.editor, progress=progress, cancel=run.cancel)}

    count = sum(row.ok for row in rows)
    return studio.start("check", f"Asking for {_counted(count, 'fact')}", work)


def start_preview(studio: Studio, request: preview.PreviewRequest) -> Run:
    """Try edits out; what comes of it may be kept.

    Raises:
        FactError: the facts cannot be edited together.
    """
    facts = check_facts(request.facts, warn=False)
    request = replace(request, facts=facts, seed=studio.opened.seed)

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        known = studio.well_known(progress)
        text = studio.held_out(progress)
        studio.models.bring(EDITED)
        result = preview.run(
            request, studio.editor, text, known, progress=progress, cancel=run.cancel
        )
        run.cancel.check()
        studio.hold(run, result)
        return result.to_json()

    title = f"Preview of {_counted(len(facts), 'fact')} by {request.method}"
    asked = {
        "facts": len(facts),
        "method": request.method,
        "hyperparameters": {k: _plain(v) for k, v in request.hyperparameters.items()},
        "batch_size": request.batch_size,
        "chat": request.chat,
    }
    command = commands.edit(studio.opened.model, request, studio.opened.ledger)
    return studio.start("preview", title, work, asked=asked, command=command)


def take_out(studio: Studio, edits: Sequence[str], why: str) -> dict[str, Any]:
    """Take edits out of the ledger, and begin to ask for the facts of those made after them.

    Raises:
        LedgerError: there is no such edit in force.
    """
    request = revert.RevertRequest(
        ledger=studio.opened.ledger, edits=list(edits), measure=False, why=why
    )
    result = studio.timeline.write(lambda ledger: revert.run(request, ledger=ledger))
    studio.changed()
    left = set(result.left)
    dependants = {edit for edit in result.dependants if edit in left}
    return {
        "reverted": list(result.reverted),
        "left": len(left),
        "entry": result.entry.number,
        "command": commands.revert(studio.opened.ledger, list(edits), why),
        "run": _ask_dependants(studio, dependants).id if dependants else None,
    }


def _ask_dependants(studio: Studio, edits: Collection[str]) -> Run:
    """Ask for the facts of edits that were made with another in place."""

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        studio.models.bring(EDITED)
        standing = studio.timeline.standing().values()
        facts = [statement.fact for statement in standing if statement.edit in edits]
        rows = []
        for at in range(0, len(facts), checking.ASKED_AT_ONCE):
            progress("asking", at, len(facts))
            rows += studio.editor.asked(facts[at : at + checking.ASKED_AT_ONCE])
        progress("asking", len(facts), len(facts))
        wrong = [reply for reply in rows if not reply.holds]
        return {
            "asked": len(rows),
            "wrong": [
                {"prompt": r.fact.text, "target": r.fact.target, "answer": r.answer.text}
                for r in wrong
            ],
        }

    title = f"Asking for facts of {_counted(len(edits), 'edit')} made after it"
    return studio.start("dependants", title, work)


def go_back(studio: Studio, version: str, why: str) -> dict[str, Any]:
    """Bring what was in force after an entry into force again.

    Raises:
        LedgerError: there is no such entry.
    """
    from alphaedit.jobs.ledgers import checkout

    entry = studio.timeline.write(lambda ledger: checkout(ledger, version, why=why))
    studio.changed()
    command = commands.checkout(studio.opened.ledger, version, why)
    head = studio.timeline.head()
    return {"entry": entry.number, "edits": head.size if head else 0, "command": command}


def place_for(folder: Path, name: str, form: str) -> Path:
    """Where an export is written: a new name below the studio's folder.

    Raises:
        ConfigError: the name leads elsewhere, is there already, or has a wrong ending.
    """
    given = Path(name)
    odd = not name.strip() or len(name) > MOST_NAME or not name.isprintable()
    if odd or given.is_absolute() or "\\" in name or ":" in name or ".." in given.parts:
        raise ConfigError(
            f"{name[:80]!r} is no name below {folder}.",
            remedy="Give a plain name, such as my-adapter.",
        )
    place = folder / given
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{name!r} leads out of {folder}.", remedy="Give a plain name.")
    ending = ENDINGS.get(form)
    if ending and place.suffix != ending:
        raise ConfigError(f"{name!r} does not end in {ending}.", remedy=f"Call it {name}{ending}.")
    if place.exists():
        raise ConfigError(f"{place} is there already.", remedy="Give another name.")
    return place


def start_export(studio: Studio, name: str, form: str, version: str, max_rank: int | None) -> Run:
    """Write the edits of a version for other programs.

    Raises:
        ConfigError: the name cannot be used.
        LedgerError: there is no such version.
        UnknownNameError: no such form.
    """
    opened = studio.opened
    studio.timeline.begun().version(version)
    out = place_for(opened.folder, name, form)
    values: dict[str, Any] = {"form": form, "version": version, "max_rank": max_rank}
    request = export.ExportRequest(ledger=opened.ledger, out=out, model=opened.model, **values)

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        progress("export", 0, 1)
        ledger = Ledger(opened.ledger)
        with studio.models.lent(ledger.edits(ledger.version(version))):
            result = export.run(request, progress=progress, cancel=run.cancel, editor=studio.editor)
        progress("export", 1, 1)
        return result.to_json()

    command = commands.export(opened.ledger, opened.model, out, values)
    return studio.start("export", f"Export of {version} as {form}", work, command=command)


def start_trace(studio: Studio, request: look.LookRequest, model: str) -> Run:
    """Trace a prompt, by the unedited model or with the edits in force."""
    fact = request.fact
    if not fact.subject_span:
        raise FactError("There is no subject.", remedy="Give one.")
    studio.models.check(model)

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        studio.models.bring(model)
        told = partial(studio.partly, run)
        return look.trace(request, studio.editor, progress=progress, cancel=run.cancel, partly=told)

    return studio.start("trace", f"Causal trace of “{fact.text[:60]}”", work)


def start_spectra(studio: Studio, layers: Sequence[int]) -> Run:
    """Spectrum and null space of layers of the unedited model."""

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        told = partial(studio.partly, run)
        with studio.models.lent([]):
            return look.spectra(
                studio.editor, layers, progress=progress, cancel=run.cancel, partly=told
            )

    return studio.start("spectra", "Spectra and null spaces", work)


def start_where(studio: Studio, name: str) -> Run:
    """Where the change of an edit of the ledger went.

    Raises:
        LedgerError: there is no such edit.
    """
    ledger = studio.timeline.begun()
    edit = ledger.history.edit(name)

    def work(run: Run, progress: Progress) -> dict[str, Any]:
        progress("reading", 0, 1)
        made: Edit
        learned: Learned
        made, learned = Ledger(studio.opened.ledger).read(edit)
        with studio.models.lent([]):
            told = look.where(studio.editor, made, learned)
        progress("reading", 1, 1)
        return told

    return studio.start("where", f"Where edit {edit} went", work)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
