"""From keys and residuals of one layer to the changes of its matrices.

Of a mixture of experts those are the matrices of the experts that fire for the batch, in one system
of blocks (`linalg.blocks`); a plug-in sees each expert as it would see a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Expert, Site
from alphaedit.linalg.blocks import BlockSystem
from alphaedit.linalg.solve import RomeSystem, System, shared_update
from alphaedit.linalg.subspace import Subspace
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.plugin import Memory, Parts, Plugin, run_delta
from alphaedit.methods.plugins.project import preserved_null_space
from alphaedit.methods.systems import Base
from alphaedit.model.handle import ModelHandle

Changes = dict[Site, LowRank]


class Recipe(Protocol):
    """What a method's system is made of; see `LocateThenEdit`."""

    @property
    def null_space(self) -> bool:
        """Solve inside the null space."""

    @property
    def moment(self) -> bool:
        """Put the second moment in."""

    @property
    def ridge(self) -> bool:
        """Put the identity in."""


def refuse_mixtures(problem: Problem[Any], method: str) -> None:
    """Refuse layers of routed experts, for a method that cannot edit them.

    Raises:
        ConfigError: naming the method and the layer.
    """
    for layer in problem.hyperparameters.layers:
        if problem.handle.experts(layer) is not None:
            raise ConfigError(
                f"{method} changes one matrix that all tokens go through; layer {layer} is a "
                "mixture of experts.",
                remedy="Use a method with a linear system (alphaedit, memit, rome, emmet, ...), or "
                "layers without experts.",
            )


def check_layers(problem: Problem) -> None:
    """Refuse layers that the model does not have.

    Raises:
        ConfigError: naming the layer and those there are.
    """
    handle = problem.handle
    for layer in problem.hyperparameters.layers:
        if layer >= handle.n_layers:
            raise ConfigError(
                f"Layer {layer} is out of range: the model has layers 0 to {handle.n_layers - 1}.",
                remedy="Choose layers of this model, or another preset.",
            )


def named(handle: ModelHandle, changes: Changes) -> dict[str, LowRank]:
    """Changes by the name of the matrix."""
    return {handle.edited_name(site): delta for site, delta in changes.items()}


@dataclass(frozen=True)
class Solver:
    """Solves one layer after the other for a batch.

    Attributes:
        past_keys: by layer [d_in, p], those that count.
        batches: columns of them that came together.
        scale: factor on the weights of what is preserved, ridge and second moment.
    """

    recipe: Recipe
    problem: Problem
    plugins: Sequence[Plugin]
    memory: Memory
    past_keys: Mapping[int, Tensor]
    batches: Sequence[int]
    scale: float = 1.0

    def blocks(self, layer: int, keys: Tensor) -> dict[Site, slice]:
        """The sites that keys [d_in, u] of `layer` reach, and where their keys stand in them."""
        experts = self.problem.handle.experts(layer)
        if experts is None:
            return {layer: slice(None)}
        return {Expert(layer, number): experts.rows(number) for number in experts.fired(keys)}

    def solve(self, layer: int, keys: Tensor, residual: Tensor, *, slack: float) -> Changes:
        """Changes for keys [d_in, u] whose outputs are to change by `residual` [d_out, u]."""
        parts = self._all_parts(layer, keys)
        if list(parts) == [layer]:
            system = self._system(layer, parts[layer], alone=True)
            return self._after({layer: system.solve(keys, residual, slack=slack)})
        joint, sites = self._joint(parts)
        blocks = joint.solve(self._rows(layer, sites, keys), residual, slack=slack)
        return self._after({site: blocks[number] for number, site in sites.items()})

    def reach(self, layer: int, keys: Tensor) -> Tensor:
        """How far a change of `layer` moves the output for keys [d_in, u], [u] float64."""
        parts = self._all_parts(layer, keys)
        if list(parts) == [layer]:
            return self._system(layer, parts[layer], alone=True).reach(keys)
        joint, sites = self._joint(parts)
        return joint.reach(self._rows(layer, sites, keys))

    def parts_by_reach(self, keys: Mapping[int, Tensor]) -> Tensor:
        """Into how many parts each layer divides what a fact still lacks, to bring one of them.

        min sum_l tr(D_l M_l D_l^T) with sum_l D_l k_l = r gives layer l a part of r that is
        proportional to k_l^T M_l^-1 k_l. That is divided by its mean over the batch, as what a
        change costs at one layer is no measure of what it costs at another: over all facts the
        layers bring about the same.

        Args:
            keys: [d_in, u] by layer, in their order.

        Returns:
            [layers, u] float64, the last layer's 1: it brings all that is left.
        """
        reach = torch.stack([self.reach(layer, own).cpu() for layer, own in keys.items()])
        each = reach.clamp_min(torch.finfo(torch.float32).tiny)
        each = each / each.mean(dim=1, keepdim=True)
        return each.flip(0).cumsum(0).flip(0) / each

    def _rows(self, layer: int, sites: Mapping[int, Site], keys: Tensor) -> dict[int, Tensor]:
        """The part of keys [d_in, n] of a layer that is each site's, by the site's number."""
        experts = self.problem.handle.experts(layer)
        return {
            number: keys[experts.rows(site.expert)]
            if experts and isinstance(site, Expert)
            else keys
            for number, site in sites.items()
        }

    def _all_parts(self, layer: int, keys: Tensor) -> dict[Site, Parts]:
        """The parts of the systems of all sites that the keys reach."""
        blocks = self.blocks(layer, keys)
        past = self.past_keys.get(layer)
        spaces = {
            site: preserved_null_space(self.problem, site) if self.recipe.null_space else None
            for site in blocks
        }
        hp = self.problem.hyperparameters
        of_sites = [(spaces[site], keys[rows]) for site, rows in blocks.items()]
        ridge = _ridge(hp, of_sites) if self.recipe.ridge else 0.0
        return {
            site: self._parts(
                site, ridge, spaces[site], keys[rows], None if past is None else past[rows]
            )
            for site, rows in blocks.items()
        }

    def _joint(self, parts: Mapping[Site, Parts]) -> tuple[BlockSystem, dict[int, Site]]:
        """One system of all sites, and which site each of its blocks is."""
        sites = dict(enumerate(parts))
        joint = BlockSystem(
            {number: self._system(site, parts[site], alone=False) for number, site in sites.items()}
        )
        past = {n: p for n, site in sites.items() if (p := parts[site].past_keys) is not None}
        if past:
            joint.absorb(past)
        return joint, sites

    def _after(self, changes: Changes) -> Changes:
        return {
            site: run_delta(self.plugins, self.problem, site, delta, self.memory)
            for site, delta in changes.items()
        }

    def _parts(
        self,
        site: Site,
        ridge: float,
        space: Subspace | None,
        keys: Tensor,
        past: Tensor | None,
    ) -> Parts:
        hp, problem = self.problem.hyperparameters, self.problem
        weight = hp.moment_weight if self.recipe.moment else 0.0
        parts = Parts(
            ridge=ridge,
            subspace=space,
            second_moment=problem.statistics.second_moment(site) if weight else None,
            moment_weight=weight,
            past_keys=None if past is None else past.to(keys),
            keys=keys,
        )
        for plugin in self.plugins:
            parts = plugin.system(problem, site, parts, self.memory)
        return parts

    def _system(self, site: Site, parts: Parts, *, alone: bool) -> System:
        """The system of a site; with its past keys, if it stands alone."""
        ridge = parts.ridge
        if parts.second_moment is not None:
            mean = float(parts.second_moment.diagonal().mean())
            conditioning = self.problem.hyperparameters.conditioning
            ridge += parts.moment_weight * conditioning * mean
        weight = self.scale * parts.moment_weight
        base = Base(self.scale * ridge, parts.subspace, parts.second_moment, weight)
        systems = self.problem.systems
        if not alone:
            return systems.of(site, base, None)
        return systems.of(site, base, parts.past_keys, self.batches)

    def update(
        self, layer: int, key: Tensor, residual: Tensor, systems: dict[Site, RomeSystem]
    ) -> Changes:
        """ROME's exact changes for one key [d_in] and residual [d_out]; systems are kept."""
        blocks = self.blocks(layer, key[:, None])
        for site in blocks:
            if site not in systems:
                moment = self.problem.statistics.second_moment(site)
                conditioning = self.problem.hyperparameters.conditioning
                systems[site] = RomeSystem(moment, conditioning=conditioning)
        parts = [(systems[site], key[rows]) for site, rows in blocks.items()]
        return self._after(dict(zip(blocks, shared_update(parts, residual), strict=True)))


def _ridge(hp: Hyperparameters, parts: Sequence[tuple[Subspace | None, Tensor]]) -> float:
    """The ridge, one for all matrices that act side by side, by spaces and keys of each."""
    if hp.ridge_share is None:
        return hp.ridge
    energy = 0.0
    for space, keys in parts:
        free = keys if space is None else space.project(keys)
        energy += float(free.double().square().sum(dim=0).mean())
    return hp.ridge_share * energy
