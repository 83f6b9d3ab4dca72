"""One weight on the spectrum of the preserved keys, of which the field's choices are cases.

A system K K^T + Kp Kp^T + M lets a change Delta act on preserved keys at the cost tr(Delta M
Delta^T). With C = sum lambda_i u_i u_i^T and x_i = lambda_i / mean(lambda),

    M = mean(lambda) sum g(x_i) u_i u_i^T,    g(x) = x^power * x / (x + soft) + floor

`power` 1 alone gives C (MEMIT), `power` 0 the identity; `soft` lets directions through that hold
less than it, as AlphaEdit's cut does all at once; `floor` is a ridge (ENCORE). As x has no unit,
one setting means the same on every layer and model.
"""

from __future__ import annotations

import math

from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.linalg.subspace import Spectrum


def spectral_weight(
    s: Spectrum, *, power: float = 1.0, soft: float = 0.0, floor: float = 0.0
) -> Tensor:
    """M [d, d] in the dtype of the spectrum, with the scale of C; O(d^3).

    Directions of massive activations (`s.exact`) keep their eigenvalue whatever is asked for.

    Args:
        power: exponent of x, 0 to 2.
        soft: from 0; the share of the mean eigenvalue at which a direction weighs half.
        floor: from 0; added to every direction, as a share of the mean eigenvalue.

    Raises:
        ConfigError: a number is out of range, or all weights are 0.
    """
    usable = all(math.isfinite(x) and x >= 0 for x in (power, soft, floor)) and power <= 2
    if not usable:
        raise ConfigError(
            f"A spectral weight of power {power}, soft {soft} and floor {floor} is none.",
            remedy="Give a power from 0 to 2, and finite numbers from 0 for soft and floor.",
        )
    rest = s.rest.double().clamp_min(0)
    mean = float(rest.mean())
    if not mean > 0:
        raise ConfigError(
            "All eigenvalues of the second moment are 0: it weighs nothing.",
            remedy="Make it from more text.",
        )
    x = rest / mean
    g = x**power
    if soft > 0:
        g = g * x / (x + soft)
    weights = s.values.double().clone()
    weights[: len(rest)] = mean * (g + floor)
    vectors = s.vectors.double()
    made = ((vectors * weights) @ vectors.T).to(s.values.dtype)
    # A product of two matrices is symmetric to rounding only.
    return (made + made.T) / 2
