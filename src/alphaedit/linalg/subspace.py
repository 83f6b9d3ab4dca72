"""The spectrum of a second moment, and the null space that edits may use."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.linalg.massive import Massive, without


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigendecomposition of a second moment C [d, d].

    Attributes:
        values: [d] ascending.
        vectors: [d, d], eigenvectors as columns.
        exact: how many of the last directions hold massive activations (see `linalg.massive`):
            they are preserved whatever is asked for, and do not count in the energy.
    """

    values: Tensor
    vectors: Tensor
    exact: int = 0

    @cached_property
    def trace(self) -> float:
        """Sum of eigenvalues, but for the exact ones: E[|k|^2] without massive activations."""
        return float(self.rest.double().sum())

    @property
    def rest(self) -> Tensor:
        """Eigenvalues but for the exact ones."""
        return self.values[: len(self.values) - self.exact]


def check_second_moment(c: Tensor) -> None:
    """Whether `c` can be E[k k^T].

    Raises:
        SubspaceError: not a symmetric finite [d, d] matrix of float32 or float64.
    """
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not len(c):
        raise SubspaceError(f"A second moment must be square, not {tuple(c.shape)}.")
    if c.dtype not in (torch.float32, torch.float64):
        raise SubspaceError(
            f"A second moment must be float32 or float64, not {c.dtype}.",
            remedy="Half precision cannot hold it: accumulate it in float32 or float64.",
        )
    if not bool(torch.isfinite(c).all()):
        raise SubspaceError(
            "The second moment holds NaN or infinity.",
            remedy="Compute it again; check the model's weights.",
        )
    # By blocks of rows: a matrix of this size may be most of what fits.
    rows = range(0, len(c), 1024)
    gap = max(float((c[i : i + 1024] - c[:, i : i + 1024].T).abs().max()) for i in rows)
    if gap > 1e-4 * float(c.diagonal().abs().max()):
        raise SubspaceError("The second moment is not symmetric.", remedy="Compute it again.")


def spectrum(second_moment: Tensor) -> Spectrum:
    """Eigendecomposition of the symmetric [d, d] `second_moment`, in its dtype.

    Cost O(d^3), less than half of a singular value decomposition (benchmarks/nullspace.py).
    Eigenvalues are right to about the dtype's precision times the largest of them.

    Raises:
        SubspaceError: not a symmetric finite matrix of float32 or float64, or indefinite.
    """
    c = second_moment
    check_second_moment(c)
    values, vectors = torch.linalg.eigh(c)
    if float(values[0]) < -1e-3 * max(float(values[-1]), 1e-30):
        raise SubspaceError(
            f"The second moment has a negative eigenvalue {float(values[0]):.3g}.",
            remedy="It is not an average of k k^T: compute it again.",
        )
    return Spectrum(values, vectors)


def spectrum_with(second_moment: Tensor, massive: Massive) -> Spectrum:
    """The spectrum of what is not massive, and behind it the massive directions.

    Raises:
        SubspaceError: as `spectrum`.
    """
    exact = massive.directions.shape[1]
    if not exact:
        return spectrum(second_moment)
    check_second_moment(second_moment)
    rest = without(second_moment, massive)
    u = massive.directions.to(rest)
    # Above all others, so that they come last; their sizes are put in afterwards.
    above = 2 * float(rest.diagonal().sum().clamp_min(1e-30))
    shifted = spectrum(rest + above * u @ u.T)
    values = shifted.values.clone()
    sizes = massive.energies.to(values).sort().values
    values[-exact:] = torch.maximum(sizes, values[-exact - 1].expand(exact))
    return Spectrum(values, shifted.vectors, exact)


@dataclass(frozen=True, eq=False)
class Subspace:
    """An orthogonal projection P on a subspace of R^d, kept as the smaller of two bases.

    Attributes:
        d_in: d.
        basis: [d, m] with orthonormal columns.
        complement: whether P = I - basis basis^T; otherwise P = basis basis^T.
    """

    d_in: int
    basis: Tensor
    complement: bool

    def __post_init__(self) -> None:
        """Check the shape."""
        if self.basis.ndim != 2 or self.basis.shape[0] != self.d_in:
            raise ConfigError(
                f"A basis of shape {tuple(self.basis.shape)} does not span keys of {self.d_in}.",
                remedy="Give [d_in, m].",
            )

    @classmethod
    def identity(cls, d_in: int, dtype: torch.dtype = torch.float32) -> Subspace:
        """P = I."""
        return cls(d_in, torch.zeros(d_in, 0, dtype=dtype), complement=True)

    @property
    def dim(self) -> int:
        """Rank of P."""
        size = self.basis.shape[1]
        return self.d_in - size if self.complement else size

    def project(self, x: Tensor) -> Tensor:
        """P x for x [d, n]."""
        basis = self.basis.to(x)
        inside = basis @ (basis.T @ x)
        return x - inside if self.complement else inside

    def project_rows(self, rows: Tensor) -> Tensor:
        """Rows P for rows [n, d]."""
        return self.project(rows.T).T

    def null_basis(self) -> Tensor:
        """Orthonormal basis N [d, dim] of the range of P; O(d^2 m) if the complement is kept."""
        if not self.complement:
            return self.basis
        full: Tensor = torch.linalg.qr(self.basis, mode="complete").Q
        return full[:, self.basis.shape[1] :]

    def matrix(self) -> Tensor:
        """P as a dense [d, d] matrix."""
        return self.project(torch.eye(self.d_in, dtype=self.basis.dtype, device=self.basis.device))


def null_space(
    s: Spectrum, *, threshold: float | None = None, energy: float | None = None
) -> Subspace:
    """The null space of the preserved keys (AlphaEdit, section 3.1).

    Args:
        s: spectrum of the second moment.
        threshold: eigenvalues below it are null (published code: 2e-2 on E[k k^T]).
        energy: the largest directions that together hold this share of the trace are preserved;
            does not depend on the scale of the keys.

    Raises:
        ConfigError: not exactly one of threshold and energy is given.
        SubspaceError: nothing is left to edit in, or nothing is preserved.
    """
    if (threshold is None) == (energy is None):
        raise ConfigError("Give either a threshold or an energy for the null space.")
    if energy is not None and not 0 < energy < 1:
        raise ConfigError(
            f"The energy kept out of the null space is {energy}.",
            remedy="Give a share between 0 and 1, such as 0.98.",
        )
    values = s.rest.clamp_min(0)
    if threshold is not None:
        null = int((s.rest < threshold).sum())
    else:
        assert energy is not None
        cumulative = values.double().flip(0).cumsum(0) / values.double().sum().clamp_min(1e-300)
        null = len(values) - min(len(values), int((cumulative < energy).sum()) + 1)
    if null in (0, len(s.values)):
        what = "leaves no null space" if null == 0 else "leaves nothing preserved"
        given = f"threshold {threshold}" if threshold is not None else f"energy {energy}"
        raise SubspaceError(
            f"A {given} {what}: the eigenvalues run from {float(s.values[0]):.3g} to "
            f"{float(s.values[-1]):.3g}.",
            remedy="Give a value inside that range, or an energy such as 0.98.",
        )
    if null <= len(s.values) // 2:
        return Subspace(len(s.values), s.vectors[:, :null], complement=False)
    return Subspace(len(s.values), s.vectors[:, null:], complement=True)


def energy_leaving(s: Spectrum, free: float) -> float:
    """The energy at which a share `free` of the directions is null; massive ones do not count."""
    values = s.rest.double().clamp_min(0)
    preserved = max(1, round((1 - free) * len(values)))
    return float(values.flip(0)[:preserved].sum() / values.sum().clamp_min(1e-300))


@dataclass(frozen=True)
class SubspaceReport:
    """What a null space leaves: see `report`.

    Attributes:
        d_in: size of the keys.
        dim: dimension of the null space.
        energy_left: share of the trace of C inside the null space.
        leak: |C P|_F / |C|_F.
        smallest: smallest eigenvalue.
        largest: largest eigenvalue.
        threshold: absolute threshold that gives this null space.
        massive: directions of massive activations, which are preserved exactly and not counted in
            energy, leak and eigenvalues.
        massive_share: share of the keys that are massive.
        massive_energy: share of all energy that they hold.
        doubt: what is odd about the null space, if anything.
    """

    d_in: int
    dim: int
    energy_left: float
    leak: float
    smallest: float
    largest: float
    threshold: float
    massive: int = 0
    massive_share: float = 0.0
    massive_energy: float = 0.0
    doubt: str | None = None


NEARLY = 0.99
"""A null space of a larger share of the dimensions protects nearly nothing."""


def report(s: Spectrum, subspace: Subspace, massive: Massive | None = None) -> SubspaceReport:
    """How large a null space made by `null_space` is, and how much of C is left in it."""
    values = s.rest.double().clamp_min(0)
    null = values[: subspace.dim]
    told = massive or Massive.none(len(s.values))
    doubt = None
    if subspace.dim > NEARLY * subspace.d_in:
        doubt = f"protects nearly nothing: {subspace.dim} of {subspace.d_in} dimensions are free"
    elif subspace.dim < (1 - NEARLY) * subspace.d_in:
        doubt = f"leaves hardly anything to edit in: {subspace.dim} of {subspace.d_in} dimensions"
    return SubspaceReport(
        d_in=len(s.values),
        dim=subspace.dim,
        energy_left=float(null.sum() / values.sum().clamp_min(1e-300)),
        leak=float(null.norm() / values.norm().clamp_min(1e-300)),
        smallest=float(values[0]),
        largest=float(values[-1]),
        massive=s.exact,
        massive_share=told.share,
        massive_energy=told.energy,
        doubt=doubt,
        threshold=float(s.values[subspace.dim]) if subspace.dim < len(values) else float("inf"),
    )
