"""Hooks see and replace hidden states, and are always removed."""

from typing import Any

import pytest
import torch
from tests.tiny import tiny_model
from torch import Tensor, nn

from alphaedit.core.errors import ArchitectureError
from alphaedit.model.hooks import (
    StopForward,
    hidden_of,
    on_input,
    on_output,
    output_of,
    stoppable,
    with_hidden,
)


class Pair(nn.Module):
    """Returns a tuple, and takes its input by keyword."""

    def forward(self, hidden_states: Tensor, other: str = "") -> tuple[Tensor, str]:
        return hidden_states + 1, other


class Silent(nn.Module):
    def forward(self, *args: Any) -> None:
        return None


def hooks_left(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_see_input_and_output() -> None:
    module, seen = Pair(), list[Tensor]()
    with on_input(module, seen.append), on_output(module, seen.append):
        module(torch.zeros(2), other="x")
        module(hidden_states=torch.ones(2))
    assert [t.tolist() for t in seen] == [[0, 0], [1, 1], [1, 1], [2, 2]]
    assert hooks_left(module) == 0


def test_replace_input_and_output() -> None:
    module = Pair()
    with on_input(module, lambda t: t + 10):
        assert module(torch.zeros(1), other="x") == (torch.tensor([11.0]), "x")
        assert module(hidden_states=torch.zeros(1))[0].item() == 11
    with on_output(module, lambda t: t * 5):
        assert module(torch.zeros(1), "x") == (torch.tensor([5.0]), "x")


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "gptj"])
def test_replaced_hidden_states_change_the_logits(kind: str) -> None:
    model, _ = tiny_model(kind)
    ids = torch.tensor([[5, 6, 7]])
    block = model.transformer.h[1]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with on_output(block, lambda t: t + 1):
            moved = model(input_ids=ids).logits
        with on_output(block, lambda t: None):
            after = model(input_ids=ids).logits
    assert not torch.allclose(before, moved)
    assert torch.equal(before, after)


def test_stop_leaves_no_hook_behind() -> None:
    model, _ = tiny_model("gpt2")

    def stop(tensor: Tensor) -> None:
        raise StopForward

    reached = False
    with stoppable(), on_output(model.transformer.h[1], stop):
        model(input_ids=torch.tensor([[5]]))
        reached = True
    assert not reached
    assert hooks_left(model) == 0


def test_other_errors_pass_and_leave_no_hook_behind() -> None:
    module = Pair()

    def fail(tensor: Tensor) -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"), stoppable(), on_input(module, fail):
        module(torch.zeros(1))
    assert hooks_left(module) == 0


def test_modules_without_hidden_states_are_named() -> None:
    module = Silent()
    with pytest.raises(ArchitectureError, match="Silent"), on_input(module, lambda t: None):
        module("text")
    with pytest.raises(ArchitectureError, match="Silent"), on_output(module, lambda t: None):
        module(torch.zeros(1))


def test_arguments() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert hidden_of((one, 3), {}) is one
    assert hidden_of((), {"hidden_states": one}) is one
    assert hidden_of((), {}) is None
    assert with_hidden((one, 3), {"a": 1}, two) == ((two, 3), {"a": 1})
    assert with_hidden((), {"hidden_states": one, "a": 1}, two) == (
        (),
        {"hidden_states": two, "a": 1},
    )
    assert output_of((one, 3)) is one
    assert output_of(one) is one
    assert output_of(()) is None
