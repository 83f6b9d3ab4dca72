"""What a method returns: low-rank changes of weights, and changes of other kinds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.arguments import as_text, shown
from alphaedit.core.change import Change, changes_from
from alphaedit.core.errors import AlphaEditError, ConfigError, EditFileError, NonFiniteError

_DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A matrix kept as the product ``left @ right``.

    Attributes:
        left: ``[d_out, r]``, float32 or float64.
        right: ``[r, d_in]``, same dtype and device as `left`.

    Raises:
        ConfigError: Shapes, dtypes or devices do not fit together.
        NonFiniteError: A factor holds NaN or infinity.
    """

    left: Tensor
    right: Tensor

    def __post_init__(self) -> None:
        """Check shapes, dtypes, devices and finiteness."""
        left, right = self.left, self.right
        for name, factor in (("left", left), ("right", right)):
            if not isinstance(factor, Tensor):
                raise ConfigError(f"{name} is {shown(factor)}.", remedy="Give a tensor.")
        if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
            raise ConfigError(
                f"Low-rank factors of shapes {tuple(left.shape)} and {tuple(right.shape)} "
                "cannot be multiplied.",
                remedy="Give left as [d_out, r] and right as [r, d_in].",
            )
        if left.dtype not in _DTYPES or right.dtype != left.dtype:
            raise ConfigError(
                f"Low-rank factors have dtypes {left.dtype} and {right.dtype}.",
                remedy="Give both in float32, or both in float64.",
            )
        if left.device != right.device:
            raise ConfigError(
                f"Low-rank factors lie on {left.device} and {right.device}.",
                remedy="Move both to one device.",
            )
        for name, factor in (("left", left), ("right", right)):
            _require_finite(factor, f"The {name} factor of a low-rank change")

    @classmethod
    def dense(cls, matrix: Tensor) -> "LowRank":
        """Any matrix ``[d_out, d_in]`` as a product with an identity."""
        rows, columns = matrix.shape
        identity = torch.eye(min(rows, columns), dtype=matrix.dtype, device=matrix.device)
        return cls(identity, matrix) if rows <= columns else cls(matrix, identity)

    @property
    def rank(self) -> int:
        """Number of columns of `left`: an upper bound of the matrix's rank."""
        return self.left.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)``, the shape of the matrix."""
        return self.left.shape[0], self.right.shape[1]

    def matrix(self) -> Tensor:
        """The product, ``[d_out, d_in]``."""
        return self.left @ self.right

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "LowRank":
        """A copy on another device or in another dtype (float32 or float64)."""
        dtype = dtype or self.left.dtype
        return LowRank(
            self.left.to(device=device, dtype=dtype), self.right.to(device=device, dtype=dtype)
        )


@dataclass(frozen=True, eq=False)
class Patch:
    """A change of a model that has not been applied to it.

    Attributes:
        weights: Change of each edited matrix, under its full parameter name in the model
            (``transformer.h.3.mlp.c_proj.weight``), as ``[d_out, d_in]`` acting on keys from
            the left, whichever way round the model stores the matrix.
        changes: What else is changed, see `core.change`.
        metadata: What the method tells about the patch; JSON values only.

    Raises:
        ConfigError: A part is of a wrong kind, or a name is empty.
    """

    weights: dict[str, LowRank] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the kinds of all parts and the names."""
        _require_mapping("weights", self.weights, LowRank)
        for change in self.changes:
            if not isinstance(change, Change):
                raise ConfigError(f"A change is {shown(change)}.", remedy="Give a Change.")
        _require_mapping("metadata", self.metadata, object)
        if "" in self.weights:
            raise ConfigError(
                "A patch names an empty parameter.",
                remedy="Use the full name as the model gives it.",
            )

    @property
    def empty(self) -> bool:
        """Whether the patch would change nothing."""
        return not (self.weights or self.changes)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under flat names, detached copies on the CPU, ready for safetensors.

        Returns:
            ``weights/NAME/left`` ``[d_out, r]`` and ``weights/NAME/right`` ``[r, d_in]`` per
            edited matrix, ``changes/NUMBER/...`` per change.
        """
        flat: dict[str, Tensor] = {}
        for name, delta in self.weights.items():
            flat[f"weights/{name}/left"] = _own(delta.left)
            flat[f"weights/{name}/right"] = _own(delta.right)
        for number, change in enumerate(self.changes):
            for name, tensor in change.tensors().items():
                flat[f"changes/{number}/{name}"] = _own(tensor)
        return flat

    def about(self) -> list[dict[str, Any]]:
        """What there is of each change besides its tensors, as JSON values."""
        return [change.about() for change in self.changes]

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        about: Sequence[Mapping[str, Any]] = (),
        metadata: dict[str, Any] | None = None,
    ) -> "Patch":
        """Build a patch from the flat names of `tensors`, and what `about` says of changes.

        Raises:
            EditFileError: A name is not understood, a factor is missing, or the tensors do not
                make a valid patch.
        """
        factors: dict[str, dict[str, Tensor]] = {}
        others: dict[str, Tensor] = {}
        for flat, tensor in tensors.items():
            kind, _, rest = flat.partition("/")
            name, _, last = rest.rpartition("/")
            if kind == "weights" and name and last in ("left", "right"):
                factors.setdefault(name, {})[last] = tensor
            elif kind == "changes" and name and last:
                others[rest] = tensor
            else:
                raise EditFileError(f"Unknown tensor {flat!r} in a patch.", remedy=_RESAVE)
        weights: dict[str, LowRank] = {}
        for name, pair in factors.items():
            missing = {"left", "right"} - pair.keys()
            if missing:
                raise EditFileError(
                    f"The patch of {name} lacks its {missing.pop()} factor.", remedy=_RESAVE
                )
            try:
                weights[name] = LowRank(pair["left"], pair["right"])
            except AlphaEditError as error:
                raise EditFileError(
                    f"The patch of {name} is broken: {error.message}", remedy=_RESAVE
                ) from error
        try:
            return cls(weights, changes_from(others, about), metadata or {})
        except EditFileError:
            raise
        except AlphaEditError as error:
            raise EditFileError(f"The patch is broken: {error.message}", remedy=_RESAVE) from error


_RESAVE = "Save the edit again, or take it from a backup."


def _require_mapping(name: str, value: object, kind: type) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} is {shown(value)}.", remedy="Give a mapping by name.")
    for key, item in value.items():
        as_text(f"A name in {name}", key)
        if not isinstance(item, kind):
            raise ConfigError(
                f"{name}[{key!r}] is {shown(item)}.", remedy=f"Give a {kind.__name__}."
            )


def _own(tensor: Tensor) -> Tensor:
    # safetensors refuses tensors that share storage or are not contiguous.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _require_finite(tensor: Tensor, what: str) -> None:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise NonFiniteError(
            f"{what} holds NaN or infinity.",
            remedy="Check the weights and activations that it was computed from.",
        )
