"""What may be done to a change after it is solved for: restrain, sparsify, keep directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank


def _unit(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{name} is {value}.", remedy="Give a share between 0 and 1.")


def restrained(delta: LowRank, largest: float, base: float = math.e) -> LowRank:
    """PRUNE's restraint (Ma et al. 2025): s > largest becomes log_a s - log_a largest + largest.

    Args:
        delta: accumulated change [d_out, d_in].
        largest: largest singular value of the unedited weight.
        base: a.

    Raises:
        ConfigError: a is not above 1, or `largest` not positive.
    """
    if not base > 1 or not largest > 0:
        raise ConfigError(
            f"A base of {base} and a largest singular value of {largest} restrain nothing.",
            remedy="Give a base above 1, such as e.",
        )
    q_left, r_left = torch.linalg.qr(delta.left)
    q_right, r_right = torch.linalg.qr(delta.right.T)
    u, s, vh = torch.linalg.svd(r_left.double() @ r_right.double().T, full_matrices=False)
    calm = torch.where(s > largest, (s / largest).log() / math.log(base) + largest, s)
    left = (u * calm).to(q_left)
    return LowRank(q_left @ left, vh.to(q_right) @ q_right.T)


def relative_top(delta: Tensor, weight: Tensor, keep: float) -> Tensor:
    """RECT's rule (Gu et al. 2024): the entries of the largest |delta / weight|, the others zero.

    Args:
        delta: [d_out, d_in].
        weight: same shape.
        keep: share of the entries kept, 0 to 1.

    Raises:
        ConfigError: `keep` is out of range.
    """
    _unit("The share of entries kept", keep)
    change = (delta / weight).abs().nan_to_num(0.0, posinf=torch.finfo(delta.dtype).max).flatten()
    count = max(1, round(keep * change.numel()))
    mask = torch.zeros_like(change, dtype=torch.bool)
    mask[change.topk(count).indices] = True
    return torch.where(mask.view_as(delta), delta, torch.zeros_like(delta))


def row_directions(weight: Tensor, energy: float) -> Tensor:
    """The main directions U [d_in, m] of the rows of `weight` [d_out, d_in], each of norm 1.

    U spans the top eigenvectors of W^T W / d_out of the row-normalised W that together hold
    `energy` of the trace (SPHERE, 2025). Cost O(d_out^2 d_in).

    Raises:
        ConfigError: `energy` is out of range.
    """
    _unit("The energy of the main directions", energy)
    rows = weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(rows.double() @ rows.double().T)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    cumulative = values.cumsum(0) / values.sum().clamp_min(1e-300)
    count = int((cumulative < energy).sum()) + 1
    scale = values[:count].clamp_min(1e-30).sqrt()
    basis: Tensor = rows.T @ (vectors[:, :count] / scale).to(rows)
    return basis


def active_neurons(keys: Tensor, share: float) -> Tensor:
    """Indices of the fewest neurons that hold `share` of the mean |activation| of `keys`.

    Args:
        keys: [d_in, u].
        share: 0 to 1.

    Returns:
        [m] int64, most active first.

    Raises:
        ConfigError: `share` is out of range.
    """
    _unit("The share of the activation", share)
    mean = keys.abs().double().mean(dim=1)
    values, order = mean.sort(descending=True)
    cumulative = values.cumsum(0) / values.sum().clamp_min(1e-300)
    chosen: Tensor = order[: int((cumulative < share).sum()) + 1]
    return chosen
