"""Restraints, sparsifying and equality constraints, in float64, against plain formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank
from alphaedit.linalg.restrain import active_neurons, relative_top, restrained, row_directions
from alphaedit.linalg.solve import System

SEEDS = st.integers(0, 2**16)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(SEEDS, st.integers(1, 5), st.floats(0.1, 5), st.sampled_from([1.2, math.e]))
def test_restrained_changes_the_large_singular_values_only(
    seed: int, rank: int, largest: float, base: float
) -> None:
    delta = LowRank(normal(seed, 7, rank), normal(seed + 1, rank, 9))
    u, s, vh = torch.linalg.svd(delta.matrix(), full_matrices=False)
    calm = torch.tensor(
        [x if x <= largest else math.log(x, base) - math.log(largest, base) + largest for x in s]
    )
    expected = u @ torch.diag(calm.double()) @ vh
    torch.testing.assert_close(restrained(delta, largest, base).matrix(), expected)


def test_restrained_refuses() -> None:
    delta = LowRank(normal(0, 3, 1), normal(1, 1, 4))
    for largest, base in ((0.0, math.e), (1.0, 1.0)):
        with pytest.raises(ConfigError, match="restrain nothing"):
            restrained(delta, largest, base)


@given(SEEDS, st.floats(0.05, 1))
def test_relative_top_keeps_the_largest_relative_changes(seed: int, keep: float) -> None:
    delta, weight = normal(seed, 6, 8), normal(seed + 1, 6, 8)
    kept = relative_top(delta, weight, keep)
    chosen = kept != 0
    assert int(chosen.sum()) == max(1, round(keep * delta.numel()))
    assert torch.equal(kept[chosen], delta[chosen])
    change = (delta / weight).abs()
    if not bool(chosen.all()):
        assert change[chosen].min() >= change[~chosen].max()


def test_relative_top_of_a_weight_with_zeros() -> None:
    kept = relative_top(torch.ones(2, 2), torch.tensor([[0.0, 1.0], [2.0, 3.0]]), 0.5)
    assert kept.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    with pytest.raises(ConfigError, match="share of entries"):
        relative_top(torch.ones(2, 2), torch.ones(2, 2), 0.0)


@given(SEEDS, st.floats(0.1, 1))
def test_row_directions_hold_the_energy(seed: int, energy: float) -> None:
    weight = normal(seed, 6, 10)
    rows = weight / weight.norm(dim=1, keepdim=True)
    basis = row_directions(weight, energy)
    eye = torch.eye(basis.shape[1], dtype=torch.float64)
    torch.testing.assert_close(basis.T @ basis, eye, atol=1e-8, rtol=0)
    held = float((rows @ basis).square().sum() / rows.square().sum())
    fewer = float((rows @ basis[:, :-1]).square().sum() / rows.square().sum())
    assert held >= energy - 1e-9
    assert fewer < energy


@given(SEEDS, st.floats(0.1, 1))
def test_active_neurons_are_the_fewest_that_hold_the_share(seed: int, share: float) -> None:
    keys = normal(seed, 12, 4)
    chosen = active_neurons(keys, share)
    mean = keys.abs().mean(dim=1)
    assert float(mean[chosen].sum() / mean.sum()) >= share - 1e-9
    assert float(mean[chosen[:-1]].sum() / mean.sum()) < share


@settings(max_examples=30)
@given(SEEDS, st.integers(0, 4))
def test_equality_constraints_hold_and_cost_least(seed: int, past: int) -> None:
    """EMMET: Delta K = R at least tr(Delta S^-1 Delta^T), equal to its plain formula."""
    factor = normal(seed, 10, 30)
    moment, keys, residual = factor @ factor.T, normal(seed + 1, 10, 3), normal(seed + 2, 4, 3)
    history = normal(seed + 3, 10, past)
    system = System(ridge=0.0, second_moment=moment, moment_weight=2.0, past_keys=history)
    delta = system.solve(keys, residual, slack=1e-12).matrix()
    torch.testing.assert_close(delta @ keys, residual, atol=1e-6, rtol=1e-6)
    inverse = torch.linalg.inv(2 * moment + history @ history.T)
    plain = residual @ torch.linalg.inv(keys.T @ inverse @ keys) @ keys.T @ inverse
    torch.testing.assert_close(delta, plain, atol=1e-6, rtol=1e-6)
