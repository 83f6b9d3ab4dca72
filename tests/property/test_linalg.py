"""The closed forms, in float64, over random shapes (METHODS: properties 1 to 5)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import plain
from torch import Tensor

from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.core.patch import LowRank
from alphaedit.linalg.lowrank import concatenate, truncate
from alphaedit.linalg.solve import RomeSystem, System
from alphaedit.linalg.subspace import Subspace, null_space, report, spectrum

shapes = st.tuples(
    st.integers(3, 24), st.integers(1, 6), st.integers(1, 5), st.integers(0, 7), st.integers(0, 999)
)
fast = settings(max_examples=60, deadline=None)


def close(one: Tensor, other: Tensor, tolerance: float = 1e-8) -> bool:
    return float((one - other).norm()) <= tolerance * max(1.0, float(other.norm()))


class Case:
    """Random matrices of one example."""

    def __init__(self, shape: tuple[int, int, int, int, int]) -> None:
        self.d, self.h, self.u, self.p, seed = shape
        self.g = torch.Generator().manual_seed(seed)
        self.k, self.r = self.draw(self.d, self.u), self.draw(self.h, self.u)
        self.past = self.draw(self.d, self.p)
        self.rank = max(1, self.d // 2)
        self.k0 = self.draw(self.d, self.rank)
        self.moment = self.k0 @ self.k0.T / self.rank
        full = self.draw(self.d, 3 * self.d)
        self.full_moment = full @ full.T / (3 * self.d)

    def draw(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.g, dtype=torch.float64)

    def space(self) -> Subspace:
        return null_space(spectrum(self.moment), threshold=1e-9)


@fast
@given(shapes)
def test_projection_is_one_and_kills_preserved_keys(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    space = case.space()
    p = space.matrix()
    assert close(p, p.T)
    assert close(p, p @ p)
    assert space.dim == case.d - case.rank == round(float(p.trace()))
    assert close(p @ case.k0, torch.zeros_like(case.k0))
    delta = System(ridge=0.3, subspace=space).solve(case.k, case.r).matrix()
    assert close(delta @ case.k0, torch.zeros(case.h, case.rank, dtype=torch.float64))
    # Null spaces of K0 and K0 K0^T agree (paper B.2).
    assert close(space.project(case.k), case.k - case.k0 @ torch.linalg.lstsq(case.k0, case.k)[0])


@fast
@given(shapes)
def test_alphaedit_equals_the_papers_formula(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    space = case.space()
    ours = System(ridge=0.7, subspace=space, past_keys=case.past).solve(case.k, case.r).matrix()
    assert close(ours, plain.alphaedit(case.k, case.r, space.matrix(), case.past, 0.7))


@fast
@given(shapes)
def test_alphaedit_makes_its_gradient_zero(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    space = case.space()
    found = System(ridge=0.7, subspace=space, past_keys=case.past).solve(case.k, case.r)
    p = space.matrix()
    delta = found.matrix().requires_grad_(True)
    moved = delta @ p
    loss = (
        (moved @ case.k - case.r).square().sum()
        + 0.7 * moved.square().sum()
        + (moved @ case.past).square().sum()
    )
    (gradient,) = torch.autograd.grad(loss, delta)
    assert float(gradient.norm()) < 1e-7 * max(1.0, float(case.r.norm() * case.k.norm()))


@fast
@given(shapes)
def test_memit_equals_its_formula(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    system = System(
        ridge=0.0, second_moment=case.full_moment, moment_weight=2.5, past_keys=case.past
    )
    ours = system.solve(case.k, case.r).matrix()
    assert close(ours, plain.memit(case.k, case.r, case.full_moment, 2.5, case.past), 1e-7)
    identity = torch.eye(case.d, dtype=torch.float64)
    ridge = System(ridge=0.4).solve(case.k, case.r).matrix()
    assert close(ridge, plain.memit(case.k, case.r, identity, 0.4, case.past[:, :0]))


@fast
@given(shapes)
def test_second_moment_inside_a_null_space(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    space = case.space()
    p = space.matrix()
    ours = System(
        ridge=0.2,
        subspace=space,
        second_moment=case.full_moment,
        moment_weight=1.5,
        past_keys=case.past,
    ).solve(case.k, case.r)
    kept = case.k @ case.k.T + case.past @ case.past.T + 1.5 * case.full_moment
    system = p @ kept @ p + 0.2 * torch.eye(case.d, dtype=torch.float64)
    assert close(ours.matrix(), case.r @ case.k.T @ p @ torch.linalg.inv(system) @ p, 1e-7)


@fast
@given(shapes, st.integers(2, 6))
def test_recursion_equals_direct(shape: tuple[int, int, int, int, int], batches: int) -> None:
    case = Case(shape)
    space = case.space()
    system = System(ridge=0.5, subspace=space)
    past: list[Tensor] = []
    for _ in range(batches):
        keys, residual = case.draw(case.d, case.u), case.draw(case.h, case.u)
        ours = system.solve(keys, residual).matrix()
        before = torch.cat(past, dim=1) if past else keys[:, :0]
        assert close(ours, plain.alphaedit(keys, residual, space.matrix(), before, 0.5), 1e-7)
        system.absorb(keys)
        past.append(keys)


@fast
@given(shapes)
def test_sequence_equals_all_at_once(shape: tuple[int, int, int, int, int]) -> None:
    """With fixed keys, batches one after the other end where one batch of all ends."""
    case = Case(shape)
    target = case.draw(case.h, 2 * case.u)
    keys = case.draw(case.d, 2 * case.u)
    options = {"ridge": 0.0, "second_moment": case.full_moment, "moment_weight": 2.0}
    once = System(**options).solve(keys, target).matrix()  # type: ignore[arg-type]
    first = System(**options).solve(keys[:, : case.u], target[:, : case.u])  # type: ignore[arg-type]
    system = System(**options, past_keys=keys[:, : case.u])  # type: ignore[arg-type]
    rest = target[:, case.u :] - first.matrix() @ keys[:, case.u :]
    second = system.solve(keys[:, case.u :], rest)
    assert close(concatenate([first, second]).matrix(), once, 1e-7)


@fast
@given(shapes)
def test_order_inside_a_batch_does_not_matter(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    order = torch.randperm(case.u, generator=case.g)
    system = System(ridge=0.3, subspace=case.space(), past_keys=case.past)
    one = system.solve(case.k, case.r).matrix()
    other = system.solve(case.k[:, order], case.r[:, order]).matrix()
    assert close(one, other)


@fast
@given(shapes)
def test_rome_holds_exactly(shape: tuple[int, int, int, int, int]) -> None:
    case = Case(shape)
    key, residual = case.k[:, 0], case.r[:, 0]
    delta = RomeSystem(case.full_moment).update(key, residual).matrix()
    assert close(delta @ key, residual)
    assert close(delta, plain.rome(key, residual, case.full_moment), 1e-7)
    softened = RomeSystem(case.full_moment, conditioning=0.1).update(key, residual).matrix()
    assert close(softened @ key, residual)
    # ROME is MEMIT's limit for one fact and a vanishing weight.
    limit = System(ridge=0.0, second_moment=case.full_moment, moment_weight=1e-9)
    assert close(limit.solve(case.k[:, :1], case.r[:, :1]).matrix(), delta, 1e-5)


@fast
@given(shapes, st.floats(0.0, 0.9))
def test_truncation_keeps_its_bound(
    shape: tuple[int, int, int, int, int], tolerance: float
) -> None:
    case = Case(shape)
    whole = LowRank(case.r, case.k.T.contiguous())
    cut, error = truncate(whole, tolerance)
    gap = float((cut.matrix() - whole.matrix()).norm() / whole.matrix().norm())
    assert gap <= tolerance + 1e-7
    assert gap == pytest.approx(error, abs=1e-7)
    assert cut.rank <= whole.rank


@fast
@given(shapes, st.floats(0.05, 0.95))
def test_energy_and_report(shape: tuple[int, int, int, int, int], energy: float) -> None:
    case = Case(shape)
    s = spectrum(case.full_moment)
    try:
        space = null_space(s, energy=energy)
    except SubspaceError:
        return
    found = report(s, space)
    p = space.matrix()
    assert found.energy_left <= 1 - energy + 1e-9
    assert found.leak == pytest.approx(
        float((case.full_moment @ p).norm() / case.full_moment.norm()), abs=1e-9
    )
    # One direction fewer would not hold the energy asked for.
    assert found.energy_left + float(s.values[space.dim]) / s.trace > 1 - energy - 1e-9
    assert null_space(s, threshold=found.threshold).dim == space.dim


def test_impossible_systems_say_so() -> None:
    singular = torch.zeros(4, 4, dtype=torch.float64)
    with pytest.raises(ConfigError, match="no solution"):
        System(ridge=0.0)
    with pytest.raises(SubspaceError, match="ridge"):
        System(ridge=0.0, second_moment=singular, moment_weight=1.0)
    with pytest.raises(SubspaceError, match="positive definite"):
        RomeSystem(singular)
    with pytest.raises(SubspaceError, match="NaN"):
        spectrum(torch.full((3, 3), float("nan")))
    with pytest.raises(SubspaceError, match="symmetric"):
        spectrum(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    s = spectrum(torch.eye(3, dtype=torch.float64))
    with pytest.raises(SubspaceError, match="eigenvalues run from"):
        null_space(s, threshold=1e-3)
    with pytest.raises(SubspaceError, match="nothing preserved"):
        null_space(s, threshold=10.0)
    with pytest.raises(ConfigError, match="either"):
        null_space(s)
