"""Whether a ledger is what its writers left, and what may be swept away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alphaedit.core.edit import Edit
from alphaedit.core.errors import EditFileError, LedgerError
from alphaedit.core.progress import Progress, silent
from alphaedit.ledger.ledger import SIGNATURES, Ledger
from alphaedit.ledger.signing import verify as verify_signature


@dataclass
class Verdict:
    """What a check found.

    Attributes:
        entries: lines of the journal that follow from one another.
        edits: edits whose files are whole.
        pruned: edits that `gc` has removed.
        signed: number of entries, by signer.
        unsigned: entries without a signature.
        problems: sentences on what is wrong.
    """

    entries: int = 0
    edits: int = 0
    pruned: int = 0
    signed: dict[str, int] = field(default_factory=dict)
    unsigned: int = 0
    problems: list[str] = field(default_factory=list)


def verify(
    ledger: Ledger,
    *,
    allowed: Path | None = None,
    require_signatures: bool = False,
    progress: Progress = silent,
) -> Verdict:
    """Check journal, hashes, ids, fingerprints and signatures.

    Args:
        ledger: opening it has followed the journal's chain already.
        allowed: ssh's "allowed signers" file, to know who signed.
        require_signatures: whether an entry without one is a problem.
        progress: told of each edit.

    Raises:
        LedgerError: the journal itself is broken.
        ConfigError: a signature is to be checked and there is no ssh-keygen.
    """
    history = Ledger(ledger.path).history
    verdict = Verdict(entries=len(history.entries), pruned=len(history.pruned))
    live = {edit: files for edit, files in history.files.items() if edit not in history.pruned}
    for done, (edit, files) in enumerate(live.items()):
        progress("edits", done, len(live))
        try:
            ledger.store.check(edit, files)
            loaded = Edit.load(ledger.store.folder(edit))
            if loaded.id != edit:
                raise LedgerError(f"The directory of {edit} holds edit {loaded.id}.")
            if loaded.base != history.base:
                raise LedgerError(f"Edit {edit} was made on another model ({loaded.base[:12]}).")
            verdict.edits += 1
        except EditFileError as error:
            verdict.problems.append(error.message)
    progress("edits", len(live), len(live))
    for entry in history.entries:
        try:
            path = ledger.path / SIGNATURES / f"{entry.hash}.sig"
            who = verify_signature(entry.hash, path, allowed)
        except LedgerError as error:
            verdict.problems.append(f"Entry @{entry.number}: {error.message}")
            continue
        if who is None:
            verdict.unsigned += 1
            if require_signatures:
                verdict.problems.append(f"Entry @{entry.number} is not signed.")
        else:
            verdict.signed[who] = verdict.signed.get(who, 0) + 1
    return verdict


@dataclass(frozen=True)
class Swept:
    """What `sweep` removed, or would.

    Attributes:
        litter: pieces that killed writers left.
        orphans: edits that the journal does not speak of, or has given up.
        pruned: edits that were not in force.
        freed: bytes.
    """

    litter: int
    orphans: Sequence[str]
    pruned: Sequence[str]
    freed: int


def sweep(ledger: Ledger, *, prune: bool = False, dry_run: bool = False, why: str = "") -> Swept:
    """Remove what killed writers left, and with `prune` the edits that are not in force.

    Pruned edits cannot be applied again, nor the versions that had them.

    Raises:
        ResourceError: another process writes, or files cannot be removed; the ledger is whole.
    """
    history, store = ledger.history, ledger.store
    live = set(history.files) - set(history.pruned)
    idle = sorted(live - set(history.head.edits)) if prune else []
    if idle and not dry_run:
        ledger.commit("gc", more={"pruned": idle}, why=why)
    with ledger.locked(reading=dry_run):
        history = ledger.history
        live = set(history.files) - set(history.pruned)
        stored = store.ids()
        orphans = [edit for edit in stored if edit not in live and edit not in idle]
        gone = [*orphans, *(edit for edit in idle if edit in stored)]
        freed = sum(store.size(edit) for edit in gone)
        litter = len(store.litter())
        if not dry_run:
            for edit in gone:
                store.remove(edit)
            store.clean()
            litter -= len(store.litter())
    return Swept(litter, orphans, idle, freed)
