"""Sums of changes that plug-ins keep from batch to batch, as factors."""

from __future__ import annotations

from alphaedit.core.patch import LowRank
from alphaedit.linalg.lowrank import concatenate, truncate
from alphaedit.methods.plugin import Memory


def past_sum(memory: Memory, key: str, like: LowRank) -> LowRank | None:
    """The sum kept under `key`, with the device and dtype of `like`; None before the first."""
    if f"{key}/left" not in memory:
        return None
    past = LowRank(memory[f"{key}/left"], memory[f"{key}/right"])
    return past.to(like.left.device, like.left.dtype)


def added(memory: Memory, key: str, delta: LowRank) -> LowRank:
    """The sum with `delta`, kept in place of the old one, at its least rank."""
    past = past_sum(memory, key, delta)
    total, _ = truncate(delta if past is None else concatenate([past, delta]), 0.0)
    memory[f"{key}/left"], memory[f"{key}/right"] = total.left.cpu(), total.right.cpu()
    return total
