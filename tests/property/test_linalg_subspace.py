"""Spectra, null spaces and thin factors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.core.patch import LowRank
from alphaedit.linalg.lowrank import concatenate, truncate
from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import Subspace, energy_leaving, null_space, spectrum

fast = settings(max_examples=40, deadline=None)


def rotated(values: list[float], seed: int) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues."""
    g = torch.Generator().manual_seed(seed)
    d = len(values)
    vectors = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64)).Q
    return vectors * torch.tensor(values, dtype=torch.float64) @ vectors.T


@fast
@given(st.lists(st.floats(0.0, 100.0), min_size=2, max_size=14), st.integers(0, 9999))
def test_spectrum_and_threshold(values: list[float], seed: int) -> None:
    c = rotated(values, seed)
    s = spectrum((c + c.T) / 2)
    assert torch.allclose(s.values, torch.tensor(sorted(values)).double(), atol=1e-10 * 100 * 14)
    assert math.isclose(s.trace, sum(values), rel_tol=1e-9, abs_tol=1e-9)
    assert torch.allclose(s.vectors * s.values @ s.vectors.T, c, atol=1e-9)
    threshold = 7.3
    below = sum(v < threshold for v in values)
    if any(abs(v - threshold) < 1e-6 for v in values) or below in (0, len(values)):
        return
    space = null_space(s, threshold=threshold)
    assert space.dim == below
    assert space.basis.shape[1] == min(below, len(values) - below)
    p, n = space.matrix(), space.null_basis()
    assert n.shape == (len(values), below)
    assert torch.allclose(n @ n.T, p, atol=1e-10)
    rows = torch.ones(2, len(values), dtype=torch.float64)
    assert torch.allclose(space.project_rows(rows), rows @ p, atol=1e-10)


@fast
@given(st.integers(3, 14), st.integers(0, 9999), st.floats(0.1, 10.0))
def test_leak_of_an_approximate_null_space_is_bounded(d: int, seed: int, threshold: float) -> None:
    """E|Delta P k|^2 <= threshold |Delta|^2 over the preserved keys (paper B.3)."""
    g = torch.Generator().manual_seed(seed)
    scale = torch.logspace(-2, 2, d, dtype=torch.float64)
    preserved = torch.randn(d, 3 * d, generator=g, dtype=torch.float64) * scale[:, None]
    c = preserved @ preserved.T / (3 * d)
    try:
        space = null_space(spectrum(c), threshold=threshold)
    except SubspaceError:
        return
    keys = torch.randn(d, 2, generator=g, dtype=torch.float64)
    delta = System(ridge=0.1, subspace=space).solve(keys, keys[:3]).matrix()
    moved = (delta @ preserved).square().sum() / (3 * d)
    assert float(moved) <= threshold * float(delta.square().sum()) * (1 + 1e-9)


@fast
@given(st.floats(0.05, 0.95), st.integers(0, 9999), st.floats(1e-6, 1e6))
def test_energy_does_not_depend_on_scale(energy: float, seed: int, scale: float) -> None:
    c = rotated([1.0, 2.3, 4.1, 8.9, 17.7, 35.2], seed)
    c = (c + c.T) / 2
    dims = []
    for matrix in (c, c * scale):
        try:
            dims.append(null_space(spectrum(matrix), energy=energy).dim)
        except SubspaceError:
            dims.append(0)
    assert dims[0] == dims[1]


@fast
@given(st.integers(4, 14), st.integers(0, 9999), st.floats(0.2, 0.9))
def test_energy_that_leaves_a_share_of_the_directions(d: int, seed: int, free: float) -> None:
    g = torch.Generator().manual_seed(seed)
    c = rotated((torch.rand(d, generator=g).double() + 0.1).cumsum(0).tolist(), seed)
    s = spectrum((c + c.T) / 2)
    energy = energy_leaving(s, free)
    assert 0 < energy <= 1
    if energy < 1 - 1e-9:
        # At the very edge rounding decides, hence the hair's breadth.
        space = null_space(s, energy=energy * (1 - 1e-9))
        assert space.dim == d - max(1, round((1 - free) * d))


@fast
@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 9999), st.integers(0, 12))
def test_sum_and_truncation_of_factors(d: int, h: int, seed: int, rank: int) -> None:
    """Rank above either side, rank zero, exact cuts."""
    g = torch.Generator().manual_seed(seed)
    left, right = torch.randn(h, rank, generator=g), torch.randn(rank, d, generator=g)
    one = LowRank(left.double(), right.double())
    whole = concatenate([one, one, one])
    assert torch.allclose(whole.matrix(), 3 * one.matrix(), atol=1e-12)
    cut, error = truncate(whole, 1e-7)
    assert cut.rank <= min(d, h, rank)
    assert error <= 1e-7
    assert torch.allclose(cut.matrix(), whole.matrix(), atol=1e-6 * (1 + float(whole.left.norm())))


def test_identity() -> None:
    whole = Subspace.identity(4)
    assert whole.dim == 4
    assert torch.equal(whole.matrix(), torch.eye(4))
    assert whole.null_basis().shape == (4, 4)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SubspaceError, match="negative eigenvalue"):
        spectrum(torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(SubspaceError, match="Half precision"):
        spectrum(torch.eye(3, dtype=torch.bfloat16))
    with pytest.raises(SubspaceError, match="square"):
        spectrum(torch.zeros(2, 3))
    s = spectrum(torch.eye(3))
    for energy in (0.0, 1.0, 2.0):
        with pytest.raises(ConfigError, match="share between 0 and 1"):
            null_space(s, energy=energy)
    with pytest.raises(ConfigError, match="span"):
        Subspace(4, torch.zeros(3, 1), complement=True)
    with pytest.raises(ConfigError, match="one shape"):
        concatenate([])
    with pytest.raises(ConfigError, match="impossible"):
        truncate(LowRank(torch.ones(2, 1), torch.ones(1, 2)), 1.5)
