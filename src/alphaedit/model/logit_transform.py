"""What a model does to its logits after the head: nothing, soft capping, or scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

LogitTransform = Callable[[Tensor], Tensor]
LOOKED_FOR = "soft capping (final_logit_softcapping) and scaling (logit_scale, logits_scaling)"


def find_logit_transform(config: Any, head: Tensor, logits: Tensor) -> LogitTransform | None:
    """The function that turns the head's output into the logits that the model returned.

    Candidates come from the config; one is taken only if it gives the logits of this pass.
    """
    for candidate in _candidates(config):
        made = candidate(head)
        bound = 1e-5 if made.dtype in (torch.float32, torch.float64) else 2e-2
        if (made.float() - logits.float()).norm() <= bound * logits.float().norm():
            return candidate
    return None


def _candidates(config: Any) -> Iterator[LogitTransform]:
    yield _scaled(1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    if cap:
        yield _capped(cap)
    for name in ("logit_scale", "logits_scaling", "lm_head_multiplier"):
        scale = getattr(config, name, None)
        if scale:
            yield _scaled(scale)
            yield _scaled(1 / scale)


def _scaled(by: float) -> LogitTransform:
    return lambda head: head if by == 1.0 else head * by


def _capped(cap: float) -> LogitTransform:
    return lambda head: cap * torch.tanh(head / cap)
