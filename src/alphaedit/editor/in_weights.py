"""Edits that act while a model runs, in weights: as neurons that its MLPs get."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.change import Change
from alphaedit.core.edit import Edit
from alphaedit.core.errors import AlphaEditWarning, EditFileError
from alphaedit.core.fact import Fact
from alphaedit.core.neurons import Neurons
from alphaedit.core.progress import Progress, silent
from alphaedit.editor.as_weights import as_weights_told
from alphaedit.editor.checkpoint import refuse_source, stored_dtype
from alphaedit.editor.measured import ask_facts
from alphaedit.methods.registry import writer
from alphaedit.model.handle import ModelHandle
from alphaedit.model.route import plain
from alphaedit.model.wider import Wider, can_be_wider
from alphaedit.stats.corpus import Corpus

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor

ASKED = 50
"""Facts asked for with the neurons as they are written."""


def takes_neurons(handle: ModelHandle) -> bool:
    """Whether a checkpoint of this model can hold what hooks do as neurons."""
    return handle.adds_directly and can_be_wider(handle)


@contextmanager
def in_a_checkpoint(editor: Editor, folder: Path) -> Iterator[Wider | None]:
    """What is to be written of the model, for the length of a block: with these neurons.

    Where its MLPs cannot get any, facts of hooks are edited anew as changes of weights. Warnings
    name facts that are lost.

    Args:
        folder: where it is to be written.

    Raises:
        EditFileError: edits are in force that no weights can hold.
        ConfigError: `folder` is where the unedited model was loaded from.
    """
    refuse_source(editor.handle, folder)
    if not editor.handle.hooked:
        yield None
    elif not takes_neurons(editor.handle):
        with as_weights_told(editor):
            yield None
    else:
        corpus = editor.statistics.corpus
        wider = in_weights(editor.handle, corpus, editor.edits, progress=editor.progress)
        if wider is not None:
            warn_of_lost(editor.handle, wider, editor.edits)
        yield wider


def in_weights(
    handle: ModelHandle, corpus: Corpus, edits: Sequence[Edit], *, progress: Progress = silent
) -> Wider | None:
    """The neurons that do in weights what hooks of `edits` do; None if they have none.

    Args:
        handle: the model, with the changes of weights in force that go with them.
        corpus: ordinary text.

    Raises:
        EditFileError: an edit makes something that no weights can be.
        ConfigError: this model's MLPs cannot be made wider.
        ArchitectureError: an MLP was not understood.
    """
    by_name: dict[str, list[tuple[Change, Sequence[Fact]]]] = {}
    for edit in edits:
        for change in edit.patch.changes:
            if writer(change.name) is None:
                raise EditFileError(
                    f"Edit {edit.id} by {edit.method} does not only change weights: "
                    f"{change.exports}.",
                    remedy="Export edits that change weights, or that can be written as neurons "
                    "(--method gated).",
                )
            by_name.setdefault(change.name, []).append((change, edit.facts))
    if not by_name:
        return None
    made = dict[int, Neurons]()
    for name, changes in by_name.items():
        write = writer(name)
        assert write is not None
        for layer, neurons in write(handle, corpus, changes, progress).items():
            made[layer] = neurons if layer not in made else made[layer].joined(neurons)
    return Wider.of(handle, made)


def facts_as_written(handle: ModelHandle, wider: Wider, edits: Sequence[Edit]) -> Mapping[str, Any]:
    """How many facts hold now, and with neurons as they are written in place of hooks.

    The last `ASKED` are asked.
    """
    facts = [fact for edit in edits for fact in edit.facts][-ASKED:]
    before = ask_facts(handle, facts)
    with plain(), wider.in_place(handle, stored_dtype(handle)):
        after = ask_facts(handle, facts)
    return {
        "asked": len(facts),
        "hold": sum(reply.holds for reply in before),
        "hold_as_written": sum(reply.holds for reply in after),
        "lost": [
            old.fact.text for old, new in zip(before, after, strict=True) if old.holds > new.holds
        ],
    }


def warn_of_lost(handle: ModelHandle, wider: Wider, edits: Sequence[Edit]) -> None:
    """Say which facts hold now and would not in a checkpoint."""
    asked = facts_as_written(handle, wider, edits)
    if asked["lost"]:
        warnings.warn(
            AlphaEditWarning(
                f"{len(asked['lost'])} of {asked['asked']} facts hold now, and not in the "
                f"checkpoint: {', '.join(asked['lost'])}. A subject that begins a text is not told "
                "there, nor one that other text is too much like."
            ),
            stacklevel=4,
        )
