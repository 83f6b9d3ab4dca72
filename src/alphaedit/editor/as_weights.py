"""Facts of edits that act while a model runs, for forms that hold weights: edited anew."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from alphaedit.core.defaults import WEIGHTS
from alphaedit.core.edit import Edit
from alphaedit.core.errors import AlphaEditWarning
from alphaedit.core.fact import Fact
from alphaedit.core.patch import Patch
from alphaedit.editor.verdict import without_verdicts
from alphaedit.ledger.facts import in_force
from alphaedit.locate.preset import SEARCH
from alphaedit.methods.registry import writer

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor


@dataclass(frozen=True)
class Anew:
    """Facts that were edited anew, by a change of the matrices that are there.

    Attributes:
        method: what edits them.
        facts: how many.
        hold: how many of them hold by it.
        fails: the others.
    """

    method: str
    facts: int
    hold: int
    fails: Sequence[str]

    @property
    def told(self) -> str:
        """A sentence on them."""
        what = "1 fact was" if self.facts == 1 else f"{self.facts} facts were"
        lost = f" Not: {', '.join(self.fails)}." if self.fails else ""
        return (
            f"{what} edited anew by {self.method}, as this form holds weights of the model's own "
            f"shape; {self.hold} of {self.facts} hold by it.{lost}"
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


@contextmanager
def as_weights(editor: Editor) -> Iterator[Anew | None]:
    """For the length of a block, nothing is in force but changes of weights.

    Facts of edits that could be neurons are edited by `WEIGHTS`, all together, after what is in
    force besides. The editor and its ledger are then as before. Edits that no weights can be stay:
    who writes them says so.

    Raises:
        ConfigError, ResourceError: as `Editor.edit`.
    """
    acting = [edit for edit in editor.edits if edit.patch.changes and _could_be(edit.patch)]
    if not acting:
        yield None
        return
    before, ledger, guard = editor.pairs(), editor.ledger, editor.guard
    ids = {edit.id for edit in acting}
    try:
        editor.ledger = editor.guard = None
        editor.set_edits([pair for pair in before if pair[0].id not in ids])
        with without_verdicts():
            made = [
                editor.edit(facts, WEIGHTS, **over) for facts, over in _together(before, acting)
            ]
        fails = [fact.text for edit in made for fact in edit.fails]
        count = sum(len(edit.facts) for edit in made)
        yield Anew(WEIGHTS, count, count - len(fails), fails)
    finally:
        editor.set_edits(before)
        editor.ledger, editor.guard = ledger, guard


@contextmanager
def as_weights_told(editor: Editor) -> Iterator[None]:
    """The same, with a warning that says so."""
    with as_weights(editor) as anew:
        if anew is not None:
            warnings.warn(AlphaEditWarning(anew.told), stacklevel=5)
        yield


def _could_be(patch: Patch) -> bool:
    return all(writer(change.name) is not None for change in patch.changes)


def _together(
    pairs: Sequence[tuple[Edit, Any]], acting: Sequence[Edit]
) -> list[tuple[list[Fact], dict[str, Any]]]:
    """Facts that are in force by these edits, with the layers and the search that they had."""
    current = in_force((edit.id, edit.facts) for edit, _ in pairs)
    settings = {edit.id: json.dumps(_search(edit), sort_keys=True) for edit in acting}
    groups = dict[str, list[Fact]]()
    for last in current.values():
        if last.edit in settings:
            groups.setdefault(settings[last.edit], []).append(last.fact)
    return [(facts, json.loads(over)) for over, facts in groups.items()]


def _search(edit: Edit) -> dict[str, Any]:
    names = ("layers", "contexts", "context_tokens", "end_of_text", *SEARCH)
    return {name: value for name, value in edit.hyperparameters.items() if name in names}
