"""The batched target search equals the plain per-fact loop, fact by fact and step by step."""

import pytest
import torch
from benchmarks.plain import plain_target
from tests.tiny import tiny_model

from alphaedit.core.fact import Fact
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.model.handle import ModelHandle

FACTS = [
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
    Fact("{} was born in the city of", "Paris Hilton", "Rome"),
    Fact("In the north, {}", "Oslo", "is the capital of Sweden"),
]
CONTEXTS = ("The old man said so. ", "Therefore it is. ")


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama"])
@pytest.mark.parametrize("stop_loss", [0.0, 1.2])
@pytest.mark.parametrize("turns", [1, 2])
def test_equals_plain_loop(kind: str, stop_loss: float, turns: int) -> None:
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model.double(), tokenizer)
    hp = Hyperparameters(
        layers=(1, 2),
        steps=12,
        learning_rate=0.03,
        clamp=4.0,
        stop_loss=stop_loss,
        contexts=2,
        turns=turns,
    )
    found = find_targets(handle, FACTS, 2, CONTEXTS, hp)
    for index, fact in enumerate(FACTS):
        value, losses = plain_target(handle, fact, 2, CONTEXTS, hp)
        assert len(losses) == len(found.losses[index])
        assert losses == pytest.approx(found.losses[index], abs=1e-6)
        torch.testing.assert_close(found.values[:, index], value, rtol=1e-5, atol=1e-6)
    assert all(min(row) < row[0] for row in found.losses)


def test_turns_are_another_search() -> None:
    model, tokenizer = tiny_model("gpt2")
    handle = ModelHandle.load(model.double(), tokenizer)
    hp = Hyperparameters(layers=(1, 2), steps=4, learning_rate=0.03)
    turns = find_targets(handle, FACTS, 2, CONTEXTS, hp.model_copy(update={"turns": 2}))
    assert find_targets(handle, FACTS, 2, CONTEXTS, hp).losses != turns.losses


def test_quasi_newton_steps_read_all_prompts_whatever_the_turns() -> None:
    model, tokenizer = tiny_model("llama")
    handle = ModelHandle.load(model, tokenizer)
    hp = Hyperparameters(layers=(2,), steps=4, optimizer="lbfgs")
    once = find_targets(handle, FACTS, 2, CONTEXTS, hp)
    turns = find_targets(handle, FACTS, 2, CONTEXTS, hp.model_copy(update={"turns": 2}))
    assert torch.equal(once.values, turns.values)


def test_more_turns_than_prompts_are_as_many_as_there_are_prompts() -> None:
    model, tokenizer = tiny_model("gpt2")
    handle = ModelHandle.load(model, tokenizer)
    hp = Hyperparameters(layers=(2,), steps=4, turns=3)
    some = find_targets(handle, FACTS, 2, CONTEXTS, hp)
    many = find_targets(handle, FACTS, 2, CONTEXTS, hp.model_copy(update={"turns": 40}))
    assert torch.equal(some.values, many.values)


def test_facts_leave_at_different_steps() -> None:
    model, tokenizer = tiny_model("gpt2")
    handle = ModelHandle.load(model, tokenizer)
    first = find_targets(
        handle, FACTS, 2, (), Hyperparameters(layers=(2,), steps=30, clamp=9.0, stop_loss=0.0)
    )
    middle = sorted(row[10] for row in first.losses)[1]
    hp = Hyperparameters(layers=(2,), steps=30, clamp=9.0, stop_loss=middle)
    lengths = {len(row) for row in find_targets(handle, FACTS, 2, (), hp).losses}
    assert len(lengths) > 1


def test_order_of_facts_does_not_matter() -> None:
    model, tokenizer = tiny_model("llama")
    handle = ModelHandle.load(model, tokenizer)
    hp = Hyperparameters(layers=(2,), steps=8, learning_rate=0.3)
    forward = find_targets(handle, FACTS, 2, CONTEXTS, hp).values
    backward = find_targets(handle, FACTS[::-1], 2, CONTEXTS, hp).values
    torch.testing.assert_close(forward, backward.flip(1), rtol=1e-3, atol=1e-4)
