"""Models whose weights are split over processes: FSDP2 and tensor parallelism (DTensor).

A split matrix is put together where it is read, and what is written goes to each process's part.
Every process must ask for the same things in the same order.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether some weight of `model` lies on several processes."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def settle(model: nn.Module) -> None:
    """Let FSDP put the blocks' weights back into parts, and leave the others whole.

    The head is called outside of the model's own pass, and must find its weights.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            if module is model:
                module.set_reshard_after_forward(False, recurse=False)
                module.set_reshard_after_backward(False, recurse=False)
            else:
                module.set_reshard_after_forward(True, recurse=False)
                module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The tensor with all its parts."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """What this process has of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def put(stored: Tensor, value: Tensor) -> None:
    """Write `value`, whole, into `stored`, rounded to its dtype."""
    if isinstance(stored, DTensor):
        value = value.to(stored.dtype)
        value = distribute_tensor(value, stored.device_mesh, stored.placements).to_local()
        stored = stored.to_local()
    stored.copy_(value)
