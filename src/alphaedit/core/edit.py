"""An edit as kept on disk: the patch, its facts, where it came from, and what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from alphaedit.core.arguments import as_path
from alphaedit.core.errors import EditFileError
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder
from alphaedit.core.learned import STATE, STATE_TENSORS, Learned
from alphaedit.core.patch import Patch
from alphaedit.core.stored import FORMAT, OLDEST, facts_in, read_edit, read_tensors

_JSON, _TENSORS = "edit.json", "patch.safetensors"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to a fact's prompt.

    Attributes:
        text: greedy continuation.
        p_target: exp of the mean token log-probability of the new object.
        p_truth: the same for the old object, if known.
    """

    text: str
    p_target: float
    p_truth: float | None = None


@dataclass(frozen=True, repr=False)
class Edit:
    """A Patch with its facts, provenance and measured before and after.

    Attributes:
        id: short hash of patch, facts and parent.
        base: fingerprint of the model before any edit; applying checks it.
        parent: id of the edit this one came after.
        null_space: report for each edited layer, by parameter name.
        seconds: time by phase.
        drift: what a guard measured on held-out text after it, see `Drift`.
        verdict: for each fact, whether the model's own greedy answer was the new object right after
            the edit; empty in edits of older versions.
        measured: what was chosen by measuring on the model, for later batches to use again.
        learned: what a sequential run learned from it; None if that is not known.
    """

    id: str
    created: str
    method: str
    hyperparameters: Mapping[str, Any]
    facts: tuple[Fact, ...]
    patch: Patch
    base: str
    parent: str | None = None
    before: tuple[Answer, ...] = ()
    after: tuple[Answer, ...] = ()
    null_space: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    drift: Mapping[str, float] = field(default_factory=dict)
    verdict: tuple[bool, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    learned: Learned | None = field(default=None, compare=False)

    @property
    def holds(self) -> tuple[Fact, ...]:
        """Facts that the model said right after the edit."""
        return tuple(f for f, right in zip(self.facts, self.verdict, strict=False) if right)

    @property
    def fails(self) -> tuple[Fact, ...]:
        """Facts that the model did not say right after the edit."""
        return tuple(f for f, right in zip(self.facts, self.verdict, strict=False) if not right)

    def summary(self) -> str:
        """What was edited, whether it holds, and what it cost, in a few lines."""
        from alphaedit.core.show import summary

        return summary(self)

    def __repr__(self) -> str:
        count = len(self.facts)
        outcome = f"{len(self.holds)} of {count} hold" if self.verdict else f"{count} facts"
        return f"<Edit {self.id} by {self.method}: {outcome}>"

    def _repr_html_(self) -> str:
        from alphaedit.core.show import html

        return html(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {
            "format": FORMAT if self.patch.changes else OLDEST,
            "id": self.id,
            "created": self.created,
            "method": self.method,
            "hyperparameters": dict(self.hyperparameters),
            "base": self.base,
            "parent": self.parent,
            "facts": [fact.to_dict() for fact in self.facts],
            "before": [asdict(answer) for answer in self.before],
            "after": [asdict(answer) for answer in self.after],
            "null_space": {name: dict(report) for name, report in self.null_space.items()},
            "seconds": dict(self.seconds),
            "drift": dict(self.drift),
            "verdict": list(self.verdict),
            "measured": dict(self.measured),
            "metadata": self.patch.metadata,
            # Of the first format, which older versions read.
            **({"changes": self.patch.about()} if self.patch.changes else {"prompt": None}),
        }

    def save(self, folder: str | Path) -> Path:
        """Write the edit into `folder`, all or nothing; files of other names there stay.

        These are `edit.json` and `patch.safetensors`, and `state.json` and `state.safetensors`
        where it is known what a sequential run learned from the edit.

        Raises:
            ResourceError: the disk is full or cannot be written, or another edit's state lies in
                `folder` and this one has none; nothing is left behind.
        """
        folder = as_path("The folder", folder)
        rivals = (STATE, STATE_TENSORS)
        with atomic_folder(folder, last=_JSON, rivals=lambda name: name in rivals) as part:
            self.write_files(part)
        return folder

    def write_files(self, folder: Path) -> None:
        """Write the files of `save` into a directory that is there."""
        if self.learned is not None:
            self.learned.write_files(folder)
        save_file(self.patch.tensors(), folder / _TENSORS)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        (folder / _JSON).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Edit:
        """Read what `save` wrote.

        Raises:
            EditFileError: a file is missing, truncated, changed, or of another format.
        """
        folder = as_path("The folder", folder)
        for name in (_JSON, _TENSORS):
            if not (folder / name).is_file():
                raise EditFileError(
                    f"{folder} is not an edit: it has no {name}.",
                    remedy="Give the directory that `alphaedit edit -o` wrote.",
                )
        data = read_edit(folder / _JSON)
        patch = _patch(folder / _TENSORS, data)
        edit = cls(
            id=data["id"],
            created=data["created"],
            method=data["method"],
            hyperparameters=data["hyperparameters"],
            facts=facts_in(data, folder / _JSON),
            patch=patch,
            base=data["base"],
            parent=data["parent"],
            before=_answers(data["before"]),
            after=_answers(data["after"]),
            null_space=data["null_space"],
            seconds=data["seconds"],
            drift=data.get("drift", {}),
            verdict=tuple(data.get("verdict", ())),
            measured=data.get("measured", {}),
            learned=_learned(folder),
        )
        if edit_id(edit.patch, edit.facts, edit.parent) != edit.id:
            raise EditFileError(
                f"{folder} was changed after it was written: its content does not give id "
                f"{edit.id}.",
                remedy="Take it from a backup, or make the edit again.",
            )
        return edit


def _patch(path: Path, data: Mapping[str, Any]) -> Patch:
    tensors = read_tensors(path)
    try:
        about = data.get("changes", ())
        return Patch.from_tensors(tensors, about=about, metadata=data["metadata"])
    except EditFileError as error:
        raise EditFileError(f"{path}: {error.message}", remedy=error.remedy) from error


def _answers(given: list[dict[str, Any]]) -> tuple[Answer, ...]:
    return tuple(Answer(a["text"], a["p_target"], a.get("p_truth")) for a in given)


def _learned(folder: Path) -> Learned | None:
    """What lies beside an edit, if both of its files are there."""
    there = [(folder / name).is_file() for name in (STATE, STATE_TENSORS)]
    return Learned.read_files(folder) if all(there) else None


def edit_id(patch: Patch, facts: tuple[Fact, ...], parent: str | None) -> str:
    """Content hash of an edit: 16 hexadecimal digits."""
    digest = sha256()
    for name, tensor in sorted(patch.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(json.dumps([f.to_dict() for f in facts], sort_keys=True).encode())
    # Of edits of weights alone the text is that of the first format, so that their ids stay.
    about = json.dumps(patch.about(), sort_keys=True) if patch.changes else None
    digest.update(repr((parent, about)).encode())
    return digest.hexdigest()[:16]
