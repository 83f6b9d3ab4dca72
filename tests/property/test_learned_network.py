"""Networks of learned editors and their algebra: against dense formulas, in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alphaedit.core.errors import SubspaceError
from alphaedit.linalg.ridge_values import RidgeValues
from alphaedit.methods.learned.network import (
    EPSILON,
    Factors,
    GradientNetwork,
    NetworkShape,
    RunningMoments,
    by_edit,
    largest_rank,
    outer_products,
)
from alphaedit.methods.steps.gradients import Tokens
from alphaedit.methods.zoo.ke import Gates

seeds = st.integers(0, 1000)


def normal(seed: int, *size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int, scaled: str = "before", *, trained: bool = True) -> GradientNetwork:
    shape = NetworkShape(7, 5, rank=3, blocks=2, matrices=2, scaled=scaled)  # type: ignore[arg-type]
    made = GradientNetwork(shape, torch.Generator().manual_seed(seed)).double()
    made.moments.update(normal(seed + 1, 40, 12) * torch.arange(1, 13))
    if trained:
        with torch.no_grad():
            for number, parameter in enumerate(made.parameters()):
                parameter += 0.3 * normal(seed + 2 + number, *parameter.shape)
    return made


def plain(net: GradientNetwork, x: Tensor, matrix: int) -> Tensor:
    """The published formula, unit by unit."""
    square = net.moments.square / (net.moments.count - 1)
    deviation = square.sqrt()
    least = [net.shape.floor * half.square().mean().sqrt() for half in deviation.split((7, 5))]
    floor = torch.cat([least[0].expand(7), least[1].expand(5)])
    x = (x - net.moments.mean) / (torch.maximum(deviation, floor) + EPSILON)
    for b in range(2):
        pre = net.up[b] @ net.down[b] @ x + net.bias[b]
        scale, shift = net.scale[b, matrix], net.shift[b, matrix]
        if net.shape.scaled == "before":
            x = x + torch.relu(scale * pre + shift)
        else:
            x = x + scale * torch.relu(pre) + shift
    return x


@given(seeds, st.sampled_from(["before", "after"]), st.integers(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_network_is_the_published_one(seed: int, scaled: str, matrix: int) -> None:
    net, x = network(seed, scaled), normal(seed + 50, 6, 12)
    ours = torch.cat(net(x[:, :7], x[:, 7:], matrix), 1)
    assert torch.allclose(ours, torch.stack([plain(net, row, matrix) for row in x]))


@pytest.mark.parametrize("scaled", ["before", "after"])
def test_a_new_network_is_the_identity_and_can_learn(scaled: str) -> None:
    net, x = network(3, scaled, trained=False), normal(4, 6, 12)
    units = (x - net.moments.mean) / (net.deviation() + EPSILON)
    out = torch.cat(net(x[:, :7], x[:, 7:], 0), 1)
    assert torch.equal(out, units)
    out.sum().backward()
    # A ReLU's gradient at 0 would be 0, and the matrices would stay where they are.
    assert net.up.grad is not None
    assert bool((net.up.grad != 0).any())


@given(seeds, st.lists(st.integers(1, 9), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_moments_of_parts_are_those_of_all(seed: int, sizes: list[int]) -> None:
    parts = [3 + 2 * normal(seed + n, size, 4) for n, size in enumerate(sizes)]
    moments = RunningMoments(4).double()
    for part in parts:
        moments.update(part)
    whole = torch.cat(parts)
    assert torch.allclose(moments.mean, whole.mean(0))
    if len(whole) > 1:
        assert torch.allclose(moments.deviation(), whole.std(0))


def test_units_that_never_fire_have_a_floor() -> None:
    net = GradientNetwork(NetworkShape(3, 2, rank=1, floor=0.05)).double()
    rows = normal(1, 30, 5)
    rows[:, 1] = 0
    rows[:, 3:] *= 1e-4
    net.moments.update(rows)
    deviation = net.deviation()
    assert float(deviation[1]) == pytest.approx(
        0.05 * float(net.moments.deviation()[:3].square().mean().sqrt())
    )
    # The gradients' half has a floor of its own: it is not that of the inputs.
    assert bool((deviation[3:] < 1e-3).all())


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_factors_are_the_dense_update(seed: int) -> None:
    net = network(seed)
    inputs, gradients = normal(seed + 9, 8, 7), normal(seed + 10, 8, 5)
    inputs[2], gradients[5] = 0, 0
    edit = torch.tensor([0, 0, 0, 2, 1, 2, 0, 2])
    rate = torch.tensor(0.3, dtype=torch.float64)
    made = outer_products(net, inputs, gradients, edit, 3, matrix=1, rate=rate)
    total = torch.zeros(5, 7, dtype=torch.float64)
    for number in range(3):
        dense = torch.zeros(5, 7, dtype=torch.float64)
        for i in range(8):
            if int(edit[i]) == number and i not in (2, 5):
                out = plain(net, torch.cat([inputs[i], gradients[i]]), 1)
                dense -= 0.3 * torch.outer(out[7:], out[:7])
        assert torch.allclose(made.left[number] @ made.right[number], dense)
        total += dense
    left, right = made.joined()
    assert torch.allclose(left @ right, total)
    assert left.shape[1] == 6  # tokens that fire, and no padding


def test_rows_by_edit() -> None:
    rows = torch.arange(1.0, 6)[:, None]
    found = by_edit(rows, torch.tensor([1, 0, 1, 1, 0]), 3)
    assert found[:, :, 0].tolist() == [[2, 5, 0], [1, 3, 4], [0, 0, 0]]


@given(seeds, st.floats(-3, 3), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_ridge_solution_has_no_gradient(seed: int, log_ridge: float, n: int) -> None:
    """Delta^T is where |U Delta^T - D|^2 + e^l |Delta|^2 is least."""
    keys, values = normal(seed, n, 7), normal(seed + 1, n, 5)
    system = RidgeValues(keys, log_ridge)
    delta = (system.left(values) @ keys).requires_grad_()
    ridge = torch.tensor(log_ridge, dtype=torch.float64).exp()
    loss = (keys @ delta.T - values).square().sum() + ridge * delta.square().sum()
    (gradient,) = torch.autograd.grad(loss, delta)
    assert float(gradient.abs().max()) < 1e-9 * (1 + float(values.abs().max()))
    dense = torch.linalg.solve(
        keys.T @ keys + ridge * torch.eye(7, dtype=torch.float64), keys.T @ values
    )
    assert torch.allclose(delta.detach(), dense.T)


@given(seeds, st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_bounded_memory_gives_the_gradients_of_the_whole_graph(seed: int, log_ridge: float) -> None:
    """Against autograd through the solve, for a loss that sees nothing but Delta."""
    keys, values = normal(seed, 6, 7), normal(seed + 1, 6, 5).requires_grad_()
    ridge = torch.tensor(log_ridge, dtype=torch.float64, requires_grad=True)
    seen, wanted = normal(seed + 2, 4, 7), normal(seed + 3, 4, 5)

    def loss(delta: Tensor) -> Tensor:
        return (seen @ delta.T - wanted).pow(4).sum()

    matrix = keys.T @ keys + ridge.exp() * torch.eye(7, dtype=torch.float64)
    of_values, of_ridge = torch.autograd.grad(
        loss(torch.linalg.solve(matrix, keys.T @ values).T), (values, ridge)
    )
    system = RidgeValues(keys, log_ridge)
    left = system.left(values).requires_grad_()
    (of_left,) = torch.autograd.grad(loss(left @ keys), left)
    ours, ours_of_ridge = system.backward(left, of_left)
    assert torch.allclose(ours, of_values)
    assert ours_of_ridge == pytest.approx(float(of_ridge), rel=1e-6, abs=1e-9)


def test_the_gradients_of_the_ridge_are_numeric_ones() -> None:
    keys, values, seen = normal(1, 6, 7), normal(2, 6, 5), normal(3, 4, 7)

    def loss(values: Tensor, log_ridge: float) -> float:
        return float((seen @ (RidgeValues(keys, log_ridge).left(values) @ keys).T).cos().sum())

    system = RidgeValues(keys, 0.3)
    left = system.left(values).requires_grad_()
    (of_left,) = torch.autograd.grad((seen @ (left @ keys).T).cos().sum(), left)
    ours, ours_of_ridge = system.backward(left, of_left)
    step = 1e-5
    assert ours_of_ridge == pytest.approx(
        (loss(values, 0.3 + step) - loss(values, 0.3 - step)) / (2 * step), rel=1e-5
    )
    for place in ((0, 0), (3, 4), (5, 2)):
        apart = torch.zeros_like(values)
        apart[place] = step
        numeric = (loss(values + apart, 0.3) - loss(values - apart, 0.3)) / (2 * step)
        assert float(ours[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-8)


def test_the_gradients_of_the_network_are_numeric_ones() -> None:
    net, x = network(5).requires_grad_(), normal(6, 4, 12)
    edit, rate = torch.tensor([0, 0, 1, 1]), torch.tensor(0.2, dtype=torch.float64)

    def loss() -> Tensor:
        made = outer_products(net, x[:, :7], x[:, 7:], edit, 2, matrix=0, rate=rate)
        return (made.left @ made.right).sin().sum()

    loss().backward()
    step = 1e-6
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        place = int(parameter.grad.abs().argmax())
        with torch.no_grad():
            flat = parameter.view(-1)
            flat[place] += step
            above = float(loss())
            flat[place] -= 2 * step
            numeric = (above - float(loss())) / (2 * step)
            flat[place] += step
        assert float(parameter.grad.view(-1)[place]) == pytest.approx(numeric, rel=1e-4), name


def test_a_system_that_is_singular_is_refused() -> None:
    with pytest.raises(SubspaceError, match="singular"):
        RidgeValues(torch.full((2, 3), float("nan")), 0.0)


def test_the_rank_that_fits() -> None:
    shapes = [NetworkShape(70, 50, rank=1, matrices=3), NetworkShape(50, 70, rank=1)]
    for limit in (1e5, 1e6):
        rank = largest_rank(shapes, limit, 20)

        def bytes_of(rank: int) -> int:
            sized = [NetworkShape(s.d_in, s.d_out, rank, matrices=s.matrices) for s in shapes]
            return 20 * sum(s.parameters for s in sized)

        assert bytes_of(rank) <= limit < bytes_of(rank + 1)
    assert largest_rank(shapes, 100, 20) == 0


def test_factors_of_edits_without_tokens() -> None:
    left, right = Factors(torch.zeros(2, 5, 0), torch.zeros(2, 0, 7)).joined()
    assert (left @ right).shape == (5, 7)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_gates_are_the_dense_update(seed: int) -> None:
    """KnowledgeEditor's formula on whole gradients, against its factors."""
    inputs, gradients = normal(seed, 8, 7), normal(seed + 1, 8, 5)
    edit, raw = torch.tensor([0, 0, 0, 2, 1, 2, 0, 2]), normal(seed + 2, 3, 25)
    made = Gates.of(raw, 5, 7).applied(Tokens(inputs, gradients, edit))
    for number in range(3):
        gradient = gradients[edit == number].T @ inputs[edit == number]
        row, new_row = raw[number, :5].softmax(0), raw[number, 5:10].softmax(0)
        column, new_column, size = raw[number, 10:17], raw[number, 17:24], raw[number, 24].sigmoid()
        dense = gradient * torch.outer(row, column) + torch.outer(new_row, new_column)
        assert torch.allclose(made.left[number] @ made.right[number], size * dense)
