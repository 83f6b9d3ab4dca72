"""Edits without some of their facts, where facts own what was changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.errors import EditFileError


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
    kept = [i for i in range(count) if i not in gone]

    def of_kept(values: Any) -> Any:
        """What there is for each fact, such as answers and losses."""
        if not isinstance(values, (list, tuple)) or len(values) != count:
            return values
        return type(values)(values[i] for i in kept)

    changes = tuple(left for one in edit.patch.changes if (left := one.without(gone)) is not None)
    metadata = {name: of_kept(value) for name, value in edit.patch.metadata.items()}
    patch, facts = replace(edit.patch, changes=changes, metadata=metadata), of_kept(edit.facts)
    return replace(
        edit,
        id=edit_id(patch, facts, edit.parent),
        patch=patch,
        facts=facts,
        before=of_kept(edit.before),
        after=of_kept(edit.after),
        verdict=of_kept(edit.verdict),
    )
