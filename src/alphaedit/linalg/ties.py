"""TIES: several changes of one matrix as one (Yadav et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ties(deltas: Sequence[Tensor], density: float) -> Tensor:
    """Trim each change, elect a sign for each entry, and take the mean of those that agree.

    Args:
        deltas: changes [d_out, d_in].
        density: share of all entries of each that is kept, those of the largest size.

    Returns:
        [d_out, d_in]; with one change and density 1 that change.
    """
    trimmed = torch.stack([largest(delta, density) for delta in deltas])
    positive = trimmed.sum(0) >= 0
    agree = torch.where(positive, trimmed > 0, trimmed < 0)
    return (trimmed * agree).sum(0) / agree.sum(0).clamp_min(1)


def largest(delta: Tensor, density: float) -> Tensor:
    """`delta` with its largest entries, a share `density` of all, and zeros."""
    count = int(density * delta.numel())
    if count >= delta.numel():
        return delta
    top = delta.abs().flatten().topk(count).indices
    sparse = torch.zeros_like(delta).flatten()
    sparse[top] = delta.flatten()[top]
    return sparse.view_as(delta)
