"""How much of a change of the edited module's output reaches the residual stream.

In most families all of it does. Others put a norm, a gate or a factor between (Gemma 2 and 3,
OLMo 2, Granite, gated shared experts): to move the residual stream by r, the module's output must
move by r / gain.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_output, stoppable

SMALLEST = 1e-3
"""Gains below this share of the largest are taken as if they were as large as that."""


def gains(
    handle: ModelHandle, rows: Sequence[Sequence[int]], at: Sequence[int], layer: int
) -> Tensor:
    """d(hidden state leaving `layer`) / d(output of its edited module), entry by entry.

    The diagonal of the Jacobian, by forward differentiation along directions orthogonal to the
    output, along which a norm's Jacobian is diagonal.

    Args:
        rows: token ids.
        at: a position in each.

    Returns:
        [rows, d_out] float32; ones where the module's output is added as it is.
    """
    ids, mask = handle.tokens.pad([list(row) for row in rows], "right")
    derivatives = []
    for seed in (0, 1):
        derivatives.append(_along(handle, ids, mask, list(at), layer, seed))
    (moved, along), (other, along_other) = derivatives
    larger = along.abs() >= along_other.abs()
    gain = torch.where(larger, moved, other) / torch.where(larger, along, along_other)
    floor = SMALLEST * gain.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    sign = torch.where(gain < 0, -1.0, 1.0)
    return torch.where(gain.abs() < floor, sign * floor, gain)


def _along(
    handle: ModelHandle, ids: Tensor, mask: Tensor, at: list[int], layer: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Change of the hidden states at `at`, and the direction it was measured along."""
    generator = torch.Generator().manual_seed(seed)
    directions: list[Tensor] = []
    changes: list[Tensor] = []
    rows = torch.arange(len(at))
    width = handle.d_out(layer)
    signs = torch.randint(2, (width,), generator=generator) * 2.0 - 1.0

    def push(output: Tensor) -> Tensor:
        wide = output.float()
        along = signs.to(wide.device).expand_as(wide)
        size = wide.square().sum(-1, keepdim=True).clamp_min(1e-30)
        along = (along - (along * wide).sum(-1, keepdim=True) / size * wide).to(output.dtype)
        # Some families run their MLP on [rows * length, d].
        shaped = along.reshape(*ids.shape, width)
        directions.append(shaped[rows, at].float())
        dual: Tensor = forward_ad.make_dual(output, along.contiguous())
        return dual

    def read(hidden: Tensor) -> None:
        change = forward_ad.unpack_dual(hidden).tangent
        assert change is not None
        changes.append(change[rows, at].float())
        raise StopForward

    with (
        torch.no_grad(),
        forward_ad.dual_level(),
        on_output(handle.edited_module(layer), push),
        on_output(handle.block(layer), read),
        stoppable(),
    ):
        handle.forward(ids, mask)
    return changes[0], directions[0]


def adds_directly(handle: ModelHandle) -> bool:
    """Whether every edited module's output is added to the residual stream as it is."""
    size = handle.tokens.vocabulary or 8
    row = [token % size for token in (5, 6, 7)]
    # Families are the same all the way, but for dense layers at one end.
    ends = {0, handle.n_layers - 1}
    return all((gains(handle, [row], [2], i) - 1).abs().max() < 1e-2 for i in ends)


def pull_back(
    handle: ModelHandle,
    rows: Sequence[Sequence[int]],
    at: Sequence[int],
    layer: int,
    residual: Tensor,
) -> Tensor:
    """The change of the edited module's output that moves the residual stream by `residual`.

    Args:
        rows: token ids, and `at` a position in each, where the change is wanted.
        residual: [d_out, rows].
    """
    if handle.adds_directly:
        return residual
    return residual / gains(handle, rows, at, layer).T.to(residual)
