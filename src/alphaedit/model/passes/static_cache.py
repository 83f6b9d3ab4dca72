"""Keys and values with space behind them: each run writes its own there, nothing is copied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class _Written(torch.autograd.Function):
    """`whole` with `new` in its last places; the gradient of `new` is that of these places."""

    @staticmethod
    def forward(ctx: Any, new: Tensor, whole: Tensor) -> Tensor:
        ctx.count = new.shape[-2]
        whole[..., -ctx.count :, :] = new
        return whole.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        return grads[0][..., -ctx.count :, :], None


class _StaticLayer(DynamicLayer):
    """One layer; `keys` and `values` [rows, heads, front + space, size]."""

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, space: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.space = space
        self.keys, self.values = keys, values

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """What the layer holds, and behind it the states of this run."""
        assert key_states.shape[-2] == self.space
        return (
            _Written.apply(key_states, self.keys),
            _Written.apply(value_states, self.values),
        )

    def get_seq_length(self) -> int:
        """Tokens in front."""
        return int(self.keys.shape[-2]) - self.space


def with_space(cache: Cache, space: int) -> Cache:
    """A cache that holds what `cache` does, with space for `space` more tokens.

    Every run over it must have exactly `space` tokens; gradients of one run must be taken before
    the next begins.
    """
    new = DynamicCache()
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None:
            new.layers.append(DynamicLayer())
        else:
            new.layers.append(_StaticLayer(_wider(keys, space), _wider(values, space), space))
    return new


def without_layers(cache: Cache, before: int) -> Cache:
    """The same cache, its layers before `before` empty."""
    new = DynamicCache()
    new.layers = [*(DynamicLayer() for _ in cache.layers[:before]), *cache.layers[before:]]
    return new


def static_rows(cache: Cache, rows: Tensor) -> Cache:
    """The given rows of a cache that `with_space` made."""
    new = DynamicCache()
    for layer in cache.layers:
        if isinstance(layer, _StaticLayer):
            index = rows.to(layer.keys.device)
            layer = _StaticLayer(layer.keys[index], layer.values[index], layer.space)
        new.layers.append(layer)
    return new


def _wider(tensor: Tensor, space: int) -> Tensor:
    shape = (*tensor.shape[:-2], tensor.shape[-2] + space, tensor.shape[-1])
    wider = tensor.new_empty(shape)
    wider[..., : tensor.shape[-2], :] = tensor
    return wider
