"""The matrices of a model that edits change: found by name, read, written, put back bit for bit.

A matrix is named by its parameter, and that of one expert by its parameter and number
(``model.layers.3.mlp.experts.down_proj[5]``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alphaedit.core.errors import FingerprintError, NonFiniteError
from alphaedit.core.patch import LowRank
from alphaedit.model.experts import Experts, is_experts, split_name
from alphaedit.model.load import at_least_float32
from alphaedit.model.quantised import dequantised, is_quantised, opened
from alphaedit.model.sharded import put, settle, whole
from alphaedit.model.structure import is_linear, is_transposed

Snapshot = dict[str, Tensor]
"""Exact copies of parameters by name; see `ModelHandle.snapshot`."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix as the model has it.

    Attributes:
        module: that it belongs to.
        raw: the tensor that is written to; of a quantised module it is not.
        stored: its values, whole.
        transposed: it is stored as [d_in, d_out].
    """

    module: nn.Module
    raw: Tensor
    stored: Tensor
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """``(d_out, d_in)`` of a matrix."""
        shape = tuple(self.stored.shape)
        return shape[::-1] if self.transposed else shape

    def turned(self, matrix: Tensor) -> Tensor:
        """[d_out, d_in] to the way it is stored, and back."""
        return matrix.T if self.transposed else matrix


class Weights:
    """The matrices of one model."""

    def __init__(self, model: PreTrainedModel, *, sharded: bool) -> None:
        self.model = model
        self.sharded = sharded
        self.modules = dict(model.named_modules())
        # In half precision, many small changes would be lost to rounding one after the other.
        self._masters: dict[str, Tensor] = {}
        # Quantised modules that stand aside while their matrix is edited.
        self._closed: dict[str, nn.Module] = {}

    def find(self, name: str) -> Matrix:
        """The matrix called `name`.

        Raises:
            FingerprintError: there is none.
        """
        if self.sharded:
            settle(self.model)
        expert = split_name(name)
        path, _, last = (name if expert is None else expert[0]).rpartition(".")
        module = self.modules.get(path)
        if expert is not None and module is not None and is_experts(module):
            experts = Experts(module)
            if expert[1] < experts.count:
                view = experts.stored(expert[1])
                return Matrix(module, view, view, experts.transposed)
        weight = getattr(module, "weight", None)
        if module is None or not isinstance(weight, Tensor) or last != "weight":
            raise FingerprintError(
                f"The model has no matrix {name}.", remedy="The edit belongs to another model."
            )
        raw = weight.detach()
        stored = dequantised(module) if is_quantised(module) else whole(raw)
        return Matrix(module, raw, stored, is_transposed(module))

    def full(self, name: str, stored: Tensor) -> Tensor:
        """The named matrix as last written, before it was rounded to the model's dtype."""
        master = self._masters.get(name)
        # Weights that somebody else has written since count as they are.
        if master is not None and torch.equal(master.to(stored.dtype), stored):
            return master
        return stored

    def write(self, full: Mapping[str, Tensor]) -> None:
        """Put these in place of the named matrices, as they are stored, in any dtype."""
        for name, tensor in full.items():
            matrix = self.find(name)
            stored = matrix.stored
            if is_quantised(matrix.module):
                if torch.equal(stored, tensor.to(stored.dtype)) and tensor.dtype == stored.dtype:
                    continue
                stored = self._open(name, matrix.module)
                stored.copy_(tensor)
            else:
                put(matrix.raw, tensor)
            if tensor.dtype == stored.dtype:
                self._masters.pop(name, None)
            else:
                self._masters[name] = tensor
            if name in self._closed and torch.equal(stored, dequantised(self._closed[name])):
                self._masters.pop(name, None)
                self._put(name, self._closed.pop(name))

    def _open(self, name: str, module: nn.Module) -> Tensor:
        """Let a plain module stand in for the quantised one of `name`; its weight."""
        self._closed[name] = module
        plain = opened(module)
        self._put(name, plain)
        return plain.weight.detach()

    def _put(self, name: str, module: nn.Module) -> None:
        path = name.removesuffix(".weight")
        parent, _, child = path.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)
        self.modules[path] = module

    @property
    def unquantised(self) -> list[str]:
        """Names of modules that an edit has taken out of quantisation."""
        return [name.removesuffix(".weight") for name in self._closed]

    @torch.no_grad()
    def add(self, changes: Mapping[str, LowRank]) -> None:
        """See `ModelHandle.add_delta`."""
        new: dict[str, Tensor] = {}
        for name, delta in changes.items():
            matrix = self.find(name)
            stored = matrix.stored
            usable = is_linear(matrix.module) or is_experts(matrix.module)
            if not usable or delta.shape != matrix.shape:
                raise FingerprintError(
                    f"The change of {name} has shape {delta.shape}, the matrix "
                    f"{tuple(stored.shape)}.",
                    remedy="The edit belongs to another model.",
                )
            full = self.full(name, stored).to(at_least_float32(stored))
            delta = delta.to(device=stored.device, dtype=full.dtype)
            left, right = delta.left, delta.right
            if matrix.transposed:
                left, right = right.T, left.T
            new[name] = checked(name, stored, torch.addmm(full, left, right))
        self.write(new)

    def snapshot(self, names: Iterable[str]) -> Snapshot:
        """See `ModelHandle.snapshot`."""
        return {name: self.full(name, self.find(name).stored).clone() for name in names}

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """See `ModelHandle.restore`."""
        # Where the model's dtype is another, what is written is kept as well.
        dtype = {name: self.find(name).stored.dtype for name in snapshot}
        own = {n: t if t.dtype == dtype[n] else t.clone() for n, t in snapshot.items()}
        self.write(own)


def checked(name: str, stored: Tensor, full: Tensor) -> Tensor:
    """`full`, if it is finite in the dtype of `stored`.

    Raises:
        NonFiniteError: it is not.
    """
    rounded = full.to(stored.dtype)
    # One pass over memory tells most often; the sum of finite numbers may be infinite.
    if not bool(rounded.sum().isfinite()) and not bool(rounded.isfinite().all()):
        raise NonFiniteError(
            f"The edited {name} would hold NaN or infinity.",
            remedy="Nothing was changed. Raise the ridge, or edit in float32.",
        )
    return full
