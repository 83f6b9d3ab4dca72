"""A bound on what edits change elsewhere, or on what they must reach, in place of a weight.

The heavier a linear system weighs what it preserves, the less its change does to other text and the
less of a fact it delivers. Where a method's own weight does not keep the model within the bound,
the lightest one that does is found by bisection; or the heaviest one with which the facts are
still said. Targets are searched once, only systems are solved again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.methods.base import Method, Problem
from alphaedit.methods.config import Hyperparameters, Settings
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score_directly

Change = TypeVar("Change")

STRIDE = 4.0
"""Factor between weights while the bound is between none of them."""
MOST = 4.0**10
"""Largest factor: beyond it next to nothing of a fact is left."""
LEAST = 1.0
"""Smallest: a change is no better for being larger than the method makes it."""
HALVINGS = 3
"""A weight is found to the eighth root of `STRIDE`, about a fifth."""
COARSE_HALVINGS = 2
"""The heaviest weight: to the fourth root, as each try asks for all facts of the batch."""
ASKED = 2
"""Contexts in which facts are asked for, besides their bare prompts."""


def check_budget(method: Method, hp: Settings) -> None:
    """Refuse a budget for a method that has no system whose weights could keep to it.

    Raises:
        ConfigError: naming the method.
    """
    if not isinstance(hp, Hyperparameters) or method.needs.linear_system:
        return
    if hp.kl_budget is not None:
        raise ConfigError(
            f"{method.name} solves no linear system whose weights a kl_budget could scale.",
            remedy="Use a method that does (alphaedit, memit-history, ...), or a guard: --guard "
            f"rollback:max_kl={hp.kl_budget:g}.",
        )
    if hp.least_change is not None:
        raise ConfigError(
            f"{method.name} solves no linear system whose weights least_change could scale.",
            remedy="Use a method that does (alphaedit, memit-history, ...), or leave it out.",
        )


def certainty(handle: ModelHandle, facts: Sequence[Fact], contexts: Sequence[str]) -> float:
    """Mean probability of the facts' targets after their prompts, bare and in some contexts."""
    texts = ("", *contexts[:ASKED])
    pairs = [(text + fact.text, fact.target) for text in texts for fact in facts]
    answers = score_directly(handle, pairs)
    return sum(answer.p for answer in answers) / len(answers)


def spent_by(problem: Problem[Any], facts: Sequence[Fact], contexts: Sequence[str]) -> float:
    """What weights are scaled by, of the model as it is now: of facts, or of other text, or 0."""
    hp = problem.hyperparameters
    if hp.least_change is not None:
        return certainty(problem.handle, facts, contexts)
    return problem.kl() if hp.kl_budget is not None and problem.kl is not None else 0.0


def heaviest(
    solve: Callable[[float], tuple[Change, float]], share: float, start: float = STRIDE
) -> tuple[Change, float]:
    """What the heaviest weight gives that leaves enough of what the method's own weight reaches.

    Args:
        solve: from a factor on the weight to a change and how much it reaches.
        share: of what the factor 1 reaches, between 0 and 1.
        start: factor that is tried first, such as that of the batch before.

    Returns:
        The change, and its factor.
    """
    change, reached = solve(LEAST)
    light, needed = (change, LEAST), share * reached
    if not reached:
        return light
    heavy: float | None = None
    factor = min(max(start, STRIDE), MOST)
    while factor > light[1]:
        change, reached = solve(factor)
        if reached < needed:
            heavy = factor
            factor /= STRIDE
            continue
        light = change, factor
        if heavy is not None or factor >= MOST:
            break
        factor = min(MOST, factor * STRIDE)
    if heavy is None:
        return light
    for _ in range(COARSE_HALVINGS):
        middle = math.sqrt(light[1] * heavy)
        change, reached = solve(middle)
        if reached >= needed:
            light = change, middle
        else:
            heavy = middle
    return light


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
