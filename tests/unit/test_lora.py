"""LoRA: what PEFT trains is the patch, and the model is itself again."""

import sys

import pytest
import torch
from tests.tiny import tiny_model

from alphaedit import Editor, Fact
from alphaedit.core.errors import ConfigError
from alphaedit.methods.registry import get_method
from alphaedit.methods.zoo.lora import LoraHyperparameters, adapted
from alphaedit.model.handle import ModelHandle

peft = pytest.importorskip("peft")
FACTS = [
    Fact("The capital of {} is", "France", "Rome"),
    Fact("{} plays the", "Miles Davis", "piano"),
]
HP = LoraHyperparameters(layers=(0, 2), rank=3, alpha=9)


def pair(family: str) -> ModelHandle:
    return ModelHandle(*tiny_model(family))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_the_change_is_what_peft_computes(family: str) -> None:
    handle = pair(family)
    ids = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad(), adapted(handle, HP.layers, HP, seed=0) as factors:
        unchanged = handle.forward(ids, mask)
        for _, b in factors.values():
            b.copy_(torch.randn(b.shape, generator=generator))
        wanted = handle.forward(ids, mask)
    with torch.no_grad():
        assert torch.equal(handle.forward(ids, mask), unchanged)
        for layer, (a, b) in factors.items():
            handle.set_weight(layer, handle.weight(layer) + 3.0 * b.detach() @ a.detach())
        assert torch.allclose(handle.forward(ids, mask), wanted, atol=1e-4)
    assert not torch.allclose(wanted, unchanged, atol=1e-2)


def test_the_model_is_itself_again() -> None:
    handle = pair("llama")
    before = handle.fingerprint()
    modules = [id(module) for module in handle.model.modules()]
    first = next(handle.model.parameters())
    first.requires_grad_(False)
    learned = [p.requires_grad for p in handle.model.parameters()]
    state = torch.random.get_rng_state()

    def stopped() -> None:
        with adapted(handle, HP.layers, HP, seed=4):
            assert [id(module) for module in handle.model.modules()] != modules
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stopped()
    assert handle.fingerprint() == before
    assert [id(module) for module in handle.model.modules()] == modules
    assert [p.requires_grad for p in handle.model.parameters()] == learned
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not hasattr(handle.model, "peft_config")


def test_an_injection_that_fails_half_way_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = pair("llama")
    modules = [id(module) for module in handle.model.modules()]
    inject = peft.inject_adapter_in_model

    def broken(*given: object, **named: object) -> None:
        inject(*given, **named)
        raise MemoryError

    monkeypatch.setattr(peft, "inject_adapter_in_model", broken)

    def injected() -> None:
        with adapted(handle, HP.layers, HP, seed=0):
            pass

    with pytest.raises(MemoryError):
        injected()
    assert [id(module) for module in handle.model.modules()] == modules
    assert not hasattr(handle.model, "peft_config")


def test_all_layers_and_low_rank() -> None:
    editor = Editor.from_pretrained(*tiny_model("llama"), progress=False)
    edit = editor.edit(FACTS, "lora", rank=2, steps=40, learning_rate=0.02)
    assert edit.hyperparameters["layers"] == list(range(editor.handle.n_layers))
    assert {change.rank for change in edit.patch.weights.values()} == {2}
    losses = edit.patch.metadata["losses"]
    again = Editor.from_pretrained(*tiny_model("llama"), progress=False)
    same = again.edit(FACTS, "lora", rank=2, steps=40, learning_rate=0.02)
    assert same.patch.metadata["losses"] == losses
    again.revert()
    short = again.edit(FACTS, "lora", rank=2, steps=1, learning_rate=0.02)
    assert max(losses) < 0.5 * max(short.patch.metadata["losses"])


def test_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Editor.from_pretrained(*tiny_model("llama"), progress=False)
    before = editor.handle.fingerprint()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match="needs the package peft") as caught:
        editor.edit(FACTS[:1], "lora")
    assert "alphaedit[peft]" in str(caught.value.remedy)
    assert editor.handle.fingerprint() == before


def test_no_search_of_layers() -> None:
    from alphaedit.tune.axes import axes

    method = get_method("lora")
    names = [name for name, _ in axes(method, HP, 4, {})]
    assert names == ["learning_rate", "steps"]
