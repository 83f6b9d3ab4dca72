"""One solver for the whole MEMIT family, and ROME's exact rank-one update.

    Delta = R K^T Q (Q (K K^T + Kp Kp^T + w C) Q + ridge I)^-1 Q

with Q the projection on the null space of the preserved keys (or I). AlphaEdit has Q and ridge and
w = 0 (its equation 14, by the push-through identity), MEMIT has Q = I, ridge = 0 and w = lambda
(its equation 14).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.core.patch import LowRank
from alphaedit.linalg.subspace import Subspace, check_second_moment

_DTYPES = (torch.float32, torch.float64)
_BLOCK = 2048
# Past keys enter through p x p matrices up to this share of the base's size, beyond it densely.
# Per batch the former cost 2 p (c + p) u operations, the latter 2 c^2 u.
FOLD_AT = 0.5


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a^T b in float64 for a [c, m], b [c, n], without float64 copies of them."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64, device=a.device)
    for x, y in zip(a.split(_BLOCK), b.split(_BLOCK), strict=True):
        total.addmm_(x.T.double(), y.double())
    return total


def _cholesky(matrix: Tensor, what: str, precision: torch.dtype | None = None) -> Tensor:
    """The lower factor of a float64 [n, n] matrix.

    Args:
        matrix: read by its lower triangle.
        what: opens the message if it fails.
        precision: dtype that the entries were rounded to, where they might make a singular matrix.
            Rounding moves eigenvalues of the matrix scaled to unit diagonal by about eps sqrt(n):
            one smaller than that is noise, even if the factorisation happened to run to its end.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    broken = int(info) != 0 or not bool(torch.isfinite(factor.diagonal()).all())
    if precision is not None and not broken:
        noise = 8 * torch.finfo(precision).eps * math.sqrt(len(matrix))
        broken = _smallest(factor, matrix.diagonal().sqrt()) < noise
    if broken:
        raise SubspaceError(
            f"{what} is not positive definite to rounding ({len(matrix)} x {len(matrix)}"
            + (f", known to {precision})." if precision else ")."),
            remedy="Raise the ridge, use more text for the second moment, or check the keys.",
        )
    return factor


def _smallest(factor: Tensor, scale: Tensor) -> float:
    """Smallest eigenvalue of D^-1 L L^T D^-1 from above, D = diag(scale), by inverse iteration."""
    x = torch.arange(1, len(scale) + 1, dtype=factor.dtype, device=factor.device).cos()
    value = math.inf
    for _ in range(5):
        x = x / x.norm()
        x = scale * torch.cholesky_solve((scale * x)[:, None], factor)[:, 0]
        value = 1 / float(x.norm())
    return value


class System:
    """The linear system of one layer: factor what stays once, solve for each batch of facts.

    Keys are kept in coordinates x [c] in which the base is a number times the identity: x = N^T k
    (x = P k if the subspace is kept by its complement, x = k without one) as long as the base is
    ridge I, x = L^-1 N^T k and the number 1 once it is dense, ridge I + w N^T C N = L L^T. Past
    keys X [c, p] and a batch x [c, u] then enter by the block Cholesky factorisation of
    number I + [X x]^T [X x], which is Woodbury's identity.

    Without a second moment nothing of size d x d is formed, and a batch costs O(d (m + p) u), m the
    columns of the subspace's basis. With one, L is made once in float64, O(d^3 / 3), and serves
    every batch. When the past keys outgrow `FOLD_AT` of c they are folded into L, in float64 as
    well: results stay equal to rounding, the cost of a batch stops growing.

    With a complement the second moment is handled in all d coordinates, exactly: P w C P + ridge I
    is given t (I - P) besides, which makes it definite and never meets a key, as P x = x.

    Products with keys run in their dtype; gram matrices and all factorisations in float64.

    Args:
        ridge: weight of the identity, in units of K K^T.
        subspace: Q; the whole space if not given.
        second_moment: C [d, d] float32 or float64; left untouched.
        moment_weight: w.
        past_keys: [d, p] keys of earlier batches.

    Raises:
        ConfigError: neither ridge nor moment gives a positive definite base, or shapes or dtypes
            do not fit.
        SubspaceError: the base is singular to rounding; nothing is added to it in silence.
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
        usable = all(math.isfinite(x) and x >= 0 for x in (ridge, moment_weight))
        if not usable or not (ridge > 0 or weighted):
            raise ConfigError(
                f"A ridge of {ridge} and a moment weight of {moment_weight} give no solution.",
                remedy="Give a positive ridge, or a second moment with a positive weight.",
            )
        self.ridge = ridge
        self.subspace = subspace
        self.d_in: int | None = subspace.d_in if subspace is not None else None
        self.number = ridge
        self._base: Tensor | None = None  # L, lower [c, c] float64
        if second_moment is not None and moment_weight > 0:
            self.number, self._base = 1.0, self._factor(second_moment, moment_weight)
        # X [c, p], and the lower factor of number I + X^T X, [p, p] float64.
        self._history: tuple[Tensor, Tensor] | None = None
        if past_keys is not None:
            self.absorb(past_keys)

    def _factor(self, second_moment: Tensor, weight: float) -> Tensor:
        """The dense L, [c, c] float64."""
        check_second_moment(second_moment)
        size = second_moment.shape[0]
        if self.d_in not in (None, size):
            raise ConfigError(
                f"The second moment is for keys of size {size}, the subspace for {self.d_in}.",
                remedy="Take both from the same layer.",
            )
        self.d_in = size
        base = second_moment.to(torch.float64, copy=True).mul_(weight)
        space = self.subspace
        if space is not None and not space.complement:
            basis = space.basis.to(base)
            base = basis.T @ base @ basis
        elif space is not None:
            basis = space.basis.to(base)
            free = float(base.diagonal().mean())
            base = space.project(space.project(base).T)
            base.addmm_(basis, basis.T, alpha=free)
        base.diagonal().add_(self.ridge)
        return _cholesky(base, "The preserved part of the system", second_moment.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds besides the subspace's basis."""
        matrices = [] if self._base is None else [self._base]
        return sum(tensor.nbytes for tensor in (*matrices, *(self._history or ())))

    def _check(self, keys: Tensor) -> None:
        if keys.ndim != 2 or keys.dtype not in _DTYPES or self.d_in not in (None, keys.shape[0]):
            raise ConfigError(
                f"Keys of shape {tuple(keys.shape)} and {keys.dtype} do not fit the system.",
                remedy=f"Give [{self.d_in or 'd_in'}, facts] in float32 or float64.",
            )
        self.d_in = keys.shape[0]

    def coordinates(self, keys: Tensor) -> Tensor:
        """Keys [d, n] as x [c, n]; float64 if the base is dense."""
        space = self.subspace
        if space is not None:
            complement = space.complement
            keys = space.project(keys) if complement else space.basis.to(keys).T @ keys
        if self._base is None:
            return keys
        factor = self._base.to(keys.device)
        whitened: Tensor = torch.linalg.solve_triangular(factor, keys.double(), upper=False)
        return whitened

    def back(self, rows: Tensor, keys: Tensor) -> Tensor:
        """Rows [u, c] of coefficients of x as rows [u, d], in the dtype of `keys`."""
        if self._base is not None:
            factor = self._base.to(rows.device)
            rows = torch.linalg.solve_triangular(factor, rows, upper=False, left=False)
        rows = rows.to(keys.dtype)
        if self.subspace is not None and not self.subspace.complement:
            return rows @ self.subspace.basis.to(rows).T
        return rows

    def _extend(self, x: Tensor, what: str, slack: float = 1.0) -> tuple[Tensor, Tensor]:
        """The new rows of the history's factor: T^T [u, p] and the corner [u, u].

        Returns:
            T [p, u] = H^-1 X^T x, H the factor, and the factor of
            slack number I + x^T x - T^T T.
        """
        corner = _product(x, x)
        corner.diagonal().add_(self.number * slack)
        if self._history is None:
            return corner.new_zeros(0, x.shape[1]), _cholesky(corner, what)
        past, factor = self._history
        cross = torch.linalg.solve_triangular(factor, _product(past, x), upper=False)
        return cross, _cholesky(corner - cross.T @ cross, what)

    def absorb(self, keys: Tensor) -> None:
        """Take `keys` [d, u] into the history, O(c (p + u) u + p^2 u).

        Raises:
            ConfigError: shape or dtype does not fit.
            SubspaceError: a factorisation failed (keys that are not finite).
        """
        self._check(keys)
        if keys.shape[1] == 0:
            return
        x = self.coordinates(keys)
        past_count = 0 if self._history is None else self._history[0].shape[1]
        if past_count + keys.shape[1] > FOLD_AT * len(x):
            self._fold(x)
        else:
            cross, corner = self._extend(x, "The history's part of the system")
            if self._history is None:
                self._history = x, corner
            else:
                past, factor = self._history
                upper = torch.cat([factor, torch.zeros_like(cross)], dim=1)
                lower = torch.cat([cross.T, corner], dim=1)
                self._history = torch.cat([past, x], dim=1), torch.cat([upper, lower])

    def _fold(self, x: Tensor) -> None:
        """Take X and x into a dense L; the history starts again empty."""
        dense = torch.eye(len(x), dtype=torch.float64, device=x.device).mul_(self.number)
        for part in (x,) if self._history is None else (self._history[0], x):
            for columns in part.split(_BLOCK, dim=1):
                wide = columns.double()
                dense.addmm_(wide, wide.T)
        factor = _cholesky(dense, "The history's part of the system")
        self._base = factor if self._base is None else self._base.to(factor.device) @ factor
        self.number, self._history = 1.0, None

    def solve(self, keys: Tensor, residual: Tensor, *, slack: float = 1.0) -> LowRank:
        """Delta for a batch, as factors of rank u; the history stays as it is.

        Args:
            keys: K [d, u] float32 or float64.
            residual: R [d_out, u].
            slack: 1 for least squares; towards 0 the facts become equality constraints,
                Delta K = R (EMMET, Gupta et al. 2024, eq. 6).

        Returns:
            left = R, right [u, d] = (slack I + K^T S K)^-1 K^T S, with S the inverse of base
            and history inside the subspace; both in the dtype of `keys`.

        Raises:
            ConfigError: shapes or dtypes do not fit.
            SubspaceError: a factorisation failed (keys that are not finite).
            NonFiniteError: the residual is not finite.
        """
        self._check(keys)
        check_columns(keys, residual)
        rows, corner = self._rows(self.coordinates(keys), slack)
        right = self.back(torch.cholesky_solve(rows, corner), keys)
        return LowRank(residual.to(keys).contiguous(), right.contiguous())

    def reach(self, keys: Tensor) -> Tensor:
        """k^T S k of each key, [u] float64: how far its output goes for a unit of cost.

        Args:
            keys: K [d, u] float32 or float64.

        Raises: see `solve`.
        """
        self._check(keys)
        _, corner = self._extend(self.coordinates(keys), "The batch's part of the system")
        return corner.square().sum(dim=1) / self.number - 1

    def factors(self, keys: Tensor, *, slack: float = 1.0) -> tuple[Tensor, Tensor]:
        """K^T S [u, d] in the dtype of `keys`, and the factor of slack I + K^T S K [u, u] float64.

        Args, Raises: see `solve`.
        """
        self._check(keys)
        rows, corner = self._rows(self.coordinates(keys), slack)
        return self.back(rows, keys), corner

    def _rows(self, x: Tensor, slack: float) -> tuple[Tensor, Tensor]:
        """x^T S in coordinates, [u, c] float64, and the factor of slack I + x^T S x, [u, u]."""
        cross, corner = self._extend(x, "The batch's part of the system", slack)
        rows = x.T.double()
        if self._history is not None:
            past, factor = self._history
            inner = torch.linalg.solve_triangular(factor.T, cross, upper=True)
            parts = [part.double() @ inner for part in past.split(_BLOCK)]
            rows = rows - torch.cat(parts).T
        return rows, corner


def check_columns(keys: Tensor, residual: Tensor) -> None:
    """Whether keys [d, u] and residual [d_out, u] belong together.

    Raises:
        ConfigError: they do not.
    """
    if residual.ndim != 2 or keys.shape[1] != residual.shape[1]:
        raise ConfigError(
            f"Keys {tuple(keys.shape)} and residual {tuple(residual.shape)} do not fit.",
            remedy="Give one column of each per fact.",
        )


class RomeSystem:
    """ROME's exact update: Delta k = residual at least cost in C (Meng et al. 2022, eq. 2).

    Delta = residual (C^-1 k)^T / (k^T C^-1 k), in float64. C is factored once, O(d^3 / 3); an
    update costs O(d^2).

    Args:
        second_moment: C [d, d] float32 or float64, positive definite; left untouched.
        conditioning: share of C's mean diagonal added to its diagonal before it is inverted;
            Delta k = residual holds exactly whatever it is.

    Raises:
        ConfigError: C is not square.
        SubspaceError: C is singular to rounding (too little text for its size).
    """

    def __init__(self, second_moment: Tensor, *, conditioning: float = 0.0) -> None:
        check_second_moment(second_moment)
        moment = second_moment.double()
        if conditioning > 0:
            moment = moment.clone()
            moment.diagonal().add_(conditioning * float(moment.diagonal().mean()))
        self._factor = _cholesky(moment, "The second moment", second_moment.dtype)

    def update(self, key: Tensor, residual: Tensor) -> LowRank:
        """The update for one fact.

        Args:
            key: [d].
            residual: [d_out] float32 or float64, v* - W k.

        Returns:
            Factors of rank 1 in the dtype of `residual`.

        Raises:
            ConfigError: shapes do not fit.
            SubspaceError: the key is zero.
        """
        if key.shape != self._factor.shape[:1] or residual.ndim != 1:
            raise ConfigError(
                f"Key {tuple(key.shape)}, residual {tuple(residual.shape)} and second moment "
                f"{tuple(self._factor.shape)} do not fit.",
                remedy="Give [d_in], [d_out] and [d_in, d_in].",
            )
        return shared_update([(self, key)], residual)[0]

    def direction(self, key: Tensor) -> Tensor:
        """C^-1 k of a key [d] or of several [d, n], float64."""
        factor, columns = self._factor.to(key.device), key.double().reshape(len(key), -1)
        return torch.cholesky_solve(columns, factor).view(key.shape)


def shared_update(parts: Sequence[tuple[RomeSystem, Tensor]], residual: Tensor) -> list[LowRank]:
    """ROME's update of matrices that act side by side: sum Delta_e k_e = residual at least cost.

    Args:
        parts: the system and key [d] of each matrix.
        residual: [d_out] float32 or float64.

    Returns:
        For each, factors of rank 1 in the dtype of `residual`.

    Raises:
        SubspaceError: all keys are zero.
    """
    directions = [system.direction(key) for system, key in parts]
    scale = sum(float(key.double() @ d) for (_, key), d in zip(parts, directions, strict=True))
    if not scale > 0:
        raise SubspaceError("The key is zero: there is nothing to edit at this layer.")
    rights = [(d / scale).to(residual.dtype) for d in directions]
    return [LowRank(residual[:, None].contiguous(), right[None].contiguous()) for right in rights]
