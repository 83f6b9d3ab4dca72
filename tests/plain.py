"""The formulas as the papers write them, dense and in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def alphaedit(k: Tensor, r: Tensor, p: Tensor, past: Tensor, ridge: float) -> Tensor:
    """Delta = R K' P (Kp Kp' P + K K' P + ridge I)^-1 (AlphaEdit, eq. 14)."""
    eye = torch.eye(len(p), dtype=p.dtype)
    system = past @ past.T @ p + k @ k.T @ p + ridge * eye
    return r @ k.T @ p @ torch.linalg.inv(system)


def memit(k: Tensor, r: Tensor, c: Tensor, weight: float, past: Tensor) -> Tensor:
    """Delta = R K' (w C + Kp Kp' + K K')^-1 (MEMIT, eq. 14, with history)."""
    return r @ k.T @ torch.linalg.inv(weight * c + past @ past.T + k @ k.T)


def rome(k: Tensor, r: Tensor, c: Tensor) -> Tensor:
    """Delta = r (C^-1 k)' / (k' C^-1 k) (ROME, eq. 2)."""
    direction = torch.linalg.inv(c) @ k
    return torch.outer(r, direction) / (k @ direction)


def family(
    k: Tensor, r: Tensor, p: Tensor, past: Tensor, c: Tensor, weight: float, ridge: float
) -> Tensor:
    """Delta = R K' P (P (K K' + Kp Kp' + w C) P + ridge I)^-1 P, the general form.

    With ridge = 0 the system is singular outside the range of P, which a pseudo-inverse leaves out.
    """
    eye = torch.eye(len(p), dtype=p.dtype)
    system = p @ (k @ k.T + past @ past.T + weight * c) @ p + ridge * eye
    inverse = torch.linalg.inv(system) if ridge > 0 else torch.linalg.pinv(system, hermitian=True)
    return r @ k.T @ p @ inverse @ p


def objective(
    delta: Tensor, k: Tensor, r: Tensor, p: Tensor, past: Tensor, c: Tensor, w: float, ridge: float
) -> Tensor:
    """|D P K - R|^2 + ridge |D P|^2 + |D P Kp|^2 + w tr(D P C P D'), least at `family`."""
    moved = delta @ p
    return (
        (moved @ k - r).square().sum()
        + ridge * moved.square().sum()
        + (moved @ past).square().sum()
        + w * (moved @ c @ moved.T).trace()
    )
