"""Routed experts on their way out, and what is refused of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import EXPERTS, save_tiny, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from alphaedit import Editor, Fact
from alphaedit.core.errors import ArchitectureError, EditFileError, FingerprintError, ModelError
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Expert, layer_of, site_of
from alphaedit.editor.export import export
from alphaedit.editor.gguf_export import save_gguf, save_gguf_lora
from alphaedit.locate.trace import trace
from alphaedit.model.handle import ModelHandle

FACT = Fact("The capital of {} is", "France", " Oslo")
SMALL: dict[str, Any] = {"layers": (1,), "steps": 3, "contexts": 0, "moment_weight": 0.01}


def edited(kind: str, folder: Path, **loading: Any) -> Editor:
    source = save_tiny(kind, folder / "base")
    editor = Editor.from_pretrained(source, tokens=500, cache_dir=folder / "cache", **loading)
    editor.edit([FACT], "memit", **SMALL)
    return editor


def test_sites_and_their_names() -> None:
    assert str(Expert(3, 5)) == f"{Expert(3, 5)}" == "3.5"
    assert site_of("3.5") == Expert(3, 5)
    assert site_of("3") == 3
    assert site_of("3.massive") is site_of("") is site_of("3.5.1") is None
    assert layer_of(Expert(3, 5)) == layer_of(3) == 3


# How many tokens go to an expert in half precision depends on the processor.
@pytest.mark.filterwarnings("ignore:Fewer tokens were routed")
@pytest.mark.parametrize("kind", EXPERTS)
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_checkpoint_loads_as_the_edited_model(
    kind: str, dtype: str | None, tmp_path: Path
) -> None:
    editor = edited(kind, tmp_path, dtype=dtype)
    export(editor.handle, editor.edits, tmp_path / "out", "checkpoint")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=editor.handle.dtype)
    own = editor.handle.model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in loaded.state_dict().items())
    if kind == "gpt_oss":  # stored as it is held: what was not edited has the bits of the base
        name = editor.handle.edited_name(1)
        base = load_file(tmp_path / "base" / "model.safetensors")
        new = load_file(tmp_path / "out" / "model.safetensors")
        same = [torch.equal(a, b) for a, b in zip(base[name], new[name], strict=True)]
        changed = {f"{name}[{number}]" for number, kept in enumerate(same) if not kept}
        assert changed == set(editor.edits[0].patch.weights)
        assert all(torch.equal(new[k], base[k]) for k in base if k != name)
        masters = editor.handle.snapshot(changed)
        for one, master in masters.items():
            assert torch.equal(new[name][int(one[-2])], master)


def test_factors_are_exported_and_adapters_refused_by_name(tmp_path: Path) -> None:
    editor = edited("mixtral", tmp_path)
    export(editor.handle, editor.edits, tmp_path / "delta", "delta")
    tensors = load_file(tmp_path / "delta" / "delta.safetensors")
    (edit,) = editor.edits
    assert {name.rpartition(".")[0] for name in tensors} == set(edit.patch.weights)
    refused = r"cannot hold the change of one expert \(model\.layers\.1\.mlp\.experts\.down_proj"
    with pytest.raises(EditFileError, match="LoRA adapters " + refused) as caught:
        export(editor.handle, editor.edits, tmp_path / "lora", "lora")
    assert "checkpoint" in str(caught.value.remedy)
    with pytest.raises(EditFileError, match=refused):
        save_gguf_lora(editor.handle, editor.edits, tmp_path / "lora.gguf")
    assert not (tmp_path / "lora").exists()
    assert not (tmp_path / "lora.gguf").exists()


def test_changes_of_experts_that_are_not_there() -> None:
    handle = ModelHandle.load(*tiny_model("mixtral"))
    delta = LowRank(torch.ones(32, 1), torch.ones(1, 48))
    clean = {k: v.clone() for k, v in handle.model.state_dict().items()}
    parameter = handle.edited_name(1)
    wide = LowRank(torch.ones(32, 1), torch.ones(1, 192))
    for name, change in (
        (f"{parameter}[4]", delta),
        (parameter, wide),
        (f"{parameter}[0]", LowRank(delta.right.T, delta.left.T)),
        ("model.layers.1.self_attn.down_proj[0]", delta),
    ):
        with pytest.raises(FingerprintError):
            handle.add_delta({f"{parameter}[1]": delta, name: change})
    assert all(torch.equal(clean[k], v) for k, v in handle.model.state_dict().items())


def test_a_layer_is_its_experts_side_by_side() -> None:
    handle = ModelHandle.load(*tiny_model("gpt_oss"))
    assert handle.weight(1).shape == (handle.d_out(1), handle.d_in(1)) == (32, 192)
    keys = torch.randn(192, 3, generator=torch.Generator().manual_seed(0))
    keys[48:96] = 0
    torch.testing.assert_close(handle.times_weight(1, keys), handle.weight(1) @ keys)
    one = Expert(1, 2)
    assert torch.equal(handle.weight(one), handle.weight(1)[:, 96:144])
    assert torch.equal(handle.weight(one), handle.edited_module(1).down_proj[2].T)  # type: ignore[index]
    handle.set_weight(one, torch.ones(32, 48))
    assert torch.equal(handle.weight(1)[:, 96:144], torch.ones(32, 48))


def test_what_experts_write_can_be_traced() -> None:
    handle = ModelHandle.load(*tiny_model("mixtral"))
    fact = dataclasses.replace(FACT, target=" Paris")
    found = trace(handle, [fact], kind="mlp", window=1, samples=1)
    assert bool(found.restored.isfinite().any())


def refusal(model: Any, tokenizer: Any) -> ArchitectureError:
    with pytest.raises(ArchitectureError) as caught:
        ModelHandle.load(model, tokenizer)
    assert caught.value.remedy
    return caught.value


def test_experts_that_compute_otherwise_are_refused() -> None:
    model, tokenizer = tiny_model("mixtral")
    experts = model.model.layers[2].mlp.experts
    hook = experts.register_forward_hook(lambda module, args, out: out * 1.01)
    assert "it differs by" in str(refusal(model, tokenizer))
    hook.remove()
    ModelHandle.load(model, tokenizer)


@pytest.mark.parametrize(
    ("attribute", "why"),
    [("_is_expert_parallel", "expert parallelism"), ("has_post_expert_norm", "a norm of each")],
)
def test_kinds_of_experts_that_are_refused(attribute: str, why: str) -> None:
    model, tokenizer = tiny_model("qwen3_moe")
    for layer in model.model.layers:
        # The model's own pass goes on as ever.
        layer.mlp.experts.config._experts_implementation = "eager"
        setattr(layer.mlp.experts, attribute, True)
    error = str(refusal(model, tokenizer))
    assert why in error
    assert "model.layers.0.mlp.experts" in error


def test_quantised_experts_are_refused() -> None:
    model, tokenizer = tiny_model("mixtral")
    experts = model.model.layers[0].mlp.experts
    plain = experts.down_proj

    def opened(module: nn.Module, args: Any) -> None:
        module._parameters["down_proj"] = plain

    def closed(module: nn.Module, args: Any, out: Any) -> None:
        module._parameters["down_proj"] = nn.Parameter(plain.to(torch.int8), requires_grad=False)

    experts.register_forward_pre_hook(opened)
    experts.register_forward_hook(closed)
    closed(experts, None, None)
    assert "are quantised" in str(refusal(model, tokenizer))


def test_other_mixtures_are_refused_by_what_was_looked_for() -> None:
    model, tokenizer = tiny_model("mixtral")
    for layer in model.model.layers:
        experts = layer.mlp.experts
        experts.register_parameter("other_proj", experts.down_proj)
        experts.forward = _without(experts)
        del experts._parameters["down_proj"]
    error = refusal(model, tokenizer)
    assert "mixture of experts of a kind" in str(error)
    assert "shared expert" in str(error.remedy)


def _without(experts: Any) -> Any:
    down = experts.down_proj
    plain = type(experts).forward

    def forward(*args: Any) -> Any:
        experts._parameters["down_proj"] = down
        try:
            return plain(experts, *args)
        finally:
            del experts._parameters["down_proj"]

    return forward


def test_a_mixture_split_over_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alphaedit.model.handle.is_sharded", lambda model: True)
    with pytest.raises(ModelError, match="split over processes"):
        ModelHandle.load(*tiny_model("mixtral"))


def test_gguf_files_are_refused(tmp_path: Path) -> None:
    editor = edited("qwen3_moe", tmp_path)
    from tests.tiny_gguf import save_tiny_gguf

    base = tmp_path / "base.gguf"
    save_tiny_gguf("llama", base)
    with pytest.raises(EditFileError, match="GGUF files cannot hold"):
        save_gguf(base, editor.edits, tmp_path / "new.gguf")
