"""The layers' linear systems, kept from batch to batch: what stays is factored once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.site import Site
from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import Subspace
from alphaedit.model.memory import free_bytes

SHARE = 0.1
"""A system that takes more of the free memory than this is not kept."""
PROBES = 64


@dataclass(frozen=True, eq=False)
class Base:
    """What a layer's system is made of besides past keys; see `System`."""

    ridge: float
    subspace: Subspace | None = None
    second_moment: Tensor | None = None
    moment_weight: float = 0.0

    def same(self, other: Base) -> bool:
        """Whether the systems of both are equal."""
        return (
            (self.ridge, self.moment_weight) == (other.ridge, other.moment_weight)
            and _same(self.second_moment, other.second_moment)
            and _same_space(self.subspace, other.subspace)
        )


@dataclass(frozen=True, eq=False)
class _Cached:
    system: System
    base: Base
    probe: Tensor
    """Some entries of the past keys that the system holds, [probes, p]."""

    def begins(self, past: Tensor | None) -> bool:
        """Whether these past keys are the first of `past`."""
        known = self.probe.shape[1]
        if not known:
            return True
        enough = past is not None and past.shape[1] >= known
        return enough and torch.equal(_probe(past[:, :known]), self.probe)  # type: ignore[index]


class Systems:
    """One system a layer, used again where the next batch only adds past keys.

    Past keys enter batch by batch whether or not a system was kept, so that the bits of a result do
    not depend on it.
    """

    def __init__(self) -> None:
        self._cached: dict[Site, _Cached] = {}

    def of(
        self, layer: Site, base: Base, past: Tensor | None, batches: Sequence[int] = ()
    ) -> System:
        """The system of a layer or expert with the past keys [d, p].

        Args:
            batches: columns of `past` that came together, in their order; all at once where these
                are not all of them.

        Raises:
            ConfigError, SubspaceError: see `System`.
        """
        columns = 0 if past is None else past.shape[1]
        cached, known = self._cached.pop(layer, None), 0
        if cached is not None and cached.base.same(base) and cached.begins(past):
            system, known = cached.system, cached.probe.shape[1]
        else:
            system = System(
                ridge=base.ridge,
                subspace=base.subspace,
                second_moment=base.second_moment,
                moment_weight=base.moment_weight,
            )
        ends = list(itertools.accumulate(batches)) if sum(batches) == columns else [columns]
        for end in ends if known in (0, *ends) else [columns]:
            if past is not None and end > known:
                # Bits depend on how a matrix lies in memory.
                system.absorb(past[:, known:end].contiguous())
                known = end
        device = torch.device("cpu") if past is None else past.device
        if system.nbytes <= SHARE * free_bytes(device):
            probe = torch.empty(PROBES, 0) if past is None else _probe(past)
            self._cached[layer] = _Cached(system, base, probe)
        return system


def _probe(keys: Tensor) -> Tensor:
    rows = torch.linspace(0, len(keys) - 1, PROBES, device=keys.device).long()
    return keys[rows]


def _same_space(first: Subspace | None, second: Subspace | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.complement == second.complement and _same(first.basis, second.basis)


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first is second or (first.shape == second.shape and torch.equal(first, second))
