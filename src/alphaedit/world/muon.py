"""Muon, with its orthogonalization in a number format that the machine is fast at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from alphaedit.model.devices import quick_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5


def fast_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it natively, else float32."""
    return torch.bfloat16 if quick_bfloat16(torch.device("cpu")) else torch.float32


def orthogonalized(update: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearly U Vᵀ of the singular value decomposition `update` = U S Vᵀ [rows, columns].

    Five quintic Newton-Schulz steps (Jordan et al. 2024, "Muon"), computed in `dtype`.
    """
    a, b, c = COEFFICIENTS
    wide = update.shape[0] <= update.shape[1]
    x = (update if wide else update.T).to(dtype)
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x if wide else x.T).to(update.dtype)
    return result


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a matrix is orthogonalized, as large as AdamW's.

    Args:
        params: matrices.
        lr: learning rate; the root mean square of an update is about 0.2 of it.
        weight_decay: decoupled.
        momentum: Nesterov's.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = fast_dtype()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step for all matrices that have a gradient."""
        for group in self.param_groups:
            momentum = group["momentum"]
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state: dict[str, Any] = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                buffer = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
                update = orthogonalized(matrix.grad.lerp(buffer, momentum), self.dtype)
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                size = 0.2 * math.sqrt(max(matrix.shape))
                matrix.add_(update, alpha=-group["lr"] * size)
