"""Edits without some of their facts, where facts own what was changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.errors import EditFileError
from alphaedit.core.fact import Fact, canonical
from alphaedit.methods.state import Learned


@dataclass(frozen=True)
class Forgotten:
    """A list of edits without some facts.

    Attributes:
        left: the edits, with what a sequential run learned from each.
        changed: each edit that held such a fact, and what stands in its place: None if nothing of
            it is left.
        facts: those taken out, in their order.
    """

    left: list[tuple[Edit, Learned]]
    changed: list[tuple[Edit, Edit | None]]
    facts: list[Fact]


def forgotten(
    edits: Sequence[tuple[Edit, Learned]], prompts: Collection[str], subjects: Collection[str] = ()
) -> Forgotten:
    """Edits without the facts that are named; the edits given are not changed.

    Args:
        edits: with what each taught, oldest first.
        prompts: of facts, with the subject in them; white space does not matter.
        subjects: all facts about these.

    Raises:
        EditFileError: a name is of no fact, or of one whose edit changes weights for others too.
    """
    texts, about = {canonical(text) for text in prompts}, {canonical(name) for name in subjects}
    missing = dict.fromkeys([*map(canonical, prompts), *map(canonical, subjects)])
    outcome = Forgotten([], [], [])
    for edit, learned in edits:
        gone: set[int] = set()
        for number, fact in enumerate(edit.facts):
            names = {canonical(fact.text)} & texts | {canonical(fact.subject)} & about
            if names:
                gone.add(number)
                outcome.facts.append(fact)
            for name in names:
                missing.pop(name, None)
        if not gone:
            outcome.left.append((edit, learned))
            continue
        rest = without_facts(edit, gone) if len(gone) < len(edit.facts) else None
        outcome.changed.append((edit, rest))
        if rest is not None:
            outcome.left.append((rest, learned))
    if missing:
        raise EditFileError(
            f"No edit in force is about {next(iter(missing))!r}.",
            remedy="Give facts that were edited, as they were given then.",
        )
    return outcome


def without_facts(edit: Edit, gone: Collection[int]) -> Edit:
    """An edit without some of its facts, by their numbers.

    Raises:
        EditFileError: it changes weights, for all of them together.
    """
    count = len(edit.facts)
    if edit.patch.weights:
        raise EditFileError(
            f"Edit {edit.id} by {edit.method} changes weights for {count} facts together.",
            remedy="Revert the whole edit, and edit the others again.",
        )
    remaining = [i for i in range(count) if i not in gone]

    def of_remaining(values: Any) -> Any:
        """What there is for each fact, such as answers and losses."""
        if not isinstance(values, (list, tuple)) or len(values) != count:
            return values
        return type(values)(values[i] for i in remaining)

    changes = tuple(
        left for change in edit.patch.changes if (left := change.without(gone)) is not None
    )
    metadata = {name: of_remaining(value) for name, value in edit.patch.metadata.items()}
    patch, facts = replace(edit.patch, changes=changes, metadata=metadata), of_remaining(edit.facts)
    return replace(
        edit,
        id=edit_id(patch, facts, edit.parent),
        patch=patch,
        facts=facts,
        before=of_remaining(edit.before),
        after=of_remaining(edit.after),
        verdict=of_remaining(edit.verdict),
    )
