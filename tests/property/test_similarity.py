"""Distances between sets of vectors: known values, invariances, plain loops."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphaedit.bench.shift import compare
from alphaedit.core.errors import ConfigError, DataError
from alphaedit.linalg.similarity import density, hausdorff, linear_cka, mean_shift, mmd, overlap

seeds = st.integers(0, 1000)


def vectors(seed: int, n: int = 20, d: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_equal_sets(seed: int) -> None:
    x = vectors(seed)
    assert linear_cka(x, x) == pytest.approx(1)
    assert hausdorff(x, x) == pytest.approx(0, abs=1e-6)
    assert overlap(x[:, 0], x[:, 0]) == pytest.approx(1, abs=1e-3)
    assert mean_shift(x, x) == (0.0, 0.0)
    assert mmd(x, x) < 1e-9


@given(seeds, st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_invariances(seed: int, scale: float) -> None:
    x, y = vectors(seed), vectors(seed + 1, d=3)
    turn = torch.linalg.qr(vectors(seed + 2, 4, 4)).Q
    assert linear_cka(x @ turn * scale + 3, y) == pytest.approx(linear_cka(x, y))
    z = vectors(seed + 3)
    assert hausdorff(scale * x, scale * z) == pytest.approx(scale * hausdorff(x, z))
    assert mmd(scale * x, scale * z) == pytest.approx(mmd(x, z), abs=1e-9)
    assert mean_shift(x, x + scale)[0] == pytest.approx(2 * scale)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_plain_loops(seed: int) -> None:
    x, y = vectors(seed, 7), vectors(seed + 1, 5) + 1
    both = torch.cat([x, y]).tolist()
    pairs = [
        sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
        for i, u in enumerate(both)
        for j, v in enumerate(both)
        if i != j
    ]
    scale = sorted(pairs)[(len(pairs) - 1) // 2]

    def k(u: list[float], v: list[float]) -> float:
        return math.exp(-sum((a - b) ** 2 for a, b in zip(u, v, strict=True)) / scale)

    xs, ys = x.tolist(), y.tolist()
    xx = sum(k(a, b) for i, a in enumerate(xs) for j, b in enumerate(xs) if i != j) / (7 * 6)
    yy = sum(k(a, b) for i, a in enumerate(ys) for j, b in enumerate(ys) if i != j) / (5 * 4)
    xy = sum(k(a, b) for a in xs for b in ys) / 35
    assert mmd(x, y) == pytest.approx(xx + yy - 2 * xy)
    far = max(
        max(min(math.dist(a, b) for b in ys) for a in xs),
        max(min(math.dist(a, b) for a in xs) for b in ys),
    )
    assert hausdorff(x, y) == pytest.approx(far)
    gram = ((x - x.mean(0)) @ (x - x.mean(0)).T, vectors(seed + 2, 7))
    centred = gram[1] - gram[1].mean(0)
    other = centred @ centred.T
    expected = (gram[0] * other).sum() / (gram[0].norm() * other.norm())
    assert linear_cka(x, gram[1]) == pytest.approx(float(expected))


def test_overlap_of_normal_distributions() -> None:
    """Two unit normals at a distance of 2 overlap by 2 Phi(-1), a little more when smoothed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, generator=generator, dtype=torch.float64)
    y = torch.randn(4000, generator=generator, dtype=torch.float64) + 2
    assert overlap(x, y) == pytest.approx(math.erfc(1 / math.sqrt(2)), abs=0.03)
    assert overlap(x, x + 100) < 1e-6
    at = torch.linspace(-8, 8, 400, dtype=torch.float64)
    assert float(torch.trapezoid(density(x, at), at)) == pytest.approx(1, abs=1e-3)


def test_comparison() -> None:
    x = vectors(0, 40, 6).float()
    same = compare(x, x)
    assert same.numbers()["d1"] == pytest.approx(1, abs=1e-3)
    far = compare(x, x + 50)
    assert far.d1 < 0.01
    assert far.shift == pytest.approx(50 * math.sqrt(6), rel=1e-4)
    assert far.cka == pytest.approx(1)
    assert far.mmd > 0.5 > same.mmd
    assert torch.equal(compare(x, x + 1).points_after, compare(x, x + 1).points_after)
    assert compare(x, x + 50, projection="tsne").points_before.shape == (40, 2)
    with pytest.raises(ConfigError):
        compare(x, x, projection="umap")
    with pytest.raises(DataError, match="at least five"):
        compare(x[:3], x[:3])
    with pytest.raises(DataError, match="not finite"):
        compare(x, x * float("nan"))
