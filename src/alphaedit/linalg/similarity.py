"""How far two sets of vectors are apart: shift, CKA, MMD, Hausdorff, overlap of densities."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 512


def mean_shift(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Mean length of ``after - before`` of paired rows [n, d]; that over the mean length before."""
    moved = float((after - before).norm(dim=1).mean())
    return moved, moved / max(float(before.norm(dim=1).mean()), 1e-30)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of paired rows [n, d], 0 to 1 (Kornblith et al. 2019, eq. 3).

    1 for sets that are rotations and scalings of each other; NaN if either does not vary.
    """
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    cross = (x.T @ y).square().sum()
    return float(cross / ((x.T @ x).norm() * (y.T @ y).norm()))


def mmd(x: Tensor, y: Tensor) -> float:
    """Squared maximum mean discrepancy of [n, d] and [m, d], unbiased, so possibly below 0.

    With a Gaussian kernel of the median distance between all rows (Gretton et al. 2012, eq. 3).
    """
    x, y = x.double(), y.double()
    both = torch.cat([x, y])
    distance = torch.cdist(both, both).square()
    n, m = len(x), len(y)
    off = ~torch.eye(n + m, dtype=torch.bool, device=both.device)
    scale = distance[off].median().clamp_min(1e-30)
    kernel = (-distance / scale).exp()
    xx = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    yy = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(xx + yy - 2 * kernel[:n, n:].mean())


def hausdorff(x: Tensor, y: Tensor) -> float:
    """Symmetric Hausdorff distance of the rows of [n, d] and [m, d]."""
    distance = torch.cdist(x.double(), y.double())
    return float(torch.maximum(distance.amin(1).amax(), distance.amin(0).amax()))


def density(values: Tensor, at: Tensor) -> Tensor:
    """Gaussian kernel density of `values` [n] at the points `at` [g], Scott's bandwidth."""
    values, at = values.double(), at.double()
    spread = values.std() if len(values) > 1 else values.new_ones(())
    width = (spread * len(values) ** -0.2).clamp_min(1e-12)
    z = (at[:, None] - values[None]) / width
    densities: Tensor = (-0.5 * z.square()).exp().mean(1) / (width * (2 * torch.pi) ** 0.5)
    return densities


def overlap(x: Tensor, y: Tensor) -> float:
    """Overlap of the densities of [n] and [m], the integral of the smaller: 1 equal, 0 apart."""
    both = torch.cat([x, y]).double()
    margin = 4 * both.std().clamp_min(1e-9)
    at = torch.linspace(float(both.min() - margin), float(both.max() + margin), GRID)
    lower = torch.minimum(density(x, at), density(y, at))
    return min(1.0, float(torch.trapezoid(lower, at.double())))
