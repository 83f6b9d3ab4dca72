"""Neurons of an MLP, as five tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Neurons:
    """Neurons of an MLP: what it adds is leave @ (act(enter x + bias) * (beside x + beside_bias)).

    Attributes:
        enter: [n, d].
        bias: [n].
        beside: [n, d] of a gated MLP, else empty [0, d].
        beside_bias: [n] or [0].
        leave: [d_out, n].
    """

    enter: Tensor
    bias: Tensor
    beside: Tensor
    beside_bias: Tensor
    leave: Tensor

    def __len__(self) -> int:
        return len(self.enter)

    def joined(self, others: Neurons) -> Neurons:
        """These, and others of the same MLP behind them."""
        return Neurons(
            torch.cat([self.enter, others.enter]),
            torch.cat([self.bias, others.bias]),
            torch.cat([self.beside, others.beside]),
            torch.cat([self.beside_bias, others.beside_bias]),
            torch.cat([self.leave, others.leave], 1),
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> Neurons:
        parts = self.enter, self.bias, self.beside, self.beside_bias, self.leave
        return Neurons(*map(change, parts))

    def to(self, device: torch.device, dtype: torch.dtype) -> Neurons:
        """The same, elsewhere."""
        return self._each(lambda part: part.to(device, dtype))

    def rounded(self, dtype: torch.dtype) -> Neurons:
        """What is left of them in another dtype, in their own."""
        return self._each(lambda part: part.to(dtype).to(part))

    def __call__(self, x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        """What they add for inputs x [..., d], [..., d_out]."""
        keys: Tensor = act(x @ self.enter.T + self.bias)
        if len(self.beside):
            keys = keys * (x @ self.beside.T + self.beside_bias)
        return keys @ self.leave.T
