"""Memory of a device: what is free, what a pass keeps for its gradients, and running out of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

from alphaedit.model.sharded import part

SHARE = 0.6
"""Of the free memory, what a pass may keep; the rest is for what comes and goes within it."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device had too little memory for what was asked."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # PyTorch has no class of its own for this on the CPU.
    return isinstance(error, RuntimeError) and "not enough memory" in str(error)


class Kept:
    """Bytes of the tensors that a pass keeps for its gradients, each storage once."""

    def __init__(self, beside: Iterable[Tensor]) -> None:
        self._beside = {part(tensor).untyped_storage().data_ptr() for tensor in beside}
        self._seen: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """Their sum."""
        return sum(self._seen.values())

    def see(self, tensor: Tensor) -> Tensor:
        """Count `tensor`."""
        storage = part(tensor).untyped_storage()
        if storage.data_ptr() not in self._beside:
            self._seen[storage.data_ptr()] = storage.nbytes()
        return tensor


@contextmanager
def kept_for_gradients(beside: Iterable[Tensor]) -> Iterator[Kept]:
    """Count what the passes of this block keep for their gradients.

    Args:
        beside: tensors that are there anyway: the weights.
    """
    counter = Kept(beside)
    with torch.autograd.graph.saved_tensors_hooks(counter.see, lambda tensor: tensor):
        yield counter


def affordable(device: torch.device, tokens: int, pass_bytes: int) -> int:
    """Tokens of a pass that fits into what is free, by what one of `tokens` kept."""
    each = max(pass_bytes / max(tokens, 1), 1.0)
    return max(1, int(SHARE * free_bytes(device) / each))
