"""How far what was run in parts is from a plain pass."""

from __future__ import annotations

import torch
from torch import Tensor

from alphaedit.model.handle import ModelHandle


def gap_between(handle: ModelHandle, ours: Tensor, plain: Tensor) -> float:
    """Distance of hidden states [..., d_out] as a share of their length.

    Of a mixture of experts the median over tokens: rounding may route a token to another expert
    where two of them are nearly alike to the router, which is nobody's mistake. What is computed
    wrongly is wrong nearly everywhere.
    """
    plain = plain.float()
    difference = ours.float() - plain.to(ours.device)
    if any(handle.structure.firing):
        each = difference.norm(dim=-1) / plain.to(difference.device).norm(dim=-1).clamp_min(1e-30)
        return float(each.flatten().median())
    return float(difference.norm() / plain.norm().to(ours.device))


def allowed(dtype: torch.dtype) -> float:
    """What padding and the order of sums may do; half precision rounds coarsely."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 0.1
