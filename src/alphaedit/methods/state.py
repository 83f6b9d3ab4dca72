"""What a sequential run has learned: contexts and past keys, as one object that saves and loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SequentialState:
    """State of a run of edits with one method on one model.

    Attributes:
        contexts: texts put before prompts, generated once and then fixed.
        past_keys: for each edited layer the keys solved with so far, [d_in, p] float32.
        edits: number of facts edited so far.
        memory: what else methods and plug-ins keep from batch to batch, on the CPU.
    """

    contexts: tuple[str, ...] | None = None
    past_keys: Mapping[int, Tensor] = field(default_factory=dict)
    edits: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    def absorb(self, keys: Mapping[int, Tensor]) -> SequentialState:
        """The state after a batch with these keys, by layer [d_in, u]."""
        past = dict(self.past_keys)
        for layer, new in keys.items():
            past[layer] = torch.cat([past[layer], new], dim=1) if layer in past else new
        added = next(iter(keys.values())).shape[1] if keys else 0
        return replace(self, past_keys=past, edits=self.edits + added)
