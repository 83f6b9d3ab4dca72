"""Several edits as one, of least rank within an error bound."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alphaedit.core.edit import Answer, Edit, edit_id
from alphaedit.core.errors import LedgerError, NonFiniteError
from alphaedit.core.fact import canonical
from alphaedit.core.patch import LowRank, Patch
from alphaedit.linalg.lowrank import concatenate, truncate
from alphaedit.methods.state import Learned, SequentialState

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Squashed:
    """One matrix of a squashed edit: ranks before and after, relative error in Frobenius norm."""

    name: str
    given: int
    rank: int
    error: float


def squash(
    pairs: Sequence[tuple[Edit, Learned]], tolerance: float = TOLERANCE
) -> tuple[Edit, Learned, list[Squashed]]:
    """One edit in place of several that follow one another.

    Args:
        pairs: the edits, oldest first, and what was learned from each.
        tolerance: relative error allowed for each matrix.

    Returns:
        The edit, with the facts that hold after all of them; what was learned from all; and the
        error of each matrix.

    Raises:
        LedgerError: there are fewer than two, one changes more than weights, or they do not fit
            together.
        ConfigError: the tolerance is not between 0 and 1.
    """
    edits = [edit for edit, _ in pairs]
    if len(edits) < 2:
        raise LedgerError("Fewer than two edits are in force.", remedy="There is nothing to do.")
    for edit in edits:
        for other in edit.patch.changes:
            raise LedgerError(
                f"Edit {edit.id} by {edit.method} does not only change weights: {other.exports}.",
                remedy="Squash edits of weight-editing methods.",
            )
    weights, report = _added(edits, tolerance)
    latest: dict[str, tuple[int, int]] = {}
    first: dict[str, tuple[int, int]] = {}
    for i, edit in enumerate(edits):
        for j, fact in enumerate(edit.facts):
            key = canonical(fact.text)
            latest[key] = (i, j)
            first.setdefault(key, (i, j))
    facts = tuple(edits[i].facts[j] for i, j in latest.values())
    methods = {edit.method for edit in edits}
    patch = Patch(
        weights,
        metadata={
            "squashed": [edit.id for edit in edits],
            "error": {row.name: row.error for row in report},
        },
    )
    last = edits[-1]
    squashed = Edit(
        id=edit_id(patch, facts, edits[0].parent),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        method=methods.pop() if len(methods) == 1 else "squash",
        hyperparameters=last.hyperparameters,
        facts=facts,
        patch=patch,
        base=last.base,
        parent=edits[0].parent,
        before=_answers([edits[i].before[j : j + 1] for i, j in (first[key] for key in latest)]),
        after=_answers([edits[i].after[j : j + 1] for i, j in latest.values()]),
        null_space=last.null_space,
    )
    state = SequentialState.of(learned for _, learned in pairs)
    return squashed, state.learned(SequentialState()), report


def _added(edits: Sequence[Edit], tolerance: float) -> tuple[dict[str, LowRank], list[Squashed]]:
    """All changes of each matrix as one, and its error."""
    parts: dict[str, list[LowRank]] = {}
    for edit in edits:
        for name, change in edit.patch.weights.items():
            parts.setdefault(name, []).append(change.to("cpu", torch.float64))
    weights, report = {}, []
    for name, changes in parts.items():
        if len({change.shape for change in changes}) > 1:
            raise LedgerError(
                f"The edits give {name} different shapes: they are of different models.",
                remedy="Do not trust this ledger, or squash others.",
            )
        whole = concatenate(changes)
        try:
            small, error = truncate(whole, tolerance)
            weights[name] = small.to(dtype=torch.float32)
        except (RuntimeError, NonFiniteError):  # of LAPACK, where sums overflow
            error = math.nan
        if not math.isfinite(error):
            raise LedgerError(
                f"The changes of {name} are too large to be added up.",
                remedy="Do not trust this ledger, or squash others.",
            )
        report.append(Squashed(name, whole.rank, small.rank, error))
    return weights, report


def _answers(parts: Sequence[Sequence[Answer]]) -> tuple[Answer, ...]:
    """All of them, or none if an edit does not have its answers."""
    return tuple(part[0] for part in parts) if all(parts) else ()
