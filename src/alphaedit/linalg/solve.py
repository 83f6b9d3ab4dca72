"""One solver for the whole MEMIT family, and ROME's exact rank-one update.

    Delta = R K^T Q (Q (K K^T + Kp Kp^T + w C) Q + ridge I)^-1 Q

with Q the projection on the null space of the preserved keys (or I). AlphaEdit has Q and ridge and
w = 0 (its equation 14 in null-space coordinates), MEMIT has Q = I, ridge = 0 and w = lambda.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.core.patch import LowRank
from alphaedit.linalg.subspace import Subspace


def _cholesky(matrix: Tensor, what: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info) != 0 or not bool(torch.isfinite(factor).all()):
        raise SubspaceError(
            f"{what} is not positive definite ({tuple(matrix.shape)}, {matrix.dtype}).",
            remedy="Raise the ridge, use more text for the second moment, or check the keys.",
        )
    return factor


class System:
    """The linear system of one layer: factor what stays once, solve for each batch of facts.

    With S0 = (ridge I + w Q C Q)^-1 the past keys enter by Woodbury's identity through a p x p
    matrix, the new ones through a u x u matrix. Without a second moment S0 is a scaled identity and
    nothing of size d x d is formed: O(d (m + p) u) per batch, m the size of the subspace's basis.
    With one, a Cholesky factorisation of the base is made at the start, O(d^3 / 3).

    Args:
        ridge: weight of the identity, in units of K K^T.
        subspace: Q; the whole space if not given.
        second_moment: C [d, d].
        moment_weight: w.
        past_keys: [d, p] keys of earlier batches, kept as columns: nothing drifts.

    Raises:
        ConfigError: neither ridge nor moment gives a positive definite base, or shapes differ.
        SubspaceError: a factorisation failed.
    """

    def __init__(
        self,
        *,
        ridge: float,
        subspace: Subspace | None = None,
        second_moment: Tensor | None = None,
        moment_weight: float = 0.0,
        past_keys: Tensor | None = None,
    ) -> None:
        weighted = second_moment is not None and moment_weight > 0
        if ridge < 0 or moment_weight < 0 or not (ridge > 0 or weighted):
            raise ConfigError(
                f"A ridge of {ridge} and a moment weight of {moment_weight} give no solution.",
                remedy="Give a positive ridge, or a second moment with a positive weight.",
            )
        self.ridge = ridge
        self.subspace = subspace
        self._factor: Tensor | None = None
        self._basis: Tensor | None = None
        if weighted:
            assert second_moment is not None
            base = moment_weight * second_moment
            if subspace is not None:
                self._basis = _null_basis(subspace).to(second_moment)
                base = self._basis.T @ base @ self._basis
            base.diagonal().add_(ridge)
            self._factor = _cholesky(base, "The preserved part of the system")
        self._past: Tensor | None = None
        self._columns: Tensor | None = None
        if past_keys is not None and past_keys.shape[1]:
            self.absorb(past_keys)

    @property
    def past_keys(self) -> Tensor | None:
        """Keys absorbed so far, [d, p]."""
        return self._columns

    def _coordinates(self, keys: Tensor) -> Tensor:
        """Keys in the coordinates of the base: N^T K, or P K, or K."""
        if self._basis is not None:
            return self._basis.to(keys).T @ keys
        return keys if self.subspace is None else self.subspace.project(keys)

    def _back(self, rows: Tensor) -> Tensor:
        """Rows in coordinates of the base, [u, *] to [u, d]."""
        return rows @ self._basis.to(rows).T if self._basis is not None else rows

    def _base_inverse(self, x: Tensor) -> Tensor:
        if self._factor is None:
            return x / self.ridge
        return torch.cholesky_solve(x.to(self._factor), self._factor).to(x)

    def absorb(self, keys: Tensor) -> None:
        """Take `keys` [d, u] into the history."""
        new = self._coordinates(keys.to(torch.promote_types(keys.dtype, torch.float32)))
        self._past = new if self._past is None else torch.cat([self._past, new], dim=1)
        self._columns = keys if self._columns is None else torch.cat([self._columns, keys], dim=1)
        solved = self._base_inverse(self._past)
        capacitance = (self._past.T @ solved).double()
        capacitance.diagonal().add_(1.0)
        self._solved = solved
        self._capacitance = _cholesky(capacitance, "The history's part of the system")

    def solve(self, keys: Tensor, residual: Tensor) -> LowRank:
        """Delta for a batch, as factors of rank u.

        Args:
            keys: K [d, u] float32 or float64.
            residual: R [d_out, u].

        Returns:
            left = R, right = (I + K^T S K)^-1 K^T S Q, with S the inverse of base and history. The
            u x u and p x p systems are solved in float64.

        Raises:
            ConfigError: shapes do not fit.
            SubspaceError: a factorisation failed.
        """
        if keys.ndim != 2 or residual.ndim != 2 or keys.shape[1] != residual.shape[1]:
            raise ConfigError(
                f"Keys {tuple(keys.shape)} and residual {tuple(residual.shape)} do not fit."
            )
        k = self._coordinates(keys)
        g = self._base_inverse(k)
        if self._past is not None:
            inner = torch.cholesky_solve((self._past.to(g).T @ g).double(), self._capacitance)
            g = g - self._solved.to(g) @ inner.to(g)
        gram = (k.T @ g).double()
        gram = 0.5 * (gram + gram.T)
        gram.diagonal().add_(1.0)
        right = torch.cholesky_solve(g.T.double(), _cholesky(gram, "The batch's part")).to(keys)
        return LowRank(residual.to(keys).contiguous(), self._back(right).contiguous())


def _null_basis(subspace: Subspace) -> Tensor:
    """Orthonormal basis [d, dim] of the range of P."""
    if not subspace.complement:
        return subspace.basis
    full, _ = torch.linalg.qr(subspace.basis, mode="complete")
    return full[:, subspace.basis.shape[1] :]


def rome_update(
    key: Tensor, residual: Tensor, second_moment: Tensor, *, conditioning: float = 0.0
) -> LowRank:
    """ROME's exact update: Delta k = residual at least cost in C (Meng et al. 2022, eq. 2).

    Delta = residual (C^-1 k)^T / (k^T C^-1 k).

    Args:
        key: [d].
        residual: [d_out], v* - W k.
        second_moment: C [d, d], positive definite.
        conditioning: share of C's mean diagonal added to its diagonal before it is inverted; Delta k
            = residual holds exactly whatever it is.

    Raises:
        SubspaceError: C is singular (too little text for its size), or the key is zero.
    """
    moment = second_moment.double()
    if conditioning > 0:
        moment = moment.clone()
        moment.diagonal().add_(conditioning * float(second_moment.diagonal().mean()))
    factor = _cholesky(moment, "The second moment")
    direction = torch.cholesky_solve(key.double()[:, None], factor)[:, 0]
    scale = float(key.double() @ direction)
    if not scale > 0:
        raise SubspaceError("The key is zero: there is nothing to edit at this layer.")
    right = (direction / scale).to(residual.dtype)
    return LowRank(residual[:, None].contiguous(), right[None].contiguous())
