"""Quasi-Newton steps of a target search: many small problems, each on its own."""

from collections.abc import Callable

import pytest
import torch
from tests.tiny import tiny_model
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.descent import QuasiNewton
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.model.handle import ModelHandle

FACTS = [
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
    Fact("{} was born in the city of", "Paris Hilton", "Rome"),
    Fact("In the north, {}", "Oslo", "is the capital of Sweden"),
]


def run(loss: Callable[[Tensor], Tensor], start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Where `steps` steps lead, and the losses there."""
    x = start.clone().requires_grad_()
    size = torch.full((len(x),), 1.0, dtype=x.dtype)
    down = QuasiNewton(x, 0.1 * size, 2 * size)
    alive = torch.ones(len(x), dtype=torch.bool)
    for _ in range(steps):
        down.step(loss(x), alive, ~alive)
    value = loss(x).detach()
    best = down.result(x.detach().clone(), value)
    return best, loss(best)


def test_quadratics_of_different_scales_are_solved_side_by_side() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 6, 6, generator=generator, dtype=torch.float64)
    scale = torch.tensor([1e-3, 1.0, 1e3, 10.0], dtype=torch.float64)
    matrix = root @ root.mT * scale[:, None, None] + scale[:, None, None] * torch.eye(6)
    goal = torch.randn(4, 6, generator=generator, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        gap = (x - goal)[:, :, None]
        return (gap.mT @ matrix @ gap)[:, 0, 0]

    start = torch.zeros(4, 6, dtype=torch.float64)
    _, after = run(loss, start, 60)
    assert bool((after < 1e-6 * loss(start)).all()), after / loss(start)


def test_a_problem_does_not_see_the_others() -> None:
    def loss(x: Tensor) -> Tensor:
        return ((x - 1) ** 4).sum(dim=1) + (x[:, :1] * x[:, 1:]).square().sum(dim=1)

    start = torch.tensor([[3.0, -2.0], [0.5, 7.0], [-4.0, 0.1]], dtype=torch.float64)
    together, _ = run(loss, start, 15)
    alone = torch.cat([run(loss, row[None], 15)[0] for row in start])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_a_step_that_goes_up_is_taken_back() -> None:
    def loss(x: Tensor) -> Tensor:
        # A narrow valley: the first step jumps over it.
        return 1e4 * (x[:, 0] - 0.01).abs() + x[:, 1] ** 2

    start = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    best, after = run(loss, start, 25)
    assert float(after) < float(loss(start))
    assert torch.equal(loss(best), after)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_finds_targets_in_fewer_steps_than_adam(kind: str) -> None:
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model.double(), tokenizer)
    base = Hyperparameters(layers=(2,), steps=12, clamp=6.0, learning_rate=0.1, stop_loss=0.0)
    adam = find_targets(handle, FACTS, 2, (), base)
    lbfgs = find_targets(handle, FACTS, 2, (), base.model_copy(update={"optimizer": "lbfgs"}))
    for ours, theirs in zip(lbfgs.losses, adam.losses, strict=True):
        assert ours[0] == pytest.approx(theirs[0])
        assert min(ours) < min(theirs)
    limit = 6.0 * lbfgs.clean.norm(dim=0)
    assert bool(((lbfgs.values - lbfgs.clean).norm(dim=0) <= limit * (1 + 1e-9)).all())


def test_a_batch_finds_what_facts_find_alone() -> None:
    model, tokenizer = tiny_model("llama")
    handle = ModelHandle.load(model.double(), tokenizer)
    hp = Hyperparameters(layers=(2,), steps=8, clamp=6.0, optimizer="lbfgs", stop_loss=0.5)
    together = find_targets(handle, FACTS, 2, (), hp)
    for index, fact in enumerate(FACTS):
        alone = find_targets(handle, [fact], 2, (), hp)
        assert together.losses[index] == pytest.approx(alone.losses[0], rel=1e-5)
        torch.testing.assert_close(
            together.values[:, index], alone.values[:, 0], rtol=1e-4, atol=1e-5
        )
