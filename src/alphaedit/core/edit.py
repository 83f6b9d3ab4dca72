"""An edit as kept on disk: the patch, its facts, where it came from, and what it did."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from alphaedit.core.errors import EditFileError
from alphaedit.core.fact import Fact
from alphaedit.core.files import atomic_folder
from alphaedit.core.patch import Patch

FORMAT = 1
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


@dataclass(frozen=True)
class Edit:
    """A Patch with its facts, provenance and measured before and after.

    Attributes:
        id: short hash of patch, facts and parent.
        base: fingerprint of the model before any edit; applying checks it.
        parent: id of the edit this one came after.
        null_space: report for each edited layer, by parameter name.
        seconds: time by phase.
        drift: what a guard measured on held-out text after it, see `Drift`.
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

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {
            "format": FORMAT,
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
            "prompt": self.patch.prompt,
            "metadata": self.patch.metadata,
        }

    def save(self, folder: str | Path) -> Path:
        """Write `edit.json` and `patch.safetensors` into `folder`, all or nothing.

        Raises:
            ResourceError: the disk is full or cannot be written; nothing is left behind.
        """
        folder = Path(folder)
        with atomic_folder(folder) as part:
            self.write_files(part)
        return folder

    def write_files(self, folder: Path) -> None:
        """Write `edit.json` and `patch.safetensors` into a directory that is there."""
        save_file(self.patch.tensors(), folder / _TENSORS)
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        (folder / _JSON).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Edit:
        """Read what `save` wrote.

        Raises:
            EditFileError: a file is missing, truncated, changed, or of another format.
        """
        folder = Path(folder)
        for name in (_JSON, _TENSORS):
            if not (folder / name).is_file():
                raise EditFileError(
                    f"{folder} is not an edit: it has no {name}.",
                    remedy="Give the directory that `alphaedit edit -o` wrote.",
                )
        try:
            data = json.loads((folder / _JSON).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise EditFileError(
                    f"{folder / _JSON} has format {data['format']}, this version reads {FORMAT}.",
                    remedy="Use the version of alphaedit that wrote it.",
                )
            patch = Patch.from_tensors(
                load_file(folder / _TENSORS), prompt=data["prompt"], metadata=data["metadata"]
            )
            facts = tuple(Fact.from_dict(f, str(folder / _JSON)) for f in data["facts"])
            edit = cls(
                id=data["id"],
                created=data["created"],
                method=data["method"],
                hyperparameters=data["hyperparameters"],
                facts=facts,
                patch=patch,
                base=data["base"],
                parent=data["parent"],
                before=tuple(Answer(**a) for a in data["before"]),
                after=tuple(Answer(**a) for a in data["after"]),
                null_space=data["null_space"],
                seconds=data["seconds"],
                drift=data.get("drift", {}),
            )
        except (json.JSONDecodeError, KeyError, TypeError, SafetensorError, OSError) as error:
            raise EditFileError(
                f"{folder} cannot be read as an edit: {error}.",
                remedy="Take it from a backup, or make the edit again.",
            ) from error
        if edit_id(edit.patch, edit.facts, edit.parent) != edit.id:
            raise EditFileError(
                f"{folder} was changed after it was written: its content does not give id "
                f"{edit.id}.",
                remedy="Take it from a backup, or make the edit again.",
            )
        return edit


def edit_id(patch: Patch, facts: tuple[Fact, ...], parent: str | None) -> str:
    """Content hash of an edit: 16 hexadecimal digits."""
    digest = sha256()
    for name, tensor in sorted(patch.tensors().items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    digest.update(json.dumps([f.to_dict() for f in facts], sort_keys=True).encode())
    digest.update(repr((parent, patch.prompt)).encode())
    return digest.hexdigest()[:16]
