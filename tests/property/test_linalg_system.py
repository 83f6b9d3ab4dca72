"""The solver over many rounds, all its parts together, in float32, and at its limits."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import plain
from torch import Tensor

from alphaedit.core.errors import ConfigError, SubspaceError
from alphaedit.linalg.solve import FOLD_AT, RomeSystem, System
from alphaedit.linalg.subspace import Subspace

fast = settings(max_examples=40, deadline=None)
RIDGE, WEIGHT = 0.5, 1.7


def draw(g: torch.Generator, *size: int) -> Tensor:
    return torch.randn(*size, generator=g, dtype=torch.float64)


def space(g: torch.Generator, d: int, kept: int, complement: bool) -> Subspace:
    """A random null space of dimension d - kept."""
    full = torch.linalg.qr(draw(g, d, d)).Q
    return Subspace(d, full[:, :kept] if complement else full[:, kept:], complement)


def moment_of(g: torch.Generator, d: int, samples: int) -> Tensor:
    keys = draw(g, d, samples)
    return keys @ keys.T / samples


@dataclass
class Case:
    """One system: with or without subspace and second moment."""

    d: int
    subspace: Subspace | None
    moment: Tensor | None
    ridge: float
    g: torch.Generator

    def system(self, past: Tensor | None = None) -> System:
        return System(
            ridge=self.ridge,
            subspace=self.subspace,
            second_moment=self.moment,
            moment_weight=0.0 if self.moment is None else WEIGHT,
            past_keys=past,
        )

    def terms(self, past: Tensor) -> tuple[Tensor, Tensor, Tensor, float, float]:
        eye = torch.eye(self.d, dtype=torch.float64)
        p = eye if self.subspace is None else self.subspace.matrix()
        if self.moment is None:
            return p, past, torch.zeros_like(eye), 0.0, self.ridge
        return p, past, self.moment, WEIGHT, self.ridge


@st.composite
def cases(draw_: st.DrawFn) -> Case:
    d = draw_(st.integers(2, 16))
    g = torch.Generator().manual_seed(draw_(st.integers(0, 9999)))
    kind = draw_(st.sampled_from(["none", "null", "complement"]))
    kept = draw_(st.integers(1, d - 1))
    subspace = None if kind == "none" else space(g, d, kept, kind == "complement")
    moment = moment_of(g, d, 3 * d) if draw_(st.booleans()) else None
    ridge = 0.0 if moment is not None and draw_(st.booleans()) else RIDGE
    return Case(d, subspace, moment, ridge, g)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm()) / max(1.0, float(other.norm()))


@fast
@given(cases(), st.lists(st.integers(0, 6), min_size=1, max_size=12))
def test_many_rounds_equal_the_direct_solve(case: Case, batches: list[int]) -> None:
    """Across any number of folds, grown or given at once, the history stays exact."""
    system = case.system()
    past = torch.zeros(case.d, 0, dtype=torch.float64)
    for u in [*batches, 2]:
        keys, residual = draw(case.g, case.d, u), draw(case.g, 3, u)
        ours = system.solve(keys, residual)
        assert ours.rank == u
        direct = plain.family(keys, residual, *case.terms(past))
        assert distance(ours.matrix(), direct) < 1e-8
        again = case.system(past).solve(keys, residual)
        assert distance(again.matrix(), direct) < 1e-8
        system.absorb(keys)
        past = torch.cat([past, keys], dim=1)


@fast
@given(cases(), st.integers(1, 5), st.integers(0, 20))
def test_gradient_is_zero(case: Case, u: int, p: int) -> None:
    keys, residual, past = (draw(case.g, *size) for size in ((case.d, u), (3, u), (case.d, p)))
    found = case.system(past).solve(keys, residual)
    delta = found.matrix().requires_grad_(True)
    loss = plain.objective(delta, keys, residual, *case.terms(past))
    (gradient,) = torch.autograd.grad(loss, delta)
    assert float(gradient.norm()) < 1e-8 * (1 + float(residual.norm() * keys.norm()))


@fast
@given(cases(), st.integers(1, 5), st.integers(0, 20))
def test_reach_is_what_a_unit_of_cost_moves(case: Case, u: int, p: int) -> None:
    """k^T S k: one fact alone is met up to reach / (1 + reach)."""
    keys, past = draw(case.g, case.d, u), draw(case.g, case.d, p)
    reach = case.system(past).reach(keys)
    assert reach.shape == (u,)
    one = torch.ones(1, 1, dtype=torch.float64)
    for i in range(u):
        key = keys[:, i : i + 1]
        met = float(plain.family(key, one, *case.terms(past)) @ key)
        assert met == pytest.approx(float(reach[i] / (1 + reach[i])), abs=1e-7)


@fast
@given(st.integers(0, 9999), st.integers(2, 4), st.integers(2, 8))
def test_layers_by_reach_cost_least(seed: int, layers: int, d: int) -> None:
    """Of all ways to divide a fact among layers, each brought exactly, none costs less."""
    g = torch.Generator().manual_seed(seed)
    moments = [moment_of(g, d, 3 * d) for _ in range(layers)]
    keys = [draw(g, d, 1) for _ in range(layers)]
    systems = [System(ridge=0.0, second_moment=c, moment_weight=WEIGHT) for c in moments]
    reach = torch.cat([s.reach(k) for s, k in zip(systems, keys, strict=True)])

    def cost(shares: Tensor) -> float:
        total = 0.0
        for share, moment, key in zip(shares, moments, keys, strict=True):
            direction = torch.linalg.solve(WEIGHT * moment, key)
            row = share * direction.T / (key.T @ direction)
            total += float(row @ (WEIGHT * moment) @ row.T)
        return total

    best = cost(reach / reach.sum())
    assert best == pytest.approx(float(1 / reach.sum()), rel=1e-6)
    for _ in range(5):
        other = torch.rand(layers, generator=g, dtype=torch.float64) + 0.01
        assert cost(other / other.sum()) >= best * (1 - 1e-9)


@fast
@given(st.integers(2, 12), st.integers(0, 9999), st.booleans())
def test_both_ways_to_keep_a_subspace_agree(d: int, seed: int, weighted: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    whole = space(g, d, max(1, d // 3), True)
    null = Subspace(d, whole.null_basis(), False)
    keys, residual, past = draw(g, d, 3), draw(g, 2, 3), draw(g, d, 4)
    moment = moment_of(g, d, 2 * d) if weighted else None
    one, other = (
        System(
            ridge=RIDGE, subspace=s, second_moment=moment, moment_weight=WEIGHT, past_keys=past
        ).solve(keys, residual)
        for s in (whole, null)
    )
    assert distance(one.matrix(), other.matrix()) < 1e-9


@fast
@given(st.integers(4, 12), st.integers(0, 9999), st.integers(1, 3))
def test_three_forms_of_alphaedit_agree(d: int, seed: int, u: int) -> None:
    """The paper's formula, the null-space form and the u x u form (METHODS, property 2)."""
    g = torch.Generator().manual_seed(seed)
    null = space(g, d, d // 2, False)
    p, n = null.matrix(), null.null_basis()
    keys, residual = draw(g, d, u), draw(g, 3, u)
    ours = System(ridge=RIDGE, subspace=null).solve(keys, residual).matrix()
    inner = n.T @ keys
    eye = torch.eye(null.dim, dtype=torch.float64)
    reduced = residual @ inner.T @ torch.linalg.inv(RIDGE * eye + inner @ inner.T) @ n.T
    gram = RIDGE * torch.eye(u, dtype=torch.float64) + keys.T @ p @ keys
    small = residual @ torch.linalg.inv(gram) @ keys.T @ p
    paper = plain.alphaedit(keys, residual, p, keys[:, :0], RIDGE)
    assert max(distance(ours, form) for form in (reduced, small, paper)) < 1e-9


@fast
@given(st.integers(2, 12), st.integers(0, 9999))
def test_identity_moment_is_ridge_regression(d: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    keys, residual, past = draw(g, d, 2), draw(g, 3, 2), draw(g, d, 1)
    eye = torch.eye(d, dtype=torch.float64)
    weighted = System(ridge=0.0, second_moment=eye, moment_weight=RIDGE, past_keys=past)
    ridge = System(ridge=RIDGE, subspace=Subspace.identity(d, torch.float64), past_keys=past)
    one, other = (s.solve(keys, residual).matrix() for s in (weighted, ridge))
    assert distance(one, other) < 1e-9


@fast
@given(st.integers(8, 20), st.integers(0, 9999), st.booleans())
def test_float32_keeps_its_precision_when_facts_come_back(d: int, seed: int, fold: bool) -> None:
    """The same keys again and again: the history cancels nearly all of the batch."""
    g = torch.Generator().manual_seed(seed)
    keys, residual = 30 * draw(g, d, 3).float(), draw(g, 4, 3).float()
    past = keys.repeat(1, 1 if not fold else int(FOLD_AT * d) + 1)
    system = System(ridge=10.0, past_keys=past)
    ours = system.solve(keys, residual)
    assert ours.left.dtype == ours.right.dtype == torch.float32
    eye = torch.eye(d, dtype=torch.float64)
    direct = plain.memit(keys.double(), residual.double(), eye, 10.0, past.double())
    gap = (ours.matrix().double() - direct).norm() / direct.norm()
    assert float(gap) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("short", [1, 2, 10])
@pytest.mark.parametrize("seed", range(5))
def test_rank_deficient_moment_is_refused(dtype: torch.dtype, short: int, seed: int) -> None:
    d = 40
    moment = moment_of(torch.Generator().manual_seed(seed), d, d - short).to(dtype)
    with pytest.raises(SubspaceError, match=r"not positive definite.*ridge"):
        System(ridge=0.0, second_moment=moment, moment_weight=15_000.0)
    with pytest.raises(SubspaceError, match="second moment is not positive definite"):
        RomeSystem(moment)
    System(ridge=1.0, second_moment=moment, moment_weight=15_000.0)


def test_widely_scaled_moment_is_accepted() -> None:
    """Outlier neurons: scales over eight orders of magnitude do not make a moment singular."""
    scale = torch.logspace(-4, 4, 40, dtype=torch.float64)
    moment = moment_of(torch.Generator().manual_seed(0), 40, 400) * scale[:, None] * scale
    System(ridge=0.0, second_moment=moment.float(), moment_weight=1.0)


def test_inputs_are_left_alone() -> None:
    g = torch.Generator().manual_seed(0)
    moment, keys = moment_of(g, 6, 20), draw(g, 6, 2)
    before = moment.clone(), keys.clone()
    System(ridge=1.0, second_moment=moment, moment_weight=2.0, past_keys=keys).solve(keys, keys)
    RomeSystem(moment, conditioning=0.1).update(keys[:, 0], keys[:, 1])
    assert torch.equal(moment, before[0])
    assert torch.equal(keys, before[1])


def test_what_does_not_fit_is_refused() -> None:
    g = torch.Generator().manual_seed(0)
    keys, moment, null = draw(g, 6, 2), moment_of(g, 6, 20), space(g, 5, 2, True)
    with pytest.raises(ConfigError, match="do not fit the system"):
        System(ridge=1.0, subspace=null).solve(keys, keys)
    with pytest.raises(ConfigError, match="do not fit the system"):
        System(ridge=1.0, past_keys=keys).solve(keys[:5], keys)
    with pytest.raises(ConfigError, match=r"\[6, facts\] in float32"):
        System(ridge=1.0, past_keys=keys).absorb(keys.bfloat16())
    with pytest.raises(ConfigError, match="one column of each"):
        System(ridge=1.0).solve(keys, keys[:, :1])
    with pytest.raises(ConfigError, match="same layer"):
        System(ridge=1.0, subspace=null, second_moment=moment, moment_weight=1.0)
    for ridge in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="no solution"):
            System(ridge=ridge, second_moment=moment, moment_weight=1.0)
    with pytest.raises(ConfigError, match="d_in"):
        RomeSystem(moment).update(keys[:5, 0], keys[:, 0])
    with pytest.raises(SubspaceError, match="key is zero"):
        RomeSystem(moment).update(torch.zeros(6, dtype=torch.float64), keys[:, 0])
    with pytest.raises(SubspaceError, match="check the keys"):
        System(ridge=1.0).solve(keys * float("nan"), keys)
