"""Facts edited batch by batch: the one loop of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alphaedit.core.edit import Edit
from alphaedit.core.errors import GuardError
from alphaedit.core.fact import Fact
from alphaedit.editor.standard import method_for
from alphaedit.editor.verdict import without_verdicts
from alphaedit.locate.preset import in_a_row, matching
from alphaedit.methods.base import Method

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor


@dataclass(frozen=True)
class EditedBatch:
    """One batch of a run, when it is over.

    Attributes:
        facts: of the batch.
        edit: what was made of them; None if the guard undid it.
        stop: why the guard ended the run with this batch, if it did.
    """

    facts: Sequence[Fact]
    edit: Edit | None
    stop: GuardError | None = None


def split(facts: Sequence[Fact], size: int) -> list[Sequence[Fact]]:
    """Facts in batches of `size`; the last may be smaller."""
    return [facts[at : at + size] for at in range(0, len(facts), size)]


def edit_in_batches(
    editor: Editor,
    batches: Sequence[Sequence[Fact]],
    method: str | Method,
    /,  # settings of methods may have these names
    *,
    phase: str | None = None,
    verdicts: bool = False,
    **options: Any,
) -> Iterator[EditedBatch]:
    """Edit one batch after the other; see `Editor.edit_in_batches`.

    Args:
        editor: what edits.
        batches: facts of each batch.
        method: an editing method, or its name.
        phase: report the facts edited so far by the editor's progress, under this name.
        verdicts: warn of facts of a batch that do not hold after it.
        options: as for `Editor.edit`.
    """
    done, total = 0, sum(map(len, batches))
    method = method_for(method, editor.handle, editor.edits, options, options.get("preset"))
    if options.get("preset") is None:
        # By all of them: a batch alone may be few edits.
        edits = in_a_row(editor.edits, method.name, total)
        options["preset"] = matching(editor.handle, method=method.name, edits=edits)
    for batch in batches:
        if phase is not None and len(batches) > 1:
            editor.progress(phase, done, total)
        stop = None
        try:
            with nullcontext() if verdicts else without_verdicts():
                edit = editor.edit(batch, method, **options)
        except GuardError as error:
            stop = error
        done += len(batch)
        if stop is None:
            yield EditedBatch(batch, edit)
            continue
        yield EditedBatch(batch, editor.edits[-1] if stop.kept else None, stop)
        break
    if phase is not None:
        editor.progress(phase, total, total)
