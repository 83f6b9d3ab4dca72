"""A block whose MLP runs at the positions that are read, and nowhere else.

Behind the last block's attention every position goes its own way; what is not read need not be
computed.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import hidden_of, output_of


class SparseMLP(nn.Module):
    """`inner` at the places `at` of its input's leading dimensions, taken as one; zeros elsewhere.

    Attributes:
        at: [n] int64, or None for all.
        as_row: give them to `inner` as the positions of one row.
    """

    def __init__(self, inner: nn.Module, *, as_row: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.as_row = as_row
        self.at: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As `inner`."""
        hidden = hidden_of(args, kwargs)
        if self.at is None or hidden is None:
            return self.inner(*args, **kwargs)
        at, shape = self.at.to(hidden.device), hidden.shape[:-1]

        def picked(value: Any) -> Any:
            if isinstance(value, Tensor) and value.shape[:-1] == shape:
                rows = value.flatten(0, -2)[at]
                return rows[None] if self.as_row else rows
            return value

        out = self.inner(*map(picked, args), **{name: picked(v) for name, v in kwargs.items()})
        read = output_of(out)
        assert read is not None
        read = read.flatten(0, -2)
        whole = read.new_zeros(shape.numel(), read.shape[-1]).index_copy(0, at, read)
        whole = whole.unflatten(0, shape)
        return (whole, *out[1:]) if isinstance(out, (tuple, list)) else whole


def sparse_mlp(handle: ModelHandle, layer: int) -> tuple[nn.Module, SparseMLP] | None:
    """Block `layer` with its MLP in an `SparseMLP`; the model itself is left as it is.

    None where the block has no part of its own that ends in the edited matrix.
    """
    block = handle.block(layer)
    start = f"{handle.structure.layers_path}.{layer}."
    path = handle.structure.edited[layer].removeprefix(start).rpartition(".")[0]
    if not path:
        return None
    outer = _twin(block)
    parent = outer
    *way, name = path.split(".")
    for step in way:
        parent._modules = dict(parent._modules)
        parent._modules[step] = _twin(parent.get_submodule(step))
        parent = parent.get_submodule(step)
    parent._modules = dict(parent._modules)
    # Mixtures of experts ask for rows and positions.
    only = SparseMLP(parent.get_submodule(name), as_row=handle.experts(layer) is not None)
    parent._modules[name] = only
    return outer, only


def _twin(module: nn.Module) -> nn.Module:
    """A module with the same parts; `copy.copy` would make new ones of those that FSDP wraps."""
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__.update(module.__dict__)
    return twin
