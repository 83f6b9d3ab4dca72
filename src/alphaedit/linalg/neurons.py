"""Steps built of neurons: a value where a linear score is above a border, and nothing below it."""

from __future__ import annotations

import torch
from torch import Tensor

from alphaedit.core.neurons import Neurons

SHARP = 10.0
"""How far a neuron's argument runs from where a step begins to where it is whole: smooth
activations (SiLU, GELU) have reached their straight parts on both sides of it."""


def steps(
    rows: Tensor,
    values: Tensor,
    begins: Tensor,
    whole: Tensor,
    *,
    constant: Tensor | None,
    gated: bool,
) -> Neurons:
    """Two neurons for each score: 0 where it is below `begins`, the value where above `whole`.

    The difference of two neurons whose arguments are shifted: it rises between the borders and
    stays. Without biases, borders are in units of `constant` x, and so is, in a gated MLP, the
    value.

    Args:
        rows: [m, d]; the scores of an input x are rows @ x.
        values: [m, d_out].
        begins: [m].
        whole: [m], each above `begins`.
        constant: a row [d] whose product with inputs is about 1, for modules that have no biases;
            None for those that have.
        gated: there is a second matrix whose outputs are factors.
    """
    slope = SHARP / (whole - begins)
    borders = torch.cat([slope * begins, slope * whole])
    enter = torch.cat([slope, slope])[:, None] * torch.cat([rows, rows])
    bias, beside, beside_bias = -borders, rows[:0], rows.new_zeros(0)
    if constant is not None:
        enter, bias = enter - borders[:, None] * constant, torch.zeros_like(borders)
    if gated:
        factor = torch.zeros_like(rows[0]) if constant is None else constant
        beside = factor.expand(len(enter), -1)
        beside_bias = torch.full_like(borders, float(constant is None))
    leave = torch.cat([values, -values]).T / SHARP
    return Neurons(enter, bias, beside, beside_bias, leave)
