"""A bound on what edits may change elsewhere, in place of a weight that nobody can read.

The heavier a linear system weighs what it preserves, the less its change does to other text and the
less of a fact it delivers. Where a method's own weight does not keep the model within the bound,
the lightest one that does is found by bisection; targets are searched once, only systems are
solved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from alphaedit.core.errors import ConfigError
from alphaedit.methods.base import Method
from alphaedit.methods.config import Hyperparameters, Settings

Change = TypeVar("Change")

STRIDE = 4.0
"""Factor between weights while the bound is between none of them."""
MOST = 4.0**10
"""Largest factor: beyond it next to nothing of a fact is left."""
LEAST = 1.0
"""Smallest: a change is no better for being larger than the method makes it."""
HALVINGS = 3
"""A weight is found to the eighth root of `STRIDE`, about a fifth."""


def check_budget(method: Method, hp: Settings) -> None:
    """Refuse a budget for a method that has no system whose weights could keep to it.

    Raises:
        ConfigError: naming the method.
    """
    budget = hp.kl_budget if isinstance(hp, Hyperparameters) else None
    if budget is not None and not method.needs.linear_system:
        raise ConfigError(
            f"{method.name} solves no linear system whose weights a kl_budget could scale.",
            remedy="Use a method that does (alphaedit, memit-history, ...), or a guard: --guard "
            f"rollback:max_kl={budget:g}.",
        )


def within(
    solve: Callable[[float], tuple[Change, float]], budget: float, start: float = 1.0
) -> tuple[Change, float, float]:
    """What the lightest weight gives that stays within the budget.

    Args:
        solve: from a factor on the weight to a change and the KL it leaves the model at.
        budget: most KL, nats a token.
        start: factor that is tried first, such as that of the batch before.

    Returns:
        The change, its factor and its KL.

    Raises:
        ConfigError: no weight stays within the budget.
    """
    heavy: tuple[Change, float, float] | None = None
    light: float | None = None
    factor = min(max(start, LEAST), MOST)
    while True:
        change, spent = solve(factor)
        # Written so that NaN counts as past the budget.
        if spent <= budget:
            heavy = change, factor, spent
            if light is not None or factor <= LEAST:
                break
            factor = max(LEAST, factor / STRIDE)
        else:
            light = factor
            if heavy is not None:
                break
            if factor >= MOST:
                raise ConfigError(
                    f"No weight of the system keeps the model within {budget:g} nats of KL: the "
                    f"heaviest leaves it at {spent:.3g}.",
                    remedy="Earlier edits have spent the budget: give a larger kl_budget, or "
                    "revert some of them. Nothing was changed.",
                )
            factor = min(MOST, factor * STRIDE)
    if light is None:
        return heavy
    for _ in range(HALVINGS):
        middle = math.sqrt(light * heavy[1])
        change, spent = solve(middle)
        if spent <= budget:
            heavy = change, middle, spent
        else:
            light = middle
    return heavy
