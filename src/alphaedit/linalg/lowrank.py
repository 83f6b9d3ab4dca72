"""Operations on matrices kept as products of thin factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank


def concatenate(parts: Sequence[LowRank]) -> LowRank:
    """The sum of `parts`, as one product of rank sum of ranks.

    Raises:
        ConfigError: there are none, or their shapes differ.
    """
    if not parts or len({part.shape for part in parts}) > 1:
        raise ConfigError(
            "Low-rank matrices to be added must be of one shape, and at least one.",
            remedy="Add changes of one weight only.",
        )
    return LowRank(
        torch.cat([part.left for part in parts], dim=1),
        torch.cat([part.right for part in parts], dim=0),
    )


def frobenius(matrix: LowRank) -> float:
    """Frobenius norm, from r x r products in float64; the matrix is never formed."""
    left, right = matrix.left.double(), matrix.right.double()
    return float((left.T @ left * (right @ right.T)).sum().clamp_min(0).sqrt())


def truncate(
    matrix: LowRank, tolerance: float, max_rank: int | None = None
) -> tuple[LowRank, float]:
    """The matrix of least rank within `tolerance` of `matrix`, by SVD of the factors.

    Args:
        matrix: [d_out, d_in] of rank r; never formed.
        tolerance: bound on the relative error in Frobenius norm, 0 to 1.
        max_rank: rank at most, whatever the error.

    Returns:
        The truncated product and its relative error. Cost O((d_out + d_in) r^2). The r x r part
        runs in float64; in float32 the factors' own rounding bounds the error from below.

    Raises:
        ConfigError: the tolerance is out of range, or the rank less than 1.
    """
    if not 0 <= tolerance <= 1:
        raise ConfigError(f"A tolerance of {tolerance} is impossible.", remedy="Give 0 to 1.")
    if max_rank is not None and max_rank < 1:
        raise ConfigError(f"A rank of {max_rank} is impossible.", remedy="Give 1 or more.")
    q_left, r_left = torch.linalg.qr(matrix.left)
    q_right, r_right = torch.linalg.qr(matrix.right.T)
    u, s, vh = torch.linalg.svd(r_left.double() @ r_right.double().T, full_matrices=False)
    total = s.square().sum()
    if total == 0:
        return LowRank(matrix.left[:, :0], matrix.right[:0]), 0.0
    tail = s.square().flip(0).cumsum(0).flip(0) / total
    rank = min(int((tail > tolerance**2).sum()), max_rank or len(s))
    error = float(tail[rank].sqrt()) if rank < len(s) else 0.0
    left = (u[:, :rank] * s[:rank]).to(q_left)
    return LowRank(q_left @ left, vh[:rank].to(q_right) @ q_right.T), error
