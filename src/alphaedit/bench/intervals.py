"""Rates with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """A value with its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int]:
        """Plain data."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n}


def percent(hits: Sequence[bool]) -> Rate | None:
    """Share of hits in percent with Wilson's interval; None when there are no cases."""
    n = len(hits)
    if n == 0:
        return None
    p = sum(hits) / n
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    return Rate(100 * p, 100 * max(0.0, centre - half), 100 * min(1.0, centre + half), n)


def mean(values: Sequence[float], *, seed: int = 0, samples: int = 1000) -> Rate | None:
    """Mean with a bootstrap percentile interval; None when there are no cases."""
    if not values:
        return None
    data = np.asarray(values, dtype=np.float64)
    index = np.random.default_rng(seed).integers(len(data), size=(samples, len(data)))
    low, high = np.percentile(data[index].mean(1), [2.5, 97.5])
    return Rate(float(data.mean()), float(low), float(high), len(data))
