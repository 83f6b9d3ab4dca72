"""What a sequential run has learned: contexts and past keys, as one object that saves and loads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.errors import EditFileError
from alphaedit.core.learned import Learned

__all__ = ["Learned", "SequentialState"]


@dataclass(frozen=True)
class SequentialState:
    """State of a run of edits with one method on one model.

    Attributes:
        contexts: texts put before prompts, generated once and then fixed.
        past_keys: for each edited layer the keys solved with so far, [d_in, p] float32.
        edits: number of facts edited so far.
        memory: what else methods and plug-ins keep from batch to batch, on the CPU.
        batches: how many of the past keys' columns came together, batch by batch.
    """

    contexts: tuple[str, ...] | None = None
    past_keys: Mapping[int, Tensor] = field(default_factory=dict)
    edits: int = 0
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    batches: tuple[int, ...] = ()

    def absorb(self, keys: Mapping[int, Tensor]) -> SequentialState:
        """The state after a batch with these keys, by layer [d_in, u]."""
        past = dict(self.past_keys)
        for layer, new in keys.items():
            # A state that was loaded lies on the CPU, wherever the model is.
            earlier = past.get(layer)
            past[layer] = new if earlier is None else torch.cat([earlier.to(new), new], dim=1)
        added = next(iter(keys.values())).shape[1] if keys else 0
        batches = (*self.batches, added) if added else self.batches
        return replace(self, past_keys=past, edits=self.edits + added, batches=batches)

    def told(self, losses: Sequence[float]) -> dict[str, Any]:
        """What is kept with a patch: final losses, and how much history there is after it."""
        columns = {str(layer): keys.shape[1] for layer, keys in self.past_keys.items()}
        return {"losses": list(losses), "past_columns": columns}

    def learned(self, before: SequentialState) -> Learned:
        """What a batch added to the state `before` to make this one of it."""
        keys = {}
        for layer, past in self.past_keys.items():
            old = before.past_keys[layer].shape[1] if layer in before.past_keys else 0
            if past.shape[1] > old:
                keys[layer] = past[:, old:].cpu().clone(memory_format=torch.contiguous_format)
        own = {
            name: tensor.cpu().contiguous()
            for name, tensor in self.memory.items()
            if name not in before.memory or not torch.equal(before.memory[name], tensor)
        }
        return Learned(self.contexts, keys, self.edits - before.edits, own, tuple(self.memory))

    @classmethod
    def of(
        cls, steps: Iterable[Learned], gone: Mapping[int, Collection[int]] | None = None
    ) -> SequentialState:
        """The state after batches that learned these things, one after the other.

        What a batch keeps from one that is no longer among them is left out of `memory`. Of
        contexts the longest list counts, the first of equals.

        Args:
            gone: columns of past keys to leave out, by number of the step; of steps with a column
                for each fact.

        Raises:
            EditFileError: they are of different models.
        """
        contexts: tuple[str, ...] | None = None
        keys: dict[int, list[Tensor]] = {}
        edits = 0
        memory: dict[str, Tensor] = {}
        batches: list[int] = []
        for number, step in enumerate(steps):
            if len(step.contexts or ()) > len(contexts or ()):
                contexts = step.contexts
            edits += step.edits
            left = {k: _without(v, (gone or {}).get(number, ())) for k, v in step.keys.items()}
            for layer, new in left.items():
                keys.setdefault(layer, []).append(new)
            if left:
                batches.append(next(iter(left.values())).shape[1])
            merged = {**memory, **step.memory}
            memory = {name: merged[name] for name in step.kept if name in merged}
        past = {layer: _joined(layer, parts) for layer, parts in keys.items()}
        return cls(contexts, past, edits, memory, tuple(batches))


def _joined(layer: int, parts: list[Tensor]) -> Tensor:
    sizes = sorted({keys.shape[0] for keys in parts})
    if len(sizes) > 1:
        raise EditFileError(
            f"Keys of layer {layer} have {' and '.join(map(str, sizes))} entries: they are of "
            "different models.",
            remedy="Do not trust that ledger, or take it from a backup.",
        )
    return torch.cat(parts, dim=1)


def _without(keys: Tensor, gone: Collection[int]) -> Tensor:
    """Keys [d_in, u] without some of their columns."""
    if not gone:
        return keys
    return keys[:, [i for i in range(keys.shape[1]) if i not in gone]].contiguous()
