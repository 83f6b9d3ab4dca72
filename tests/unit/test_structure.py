"""The parts of a model are found by what they do."""

from typing import Any

import pytest
import torch
from tests.tiny import INNER, KINDS, LAYERS, WIDTH, tiny_model
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2Model,
    T5Config,
    T5ForConditionalGeneration,
)

from alphaedit.core.errors import ArchitectureError, ModelError
from alphaedit.model.structure import find_structure, is_transposed, linear_shape

EDITED = {
    "gpt2": "transformer.h.2.mlp.c_proj",
    "gpt_neo": "transformer.h.2.mlp.c_proj",
    "llama": "model.layers.2.mlp.down_proj",
    "qwen2": "model.layers.2.mlp.down_proj",
    "gptj": "transformer.h.2.mlp.fc_out",
    "gpt_neox": "gpt_neox.layers.2.mlp.dense_4h_to_h",
    "mistral": "model.layers.2.mlp.down_proj",
    "gemma2": "model.layers.2.mlp.down_proj",
    "phi": "model.layers.2.mlp.fc2",
    "opt": "model.decoder.layers.2.fc2",
    "bloom": "transformer.h.2.mlp.dense_4h_to_h",
    "falcon": "transformer.h.2.mlp.dense_4h_to_h",
}
BERT = BertConfig(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=32,
)
T5 = T5Config(vocab_size=60, d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=8)


def seeded(family: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return family(config).eval()


@pytest.mark.parametrize("kind", EDITED)
def test_parts(kind: str) -> None:
    model, _ = tiny_model(kind)
    found = find_structure(model)
    module = model.get_submodule(found.edited[2])
    assert found.edited[2] == EDITED[kind]
    assert len(found.layers) == len(found.edited) == LAYERS
    assert model.get_submodule(found.layers_path) is found.layers
    inner = 4 * WIDTH if kind in ("bloom", "falcon") else INNER
    assert linear_shape(module) == (WIDTH, inner)
    assert is_transposed(module) == (kind == "gpt2")
    assert found.logit_transform is not None


@pytest.mark.parametrize("kind", EDITED)
def test_head_after_final_norm_gives_the_logits(kind: str) -> None:
    model, _ = tiny_model(kind)
    found, last = find_structure(model), list[Tensor]()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        last.append(output if isinstance(output, Tensor) else output[0])

    hook = found.layers[-1].register_forward_hook(keep)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
        assert found.logit_transform is not None
        ours = found.logit_transform(found.head(found.final_norm(last[0])))
    hook.remove()
    assert torch.allclose(ours, logits, atol=1e-5)


def test_every_kind_is_tested() -> None:
    assert set(EDITED) <= set(KINDS)


def test_nothing_is_left_in_the_model() -> None:
    model, _ = tiny_model("gpt2")
    names = list(model.state_dict())
    find_structure(model)
    assert list(model.state_dict()) == names
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_one_block() -> None:
    model, _ = tiny_model("gpt2", n_layer=1)
    assert find_structure(model).edited == ("transformer.h.0.mlp.c_proj",)


def test_inner_width_equal_to_hidden_width() -> None:
    model, _ = tiny_model("gpt2", n_inner=WIDTH)
    assert find_structure(model).edited[0] == "transformer.h.0.mlp.c_proj"


def test_several_writers_are_ambiguous() -> None:
    model, _ = tiny_model("llama")

    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    block = model.model.layers[1]
    block.post_attention_layernorm = nn.Sequential(block.post_attention_layernorm, Adapter())
    with pytest.raises(ArchitectureError, match=r"layers\.1.*ambiguous.*down_proj"):
        find_structure(model)


def test_blocks_that_are_no_chain() -> None:
    model, _ = tiny_model("gpt2")
    model.transformer.h[2].register_forward_pre_hook(lambda m, args: (args[0] * 2, *args[1:]))
    with pytest.raises(ArchitectureError, match=r"No decoder blocks.*GPT2LMHeadModel.*ModuleList"):
        find_structure(model)


def test_unknown_step_before_the_head() -> None:
    model, _ = tiny_model("gpt2")
    model.lm_head.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    with pytest.raises(ArchitectureError, match="between its last block and its head"):
        find_structure(model)


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        (BertForMaskedLM, BERT, "BertForMaskedLM"),
        (BertLMHeadModel, BERT, "not causal"),
        (GPT2Model, GPT2Config(vocab_size=60, n_embd=16, n_head=2, n_layer=1), "no language-model"),
        (T5ForConditionalGeneration, T5, "T5ForConditionalGeneration"),
    ],
    ids=["masked", "bidirectional", "headless", "encoder-decoder"],
)
def test_other_models_are_refused(family: Any, config: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        find_structure(seeded(family, config))
    assert "decoder-only" in str(caught.value)


def test_causal_bert_is_accepted() -> None:
    """The same class is fine once its attention looks back only: nothing goes by names."""
    config = BertConfig(**{**BERT.to_dict(), "is_decoder": True})
    found = find_structure(seeded(BertLMHeadModel, config))
    assert found.edited[0] == "bert.encoder.layer.0.output.dense"
