"""A walk through changing layers gives what passes through the whole model give."""

import pytest
import torch
from tests.tiny import EXPERTS, KINDS, LAYERS, tiny_model
from tests.unit.test_prefix_cache import ROWS

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.methods.steps.keys import BatchKeys, keys_and_values
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import capture
from alphaedit.model.passes.layerwise_keys import LayerwiseKeys


def load(kind: str) -> ModelHandle:
    model, tokenizer = tiny_model(kind)
    # PyTorch has no grouped products of experts in float64.
    return ModelHandle.load(model if kind in (*EXPERTS, "qwen2_moe") else model.double(), tokenizer)


def change(handle: ModelHandle, layer: int) -> None:
    """Another matrix in `layer`, far from the one there was."""
    generator = torch.Generator().manual_seed(layer)
    for site in handle.sites(layer):
        weight = handle.weight(site)
        noise = torch.randn(weight.shape, generator=generator)
        handle.set_weight(site, weight + 0.5 * weight.std() * noise.to(weight.dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("hidden", [False, True])
def test_layerwise_keys_equals_whole_passes(kind: str, first: int, hidden: bool) -> None:
    handle = load(kind)
    positions = [len(row) - 1 - (i % 2 and len(row) > 1) for i, row in enumerate(ROWS)]
    last = LAYERS - 1
    walk = LayerwiseKeys(handle, ROWS, positions, first, last, hidden=hidden)
    for layer in range(first, LAYERS):
        keys, states = walk.keys(layer, hidden=hidden)
        expected, found = capture(handle, ROWS, positions, key_layers=[layer], hidden_layers=[last])
        torch.testing.assert_close(keys, expected[layer], rtol=1e-4, atol=1e-5)
        assert (states is None) is not hidden
        if states is not None:
            torch.testing.assert_close(states, found[last], rtol=1e-4, atol=1e-5)
        change(handle, layer)


def test_layers_may_be_left_out_but_not_visited_again() -> None:
    handle = load("gpt2")
    walk = LayerwiseKeys(handle, ROWS, [len(r) - 1 for r in ROWS], 0, 2)
    change(handle, 0)
    keys, _ = walk.keys(2)
    expected, _ = capture(handle, ROWS, [len(r) - 1 for r in ROWS], key_layers=[2])
    torch.testing.assert_close(keys, expected[2])
    with pytest.raises(ConfigError, match="ascending"):
        walk.keys(1)
    with pytest.raises(ConfigError, match="keys alone"):
        walk.keys(2, hidden=True)


@pytest.mark.parametrize("contexts", [(), ("The old man said so. ", "It is. ")])
@pytest.mark.parametrize("kind", ["llama", *EXPERTS])
def test_keys_of_facts(kind: str, contexts: tuple[str, ...]) -> None:
    handle = load(kind)
    facts = [
        Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
        Fact("{} was born in the city of", "Paris Hilton", "Rome"),
    ]
    batch = BatchKeys(handle, facts, contexts, (0, 2))
    for layer in (0, 2):
        keys, values = batch.at(layer)
        plain_keys, plain_values = keys_and_values(handle, facts, contexts, layer, 2)
        torch.testing.assert_close(keys, plain_keys, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values, plain_values, rtol=1e-4, atol=1e-5)
        change(handle, layer)
