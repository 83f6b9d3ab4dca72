"""What is said of an edit: facts that do not hold, facts that were edited before."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from alphaedit.core.change import MemoryChange
from alphaedit.core.edit import Edit
from alphaedit.core.errors import RepeatWarning, VerdictWarning
from alphaedit.core.fact import Fact, canonical
from alphaedit.core.show import named, said_instead, short
from alphaedit.editor.measured import Asked
from alphaedit.ledger.facts import Held

REACHED = 1.0
"""Nats; a target search that ends above this has not found what would make the model say it."""


@contextmanager
def without_verdicts() -> Iterator[None]:
    """For the length of a block, do not warn of facts that do not hold: they are told otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerdictWarning)
        yield


def warn_of_fails(edit: Edit) -> None:
    """Warn if facts of an edit do not hold, naming them and what to do next."""
    asked = [
        Asked(fact, answer, right)
        for fact, answer, right in zip(edit.facts, edit.after, edit.verdict, strict=False)
    ]
    undo = f"revert {edit.id}"
    message = complaint(asked, losses_of([edit]), undo=undo, in_text=are_texts([edit]))
    if message is not None:
        warnings.warn(VerdictWarning(message), stacklevel=3)


def losses_of(edits: Iterable[Edit]) -> list[float] | None:
    """Where the target search of each fact ended, in nats; None if a method does not tell."""
    all_losses: list[float] = []
    for edit in edits:
        losses = edit.patch.metadata.get("losses")
        if not isinstance(losses, Sequence) or len(losses) != len(edit.facts):
            return None
        all_losses += losses
    return all_losses


def are_texts(edits: Iterable[Edit]) -> bool:
    """Whether edits only put texts in front of prompts."""
    patches = [edit.patch for edit in edits]
    changes = [change for patch in patches for change in patch.changes]
    texts = all(isinstance(change, MemoryChange) for change in changes)
    return bool(changes) and texts and not any(patch.weights for patch in patches)


def complaint(
    asked: Sequence[Asked],
    losses: Sequence[float] | None,
    *,
    undo: str,
    in_text: bool = False,
) -> str | None:
    """What does not hold after edits, and the next step; None if all does.

    Args:
        asked: all facts that were edited.
        losses: where the target search of each of them ended, if that is known.
        undo: how to undo it, as the end of a sentence.
        in_text: the edits are texts in front of prompts.
    """
    wrong = [i for i, reply in enumerate(asked) if not reply.holds]
    if not wrong:
        return None
    texts = [
        said_instead(asked[i].fact.text, asked[i].answer.text, asked[i].fact.target) for i in wrong
    ]
    facts = "1 fact" if len(asked) == 1 else f"{len(asked)} facts"
    verb = "does" if len(wrong) == 1 else "do"
    told = f"{len(wrong)} of {facts} {verb} not hold: {named(texts)}."
    if in_text:
        return (
            f"{told} What stands before the prompt does not change the answer: take a model that "
            f"reads notes (bundled-reader, or an instruct model), a method that changes weights, "
            f"or {undo}."
        )
    if losses is None or len(losses) != len(asked):
        return f"{told} Try other layers or values (alphaedit tune finds them), or {undo}."
    if max(losses[i] for i in wrong) > REACHED:
        return (
            f"{told} Targets were not found: give more steps, a larger clamp or another learning "
            f"rate, or {undo}."
        )
    return (
        f"{told} Their targets were found, but the edit does not deliver them: take other or more "
        f"layers (alphaedit tune finds them), fewer facts at a time, or {undo}."
    )


def repeated(earlier: Mapping[str, Held], facts: Sequence[Fact]) -> bool:
    """Whether facts were edited before, with a warning that names the earlier edits.

    Args:
        earlier: facts in force by prompt, see `in_force`.
        facts: facts that are about to be edited.
    """
    repeats = []
    for fact in facts:
        previous = earlier.get(canonical(fact.text))
        if previous is None:
            continue
        what = f"{short(fact.text)!r} -> {short(fact.target, 30)!r}"
        if canonical(previous.fact.target) == canonical(fact.target):
            repeats.append(f"{what} repeats edit {previous.edit}")
        else:
            was = short(previous.fact.target, 30)
            repeats.append(f"{what} contradicts edit {previous.edit}, which says {was!r}")
    if repeats:
        warnings.warn(
            RepeatWarning(
                f"Edited before: {named(repeats)}. The later edit is in force; what the earlier "
                "one taught about these prompts no longer counts. Revert the earlier one to be rid "
                "of it."
            ),
            stacklevel=4,
        )
    return bool(repeats)
