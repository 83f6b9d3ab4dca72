"""The low-curvature projection, in float64 against a plain computation of A ⊗ G."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alphaedit.core.errors import SubspaceError
from alphaedit.linalg.curvature import Curvature
from alphaedit.linalg.subspace import Spectrum, spectrum

ENERGIES = st.floats(0.05, 0.98)


def drawn(seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3 * size, size, generator=generator, dtype=torch.float64)
    return (x * torch.logspace(0, -2, size, dtype=torch.float64)).T @ x / len(x) / 2 + (
        (x * torch.logspace(0, -2, size, dtype=torch.float64)).T @ x / len(x) / 2
    ).T


def pair(seed: int) -> tuple[Tensor, Tensor, Curvature]:
    a, g = drawn(seed, 7), drawn(seed + 1, 5)
    a, g = a @ a, g @ g
    return a, g, Curvature(spectrum(a), spectrum(g))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), ENERGIES)
def test_it_is_the_projection_of_the_kronecker_product(seed: int, energy: float) -> None:
    a, g, known = pair(seed)
    delta = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    whole = torch.kron(g, a)  # of the rows of delta, one after the other
    values, vectors = torch.linalg.eigh(whole)
    above = values > known.threshold(energy)
    high = vectors[:, above]
    wanted = delta.flatten() - high @ (high.T @ delta.flatten())
    got = known.projection(energy)(delta)
    assert torch.allclose(got.flatten(), wanted, atol=1e-6)
    held = values[above].sum() / values.sum()
    assert held >= energy - 1e-6
    # One direction less would hold too little.
    least = values[above].min()
    assert (values[above].sum() - least) / values.sum() < energy + 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), ENERGIES)
def test_it_is_a_projection_that_bends_the_loss_less(seed: int, energy: float) -> None:
    a, g, known = pair(seed)
    delta = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    once = known.projection(energy)(delta)
    assert torch.allclose(known.projection(energy)(once), once, atol=1e-9)

    def bend(x: Tensor) -> float:
        return float(torch.trace(g @ x @ a @ x.T))

    most = known.threshold(energy) * float(once.square().sum())
    assert bend(once) <= min(bend(delta), most * (1 + 1e-6)) + 1e-12
    less = known.projection(energy / 2)(delta)
    assert bend(once) <= bend(less) + 1e-12


def test_massive_directions_are_never_free() -> None:
    *_, known = pair(3)
    massive = Curvature(Spectrum(known.inputs.values, known.inputs.vectors, exact=2), known.outputs)
    moved = massive.projection(0.01)(torch.randn(5, 7, dtype=torch.float64))
    assert torch.allclose(moved @ known.inputs.vectors[:, -2:], torch.zeros(5, 2).double())
    rest = known.inputs.values[:-2].sum() * known.outputs.values.sum()
    assert massive.held_above(0.0) == pytest.approx(1.0)
    assert float(rest) < float(known.inputs.values.sum() * known.outputs.values.sum())


def test_a_loss_that_does_not_bend() -> None:
    flat = Curvature(Spectrum(torch.zeros(3), torch.eye(3)), Spectrum(torch.zeros(2), torch.eye(2)))
    with pytest.raises(SubspaceError, match="does not bend"):
        flat.projection(0.5)
