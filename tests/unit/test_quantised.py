"""4-bit and 8-bit bases, by modules that store and compute as bitsandbytes' do."""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import save_tiny, tiny_model
from torch import Tensor, nn

from alphaedit import Editor, Fact
from alphaedit.core.errors import ArchitectureError, ConfigError, ModelError, NonFiniteError
from alphaedit.core.patch import LowRank
from alphaedit.model.handle import ModelHandle
from alphaedit.model.quantised import dequantised, is_quantised, keep_unquantised

FACTS = [
    Fact("The capital of {} is", "France", "Oslo"),
    Fact("{} was born in the city of", "Marie Curie", "Berlin"),
]
SMALL: dict[str, Any] = {"layers": (1, 2), "steps": 4, "contexts": 1, "moment_weight": 1.0}
CODES = torch.linspace(-1, 1, 16)


@dataclass
class State:
    """bitsandbytes' QuantState, as far as it matters."""

    absmax: Tensor
    shape: torch.Size
    dtype: torch.dtype


def dequantize_4bit(packed: Tensor, state: State) -> Tensor:
    flat = packed.flatten().long()
    codes = torch.stack([flat >> 4, flat & 15], dim=1).flatten()
    values = CODES[codes].view(-1, 16) * state.absmax[:, None]
    return values.view(state.shape).to(state.dtype)


class FourBit(nn.Linear):
    """Blocks of 16 weights: two codes a byte, and the largest absolute value of each block."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.out_features, self.in_features = source.out_features, source.in_features
        self.compute_dtype = source.weight.dtype
        blocks = source.weight.detach().float().view(-1, 16)
        absmax = blocks.abs().amax(dim=1)
        codes = (blocks / absmax[:, None])[..., None].sub(CODES).abs().argmin(-1).flatten()
        packed = (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)[:, None]
        self.weight = nn.Parameter(packed, requires_grad=False)
        state = State(absmax, source.weight.shape, source.weight.dtype)
        self.weight.quant_state = state  # type: ignore[attr-defined]
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        weight = dequantize_4bit(self.weight.data, self.weight.quant_state)  # type: ignore[attr-defined]
        # Another order of operations than nn.Linear's: equal but for rounding.
        out = (weight.to(x.dtype) @ x.flatten(0, -2).T).T.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class EightBit(nn.Linear):
    """Rows of int8 with one scale each."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__(1, 1, bias=False, device="meta")
        self.out_features, self.in_features = source.out_features, source.in_features
        self.compute_dtype = source.weight.dtype
        scale = source.weight.detach().float().abs().amax(dim=1)
        rows = (source.weight.detach().float() / scale[:, None] * 127).round().to(torch.int8)
        self.weight = nn.Parameter(rows, requires_grad=False)
        self.state = SimpleNamespace(CB=rows, SCB=scale)
        self.bias = source.bias

    def forward(self, x: Tensor) -> Tensor:
        out = (x @ self.state.CB.to(x.dtype).T) * (self.state.SCB / 127).to(x.dtype)
        return out if self.bias is None else out + self.bias


@pytest.fixture(autouse=True)
def fake_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library, functional = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.functional")
    functional.dequantize_4bit = dequantize_4bit  # type: ignore[attr-defined]
    library.functional = functional  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", functional)


def quantised_model(kind: str, form: type[nn.Linear]) -> tuple[Any, Any]:
    model, tokenizer = tiny_model(kind)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "head" not in name:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, form(module))  # type: ignore[call-arg]
    model.is_quantized = True
    return model, tokenizer


def editor_of(kind: str, form: type[nn.Linear], cache: Path) -> Editor:
    return Editor.from_pretrained(*quantised_model(kind, form), tokens=300, cache_dir=cache)


CASES = [(kind, form) for kind in ("llama", "gpt_neo") for form in (FourBit, EightBit)]


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_edit_revert_save_load(kind: str, form: type[nn.Linear], tmp_path: Path) -> None:
    editor = editor_of(kind, form, tmp_path / "cache")
    modules = {n: m for n, m in editor.handle.model.named_modules() if is_quantised(m)}
    ids = torch.tensor([[5, 9, 17, 33]])
    before = editor.handle.model(input_ids=ids).logits
    first = editor.edit(FACTS[:1], "memit", **SMALL)
    edited = {editor.handle.edited_name(i).removesuffix(".weight") for i in (1, 2)}
    now = dict(editor.handle.model.named_modules())
    assert (
        {n for n, m in modules.items() if now[n] is not m}
        == edited
        == set(editor.handle.unquantised)
    )
    for name in edited:
        plain = now[name]
        assert type(plain) is nn.Linear
        expected = dequantised(modules[name]).float()
        expected = expected + first.patch.weights[name + ".weight"].matrix()
        assert torch.allclose(plain.weight, expected, atol=1e-6)
    editor.edit(FACTS[1:], "alphaedit", energy=0.8, **SMALL)
    editor.save(tmp_path / "session")
    after = editor.handle.model(input_ids=ids).logits
    assert not torch.allclose(after, before, atol=1e-3)
    editor.revert()
    editor.revert()
    assert dict(editor.handle.model.named_modules()).items() >= modules.items()
    assert torch.equal(editor.handle.model(input_ids=ids).logits, before)
    assert editor.handle.unquantised == []
    fresh = editor_of(kind, form, tmp_path / "cache")
    fresh.load(tmp_path / "session")
    assert torch.equal(fresh.handle.model(input_ids=ids).logits, after)


@pytest.mark.parametrize("form", [FourBit, EightBit])
def test_matrices_read_as_the_module_computes(form: type[nn.Linear]) -> None:
    handle = ModelHandle.load(*quantised_model("llama", form))
    module = handle.edited_module(1)
    x = torch.randn(7, handle.d_in(1), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(module(x), x @ handle.weight(1).T, atol=1e-5)
    assert handle.unquantised == []


def test_what_is_not_finite_opens_nothing() -> None:
    handle = ModelHandle.load(*quantised_model("llama", FourBit))
    name = handle.edited_name(1)
    huge = torch.full((handle.d_out(1), 1), 3e38)
    with pytest.raises(NonFiniteError):
        handle.add_delta({name: LowRank(huge, torch.full((1, handle.d_in(1)), 10.0))})
    assert handle.unquantised == []


def test_unknown_ways_of_quantising_are_refused() -> None:
    module = nn.Linear(4, 4, bias=False)
    module.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ArchitectureError, match="not understood"):
        dequantised(module)
    model, tokenizer = tiny_model("llama")
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ModelError, match="quantised by gptq"):
        ModelHandle.load(model, tokenizer)
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    ModelHandle.load(model, tokenizer)


def test_a_checkpoint_says_what_is_not_quantised_any_more() -> None:
    config = SimpleNamespace(quantization_config={"llm_int8_skip_modules": ["lm_head"]})
    keep_unquantised(config, ["model.layers.1.mlp.down_proj"])
    expected = ["lm_head", "model.layers.1.mlp.down_proj"]
    assert config.quantization_config["llm_int8_skip_modules"] == expected
    other = SimpleNamespace(quantization_config=SimpleNamespace(llm_int8_skip_modules=None))
    keep_unquantised(other, ["a"])
    assert other.quantization_config.llm_int8_skip_modules == ["a"]
    keep_unquantised(SimpleNamespace(), ["a"])


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    folder = save_tiny("llama", tmp_path / "model")
    with pytest.raises(ConfigError, match="needs bitsandbytes") as caught:
        ModelHandle.load(str(folder), dtype="4bit")
    assert "alphaedit[quant]" in str(caught.value.remedy)
    with pytest.raises(ConfigError, match="cannot be quantised"):
        ModelHandle.load(*tiny_model("llama"), dtype="8bit")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
def test_the_real_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    folder = save_tiny("llama", tmp_path / "model")
    editor = Editor.from_pretrained(str(folder), dtype="4bit", tokens=300, cache_dir=tmp_path)
    before = editor.ask("The capital of France is", 4)
    assert editor.edit(FACTS, "memit", **SMALL).after
    editor.revert()
    editor.revert() if editor.edits else None
    assert editor.ask("The capital of France is", 4) == before
