"""Networks that turn a matrix's inputs and output gradients into those of an edit; pure tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-7
"""Added to standard deviations, as published code does."""


@dataclass(frozen=True)
class NetworkShape:
    """Sizes of a network for the matrices of one shape.

    Attributes:
        d_in, d_out: of the matrices.
        rank: inner width of a block, at most d_in + d_out.
        blocks: how many follow one another.
        matrices: how many share the network.
        scaled: whether a matrix's own scale acts before the ReLU (MEND) or after it (MALMEN).
        floor: least standard deviation, as a share of the root mean square of all. Units that never
            fire have none, and would be divided by next to nothing.
    """

    d_in: int
    d_out: int
    rank: int
    blocks: int = 2
    matrices: int = 1
    scaled: Literal["before", "after"] = "before"
    floor: float = 0.05

    @property
    def width(self) -> int:
        """Of what flows through it."""
        return self.d_in + self.d_out

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        inner = min(self.rank, self.width)
        return self.blocks * self.width * (2 * inner + 1 + 2 * self.matrices)


class RunningMoments(nn.Module):
    """Mean and standard deviation of all rows seen so far, by Chan's update."""

    count: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("square", torch.zeros(width))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take rows [n, width] in."""
        if not len(x):
            return
        total = self.count + len(x)
        mean, apart = x.mean(0), x.mean(0) - self.mean
        own = (x - mean).square().sum(0)
        self.square += own + apart.square() * self.count * len(x) / total
        self.mean += apart * len(x) / total
        self.count.copy_(total)

    def deviation(self) -> Tensor:
        """Standard deviations [width]."""
        return (self.square / (self.count - 1).clamp_min(1)).sqrt()


class GradientNetwork(nn.Module):
    """x <- x + ReLU(s * (U V x + b) + t), block by block, of standardised x = [input; gradient].

    U = 0 makes a new one the identity. With `scaled="after"` a block is
    x + s * ReLU(U V x + b) + t.

    Source: MEND (Mitchell et al. 2022, section 3.2), MALMEN (Tan et al. 2024, appendix).
    """

    def __init__(self, shape: NetworkShape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.shape = shape
        width, inner = shape.width, min(shape.rank, shape.width)
        self.moments = RunningMoments(width)
        self.down = nn.Parameter(torch.randn(shape.blocks, inner, width, generator=generator))
        self.up = nn.Parameter(torch.zeros(shape.blocks, width, inner))
        self.bias = nn.Parameter(torch.zeros(shape.blocks, width))
        self.scale = nn.Parameter(torch.ones(shape.blocks, shape.matrices, width))
        self.shift = nn.Parameter(torch.zeros(shape.blocks, shape.matrices, width))

    def deviation(self) -> Tensor:
        """Standard deviations [width], none below the floor of its half."""
        halves = self.moments.deviation().split((self.shape.d_in, self.shape.d_out))
        rms = [half.square().mean().sqrt() for half in halves]
        least = self.shape.floor
        return torch.cat([h.maximum(least * r) for h, r in zip(halves, rms, strict=True)])

    def forward(self, inputs: Tensor, gradients: Tensor, matrix: int) -> tuple[Tensor, Tensor]:
        """Inputs [n, d_in] and gradients [n, d_out] of a matrix, made those of an edit.

        Returns:
            Both in standardised units, float32 or as the network is.
        """
        x = torch.cat([inputs, gradients], dim=1).to(self.down.dtype)
        x = (x - self.moments.mean) / (self.deviation() + EPSILON)
        for block in range(self.shape.blocks):
            inner = x @ self.down[block].T @ self.up[block].T + self.bias[block]
            scale, shift = self.scale[block, matrix], self.shift[block, matrix]
            # A clamp, since its gradient at 0 is 1: a ReLU's is 0, and would stay there.
            if self.shape.scaled == "before":
                x = x + (scale * inner + shift).clamp(min=0)
            else:
                x = x + scale * inner.clamp(min=0) + shift
        ours, theirs = x.split((self.shape.d_in, self.shape.d_out), dim=1)
        return ours, theirs


@dataclass(frozen=True)
class Factors:
    """Changes of a matrix, one for each edit: left [e, d_out, r] @ right [e, r, d_in]."""

    left: Tensor
    right: Tensor

    def joined(self) -> tuple[Tensor, Tensor]:
        """Their sum as one product, [d_out, r] and [r, d_in], without columns that are zero."""
        left = self.left.transpose(0, 1).flatten(1)
        right = self.right.flatten(0, 1)
        used = (left != 0).any(0) & (right != 0).any(1)
        return left[:, used].contiguous(), right[used].contiguous()


def by_edit(rows: Tensor, edit: Tensor, edits: int) -> Tensor:
    """Rows [n, c] of edits `edit` [n] as [edits, most rows of one, c], with zeros behind."""
    counts = torch.bincount(edit, minlength=edits)
    order = edit.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(edit)
    place[order] = torch.arange(len(edit), device=edit.device) - starts[edit[order]]
    longest = int(counts.max()) if edits else 0
    out = rows.new_zeros(edits, longest, rows.shape[1])
    return out.index_put((edit, place), rows)


def outer_products(
    network: GradientNetwork,
    inputs: Tensor,
    gradients: Tensor,
    edit: Tensor,
    edits: int,
    *,
    matrix: int,
    rate: Tensor,
) -> Factors:
    """MEND's change of a matrix for each edit, -rate times the sum of g~ u~^T over its tokens.

    Tokens without input or gradient count for nothing. The minus is ours: published code adds, and
    learns the sign.

    Args:
        inputs: u [n, d_in]; `gradients` g [n, d_out], `edit` [n] whose they are.
        rate: the matrix's own, a scalar.
    """
    fires = (inputs != 0).any(1) & (gradients != 0).any(1)
    inputs, gradients, edit = inputs[fires], gradients[fires], edit[fires]
    new_inputs, new_gradients = network(inputs, gradients, matrix)
    left = by_edit(-rate * new_gradients, edit, edits).transpose(1, 2)
    return Factors(left, by_edit(new_inputs, edit, edits))


def largest_rank(shapes: Sequence[NetworkShape], limit: float, each: int) -> int:
    """The largest rank at which networks of `shapes` take at most `limit` bytes; 0 if none does.

    Args:
        each: bytes for each number that is learned.
    """
    fixed = sum(s.blocks * s.width * (1 + 2 * s.matrices) for s in shapes)
    per_rank = sum(2 * s.blocks * s.width for s in shapes)
    return max(0, math.floor((limit / each - fixed) / per_rank))
