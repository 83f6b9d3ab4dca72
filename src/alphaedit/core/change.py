"""Changes of a model that are not changes of weights: rows owned by facts, under a name.

A change is data alone. What it does to a model is known to the method that made it, by the change's
name; see `methods.base.Method.installs`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from alphaedit.core.errors import AlphaEditError, ConfigError, EditFileError, NonFiniteError

VERSION = 1
"""Of the way changes are stored."""
TOGETHER = "together"
"""Option of a change whose rows act through what all facts of its edit share."""
EVERYWHERE = "everywhere"
"""Option of a change that acts token by token, wherever in a request; others decide at its end."""
_RESAVE = "Save the edit again, or take it from a backup."


@dataclass(frozen=True, eq=False)
class Change:
    """Rows that act in a model while it runs.

    Attributes:
        name: of what the rows are for, such as "grace"; the method that made them knows it.
        owner: [n] int64: for each row, the number of the fact of its edit that it belongs to.
        rows: tensors whose first dimension is n, by name.
        shared: tensors that belong to all facts of the edit, by name.
        texts: n texts, or none.
        options: what else decides how they act; JSON values only.

    Raises:
        ConfigError: parts do not fit together, or a name is impossible.
        NonFiniteError: a tensor holds NaN or infinity.
    """

    kind: ClassVar[str]
    exports: ClassVar[str]
    """Why it cannot be written into weights or an adapter."""

    name: str
    owner: Tensor
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    texts: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check names, sizes and finiteness."""
        if not self.name or self.owner.ndim != 1 or self.owner.dtype != torch.int64:
            raise ConfigError(
                f"A change {self.name!r} has owners of shape {tuple(self.owner.shape)} and dtype "
                f"{self.owner.dtype}.",
                remedy="Give a name, and the number of a fact (int64) for each row.",
            )
        for where, tensors in (("rows", self.rows), ("shared", self.shared)):
            for name, tensor in tensors.items():
                if not name or "/" in name:
                    raise ConfigError(
                        f"Tensor {name!r} of change {self.name!r} has an impossible name.",
                        remedy="Use a non-empty name without '/'.",
                    )
                if where == "rows" and (not tensor.ndim or len(tensor) != len(self.owner)):
                    raise ConfigError(
                        f"Tensor {name!r} of change {self.name!r} has {tuple(tensor.shape)}, and "
                        f"there are {len(self.owner)} rows.",
                        remedy="Give one entry for each row.",
                    )
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise NonFiniteError(
                        f"Tensor {name!r} of change {self.name!r} holds NaN or infinity.",
                        remedy="Check the activations that it was computed from.",
                    )
        if self.texts and len(self.texts) != len(self.owner):
            raise ConfigError(
                f"Change {self.name!r} has {len(self.texts)} texts for {len(self.owner)} rows.",
                remedy="Give one text for each row, or none.",
            )

    def __len__(self) -> int:
        return len(self.owner)

    def without(self, facts: Collection[int]) -> Self | None:
        """The change without the rows of some facts of its edit; None if no row is left.

        The numbers of the facts that stay close up.

        Raises:
            EditFileError: rows are left, and act only together with those that go.
        """
        owners = self.owner.tolist()
        remaining = [i for i, owner in enumerate(owners) if owner not in facts]
        if not remaining:
            return None
        if self.options.get(TOGETHER) and len(remaining) < len(owners):
            raise EditFileError(
                f"A change called {self.name!r} is one for all facts of its edit together.",
                remedy="Revert the whole edit, and edit the others again.",
            )
        index = torch.tensor(remaining)
        closed = [owners[i] - sum(gone < owners[i] for gone in set(facts)) for i in remaining]
        return replace(
            self,
            owner=torch.tensor(closed),
            rows={name: tensor[index] for name, tensor in self.rows.items()},
            texts=tuple(self.texts[i] for i in remaining) if self.texts else (),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names: ``owner``, ``rows/NAME`` and ``shared/NAME``."""
        return {
            "owner": self.owner,
            **{f"rows/{name}": tensor for name, tensor in self.rows.items()},
            **{f"shared/{name}": tensor for name, tensor in self.shared.items()},
        }

    def about(self) -> dict[str, Any]:
        """All but the tensors, as JSON values."""
        return {
            "kind": self.kind,
            "version": VERSION,
            "name": self.name,
            "texts": list(self.texts),
            "options": dict(self.options),
        }


@dataclass(frozen=True, eq=False)
class HookChange(Change):
    """Rows that hooks in the model look up once for each request, at the end of its prompt."""

    kind = "hook"
    exports = "it decides while the model runs, which no adapter or checkpoint can hold"


@dataclass(frozen=True, eq=False)
class MemoryChange(Change):
    """Texts that are looked up for each prompt and put in front of it."""

    kind = "memory"
    exports = "it is text that is put before a prompt, which no adapter or checkpoint can hold"


KINDS: dict[str, type[Change]] = {kind.kind: kind for kind in (HookChange, MemoryChange)}


def changes_from(
    tensors: Mapping[str, Tensor], about: Sequence[Mapping[str, Any]]
) -> tuple[Change, ...]:
    """Changes from flat tensors (``NUMBER/owner``, ...) and what `about` says of each.

    Raises:
        EditFileError: a kind or version is not known, or a part is missing or broken.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for flat, tensor in tensors.items():
        number, _, rest = flat.partition("/")
        parts.setdefault(number, {})[rest] = tensor
    if set(parts) != {str(i) for i in range(len(about))}:
        raise EditFileError(
            f"{len(about)} changes are declared, and tensors of {len(parts)} are there.",
            remedy=_RESAVE,
        )
    return tuple(_one(parts[str(i)], row) for i, row in enumerate(about))


def _one(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Change:
    kind, version = about.get("kind"), about.get("version")
    if kind not in KINDS or version != VERSION:
        raise EditFileError(
            f"A change of kind {kind!r}, version {version!r}, is not known here.",
            remedy="Install a newer version of alphaedit.",
        )
    fields: dict[str, dict[str, Tensor]] = {"rows": {}, "shared": {}}
    for flat, tensor in tensors.items():
        where, _, name = flat.partition("/")
        if where in fields and name:
            fields[where][name] = tensor
        elif flat != "owner":
            raise EditFileError(f"Unknown tensor {flat!r} in a change.", remedy=_RESAVE)
    texts, options = about.get("texts", []), about.get("options", {})
    sound = (
        isinstance(about.get("name"), str)
        and isinstance(texts, list)
        and all(isinstance(text, str) for text in texts)
        and isinstance(options, dict)
    )
    if "owner" not in tensors or not sound:
        raise EditFileError("A change lacks its owners, or is broken.", remedy=_RESAVE)
    try:
        return KINDS[kind](
            about["name"], tensors["owner"], fields["rows"], fields["shared"], tuple(texts), options
        )
    except AlphaEditError as error:
        raise EditFileError(f"A change is broken: {error.message}", remedy=_RESAVE) from error
