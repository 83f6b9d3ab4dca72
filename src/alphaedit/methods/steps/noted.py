"""Notes of edits whose scopes are told by vectors, for whoever is to read them before a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.core.errors import ConfigError, ModelError
from alphaedit.core.fact_text import short
from alphaedit.methods.steps.scope import Scope, scores
from alphaedit.model.handle import ModelHandle
from alphaedit.model.local import Local, responder_of
from alphaedit.model.responder import Router

STATEMENT, PROMPT = "{statement}", "{prompt}"


@dataclass(frozen=True, eq=False)
class _Group:
    """Edits of one scope: vectors [n, k], the least score of each [n], its statement and form."""

    scope: Scope
    keys: Tensor
    least: Tensor
    notes: tuple[tuple[str, str], ...]


def check_form(form: str) -> str:
    """A form of notes, which has places for a statement and for the prompt behind it.

    Raises:
        ConfigError: one is missing, or the prompt does not end it.
    """
    if form.count(STATEMENT) != 1 or form.count(PROMPT) != 1 or not form.endswith(PROMPT):
        raise ConfigError(
            f"The form of a note is {form!r}.",
            remedy=f"Give a text with {STATEMENT} in it that ends in {PROMPT}.",
        )
    return form


def notes_of(handle: ModelHandle, changes: Sequence[Change]) -> Callable[..., list[str | None]]:
    """For prompts, the text with the note in front where an edit's score is above its threshold.

    Of edits with equal scores the later counts. Notes and prompts that are longer together than
    `reader` reads are refused.
    """
    groups = [_group(own) for own in _by_scope(changes)]

    def notes(prompts: Sequence[str], reader: ModelHandle = handle) -> list[str | None]:
        best = [0.0] * len(prompts)
        chosen: list[str | None] = [None] * len(prompts)
        for group in groups:
            scored = scores(group.scope.vectors(handle, prompts), group.keys)
            scored = torch.where(scored > group.least, scored, 0.0).flip(1)
            top, place = scored.max(1)
            for row, (score, at) in enumerate(zip(top.tolist(), place.tolist(), strict=True)):
                if score > 0 and score >= best[row]:
                    statement, form = group.notes[len(group.notes) - 1 - at]
                    best[row] = score
                    chosen[row] = form.replace(PROMPT, prompts[row]).replace(STATEMENT, statement)
        for prompt, text in zip(prompts, chosen, strict=True):
            if text is not None:
                _check_length(reader, prompt, text)
        return chosen

    return notes


def in_front(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """The model itself reads notes; gives what undoes it."""
    notes = notes_of(handle, changes)

    def render(prompts: Sequence[str]) -> list[str]:
        texts = notes(prompts)
        return [text or prompt for text, prompt in zip(texts, prompts, strict=True)]

    handle.memories.append(render)
    return lambda: handle.memories.remove(render)


def by_another(
    handle: ModelHandle, changes: Sequence[Change], reader: ModelHandle
) -> Callable[[], None]:
    """Another model answers prompts in scope, by the note; gives what undoes it."""
    notes = notes_of(handle, changes)
    router = Router(
        responder_of(handle), Local(reader), lambda prompts: notes(prompts, reader=reader)
    )
    handle.routers.append(router)
    return lambda: handle.routers.remove(router)


def _by_scope(changes: Sequence[Change]) -> list[list[Change]]:
    """Changes whose scopes are the same, in their order."""
    groups: list[list[Change]] = []
    for change in changes:
        for own in groups:
            first = own[0]
            if first.options["layer"] == change.options["layer"] and all(
                torch.equal(first.shared[name], change.shared[name]) for name in first.shared
            ):
                own.append(change)
                break
        else:
            groups.append([change])
    return groups


def _group(changes: Sequence[Change]) -> _Group:
    first = changes[0]
    return _Group(
        Scope.of(first.options["layer"], first.shared, f"The change {first.name!r}"),
        torch.cat([change.rows["key"] for change in changes]).float(),
        torch.cat(
            [torch.full((len(change),), float(change.options["threshold"])) for change in changes]
        ),
        tuple((text, str(change.options["note"])) for change in changes for text in change.texts),
    )


def _check_length(reader: ModelHandle, prompt: str, text: str) -> None:
    limit = reader.max_positions
    if limit is None or len(text) < limit:
        return
    long = len(reader.tokens.encode(text))
    if long >= limit:
        raise ModelError(
            f"A note and the prompt behind it have {long:,} tokens, and the model reads {limit:,}: "
            f"{short(prompt)}.",
            remedy="Shorten the prompt, or the statement of the edit.",
        )
