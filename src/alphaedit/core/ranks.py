"""Processes that share the work: one, unless torchrun has started more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from alphaedit.core.errors import ConfigError, ResourceError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)


class Ranks:
    """Equal processes, each with the whole model, that split facts and text among them.

    What they compute together is the same on every one, bit for bit: it is gathered or summed, and
    what each could compute by itself but might round otherwise comes from the first.

    Attributes:
        rank: which of them this is, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` things this rank works on: neighbours, as many as for the others."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def map(self, items: Sequence[T], work: Callable[[Sequence[T]], Sequence[Any]]) -> list[Any]:
        """`work` on all items, each rank on its share; the results of all, in order."""
        if self.size == 1:
            return list(work(items))
        own = [items[i] for i in self.share(len(items))]
        return [result for part in self.objects(list(work(own)) if own else []) for result in part]

    def objects(self, value: T) -> list[T]:
        """`value` of each rank, in order; JSON-like values and CPU tensors."""
        if self.size == 1:
            return [value]
        gathered: list[Any] = [None] * self.size
        with _told():
            dist.all_gather_object(gathered, value)
        return gathered

    def columns(self, own: Tensor | None, rows: int, count: int, like: Tensor) -> Tensor:
        """Columns [rows, count] put together from each rank's share of them, on `like`'s device.

        Args:
            own: [rows, this rank's share]; None where that is empty.
            rows: size of a column.
            count: columns of all ranks together.
            like: gives device; dtype is float32, or float64 if `like` is.
        """
        if self.size == 1 and own is not None:
            return own
        dtype = torch.promote_types(like.dtype, torch.float32)
        whole = torch.zeros(rows, count, dtype=dtype, device=like.device)
        if own is not None:
            mine = self.share(count)
            whole[:, mine.start : mine.stop] = own.to(whole)
        return self.sum(whole)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place where it can be; the same bits on each.

        Adding zeros changes no bits: shares that do not overlap come out as they went in.
        """
        if self.size > 1:
            with _told():
                dist.all_reduce(tensor)
        return tensor

    def from_first(self, value: T) -> T:
        """The first rank's `value`."""
        if self.size == 1:
            return value
        box = [value]
        with _told():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def tensor_from_first(self, tensor: Tensor) -> Tensor:
        """The first rank's tensor, in place of one of the same shape."""
        if self.size > 1:
            tensor = tensor.contiguous()
            with _told():
                dist.broadcast(tensor, src=0)
        return tensor

    def agree(self, what: Mapping[str, Any]) -> None:
        """Refuse ranks that were given different things.

        Raises:
            ConfigError: naming what differs.
        """
        given = self.objects(dict(what))
        different = [
            name for name in what if any(of_rank[name] != given[0][name] for of_rank in given)
        ]
        if different:
            raise ConfigError(
                f"Ranks were given different {' and '.join(different)}.",
                remedy="Start all of them with the same command and the same files.",
            )


ALONE = Ranks()


def from_environment(device: str | None = None) -> Ranks:
    """The ranks that torchrun started, joined; one where it did not.

    Raises:
        ConfigError: each rank would spread its model over all devices.
        ResourceError: the others cannot be reached.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if device == "auto":
        raise ConfigError(
            "Several ranks cannot each spread a model over all devices.",
            remedy="Name one device, or start one process without torchrun.",
        )
    if not dist.is_initialized():
        backend = "gloo" if device is None or torch.device(device).type == "cpu" else "nccl"
        with _told():
            dist.init_process_group(backend, timeout=TIMEOUT)
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End what `from_environment` began."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _told() -> Iterator[None]:
    """An error that says what it means when another rank is gone."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ResourceError(
            f"Another rank has ended or cannot be reached: {first[:200]}",
            remedy="See the first error above, of the rank that failed. Batches that were complete "
            "are kept.",
        ) from error
