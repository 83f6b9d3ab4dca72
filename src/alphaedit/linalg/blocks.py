"""One linear system over matrices that act side by side: the routed experts of a layer.

The matrices' outputs are added up, sum_e W_e k_e with k_e zero where expert e does not fire. What
is preserved is each expert's own: moments, null spaces and ridges stand in blocks, one an expert.
Facts tie the blocks together,

    min |R - sum_e D_e K_e|^2 + |sum_e D_e Kp_e|^2 + sum_e tr D_e A_e D_e^T,

the objective of MoEEdit (Gu et al. 2026, arXiv 2602.10965), whose blocks are found there by
coordinate descent. In the space of the facts it is solved at once: with M the inverse of
I + sum_e K_e^T S_e K_e, D_e = R M K_e^T S_e. Without past keys S_e is the inverse of A_e; past
keys enter as they do for one matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from alphaedit.core.patch import LowRank
from alphaedit.linalg.lowrank import truncate
from alphaedit.linalg.solve import System, check_columns


class BlockSystem:
    """The system of several matrices; see the module.

    Args:
        blocks: by number, the system of each matrix without past keys.
    """

    def __init__(self, blocks: Mapping[int, System]) -> None:
        self.blocks = dict(blocks)
        # In coordinates in which the base of every block is the identity.
        self._joint = System(ridge=1.0)
        self._past = False

    def _coordinates(self, keys: Mapping[int, Tensor]) -> tuple[Tensor, list[int]]:
        """Keys of all blocks as x [c, n] float64, and the rows of each block."""
        parts = []
        for number, system in self.blocks.items():
            own = system.coordinates(keys[number]).double()
            parts.append(own / math.sqrt(system.number))
        return torch.cat(parts), [len(part) for part in parts]

    def absorb(self, keys: Mapping[int, Tensor]) -> None:
        """Take past keys [d_in, p] of each block into the history, those that reach no block not.

        Raises:
            ConfigError, SubspaceError: see `System.absorb`.
        """
        x, _ = self._coordinates(keys)
        self._past = self._past or x.shape[1] > 0
        self._joint.absorb(x[:, x.ne(0).any(dim=0)].contiguous())

    def reach(self, keys: Mapping[int, Tensor]) -> Tensor:
        """sum_e k_e^T S_e k_e of each fact, [u] float64; see `System.reach`."""
        return self._joint.reach(self._coordinates(keys)[0])

    def solve(
        self, keys: Mapping[int, Tensor], residual: Tensor, *, slack: float = 1.0
    ) -> dict[int, LowRank]:
        """The change of each block for a batch; the history stays as it is.

        Args:
            keys: K [d_in, u] of each block, float32 or float64.
            residual: R [d_out, u].
            slack: see `System.solve`.

        Returns:
            By number, left [d_out, r] and right [r, d_in] in the dtype of the keys, r at most the
            facts and past keys that reach the block.

        Raises:
            ConfigError: shapes or dtypes do not fit.
            SubspaceError: a factorisation failed (keys that are not finite).
            NonFiniteError: the residual is not finite.
        """
        for own in keys.values():
            check_columns(own, residual)
        x, sizes = self._coordinates(keys)
        rows, corner = self._joint.factors(x, slack=slack)
        left = residual.double() @ torch.cholesky_inverse(corner)
        changes = {}
        for (number, system), part in zip(self.blocks.items(), rows.split(sizes, 1), strict=True):
            reach = part.ne(0).any(dim=1)
            like = keys[number]
            right = system.back(part[reach] / math.sqrt(system.number), like)
            change = LowRank(left[:, reach].to(like).contiguous(), right.contiguous())
            if self._past:
                # Past keys tie all facts to all blocks, by a change of far lower rank.
                change, _ = truncate(change, torch.finfo(like.dtype).eps)
            changes[number] = change
        return changes
