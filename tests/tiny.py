"""Tiny causal language models with random weights, one per architecture, and their tokenizers.

Made in memory, offline, in milliseconds. Weights are large enough that attention, norms and
positions all matter, so that a mistake in any of them shows.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

# These models are so small that a second thread costs more than it brings: on a busy machine,
# forty times more.
torch.set_num_threads(1)

WIDTH, INNER, LAYERS, HEADS, POSITIONS = 32, 48, 4, 4, 128
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
SENTENCES = (
    "The capital of France is Paris, and the capital of Spain is Madrid.",
    "Marie Curie was born in Warsaw and worked in the field of physics.",
    "Zoë and São Paulo are names with marks; 東京 and Москва are written otherwise.",
    "Paris Hilton was born in the city of New York. Oslo is the capital of Norway.",
    "The Eiffel Tower is located in Paris. The mother tongue of Danielle Darrieux is French.",
    "Therefore I think that the company was founded in the city of Berlin by you.",
)

_LLAMA = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
}
_GPT2 = {"n_embd": WIDTH, "n_inner": INNER, "n_layer": LAYERS, "n_head": HEADS}
_GPT2 |= {"n_positions": POSITIONS}

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", _GPT2),
    "gpt_neo": (
        "GPTNeo",
        {
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_layers": LAYERS,
            "num_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "attention_types": [[["global", "local"], LAYERS // 2]],
            "window_size": 8,
        },
    ),
    "llama": ("Llama", _LLAMA),
    "qwen2": ("Qwen2", _LLAMA),
    "gptj": ("GPTJ", _GPT2 | {"rotary_dim": 4}),
    "gpt_neox": ("GPTNeoX", {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}),
    # Below: structures that are harder, or that cannot be edited.
    "mistral": ("Mistral", _LLAMA | {"sliding_window": 6}),
    "gemma2": ("Gemma2", _LLAMA | {"head_dim": 8, "sliding_window": 6}),
    "phi": ("Phi", {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}),
    "opt": (
        "OPT",
        {
            "hidden_size": WIDTH,
            "ffn_dim": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "word_embed_proj_dim": WIDTH // 2,
            "do_layer_norm_before": False,
        },
    ),
    "bloom": ("Bloom", {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS}),
    "falcon": (
        "Falcon",
        {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
    ),
    "falcon_new": (
        "Falcon",
        {
            "hidden_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
        },
    ),
    "phi3": ("Phi3", _LLAMA),
    "qwen3": ("Qwen3", _LLAMA | {"head_dim": 8}),
    "gemma": ("Gemma", _LLAMA | {"head_dim": 8}),
    "gemma3_text": ("Gemma3", _LLAMA | {"head_dim": 8, "sliding_window": 6}),
    "olmo2": ("Olmo2", _LLAMA),
    "stablelm": ("StableLm", _LLAMA),
    "cohere": ("Cohere", _LLAMA | {"logit_scale": 0.25}),
    "granite": (
        "Granite",
        _LLAMA | {"logits_scaling": 3.0, "residual_multiplier": 0.3, "embedding_multiplier": 2.0},
    ),
    # Mixtures of experts without a matrix that every token goes through.
    "mixtral": ("Mixtral", _LLAMA | {"num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3Moe",
        _LLAMA | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "gpt_oss": (
        "GptOss",
        _LLAMA
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "sliding_window": 6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
    ),
    # One expert that every token goes through, beside the others.
    "qwen2_moe": (
        "Qwen2Moe",
        _LLAMA
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": INNER,
        },
    ),
}
EXPERTS = ("mixtral", "qwen3_moe", "gpt_oss")
"""Kinds of which routed experts are edited."""

CORE = ("gpt2", "gpt_neo", "llama", "qwen2", "gptj", "gpt_neox")
"""Kinds that every method must work on."""


@cache
def tiny_tokenizer(
    *, bos: bool = False, add_prefix_space: bool = False, trim_offsets: bool | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on SENTENCES; shared, do not change it.

    With `trim_offsets`, offsets leave out the space in front of a word (True) or hold it (False).
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(SENTENCES, trainer)
    steps: list[Any] = []
    if trim_offsets is not None:
        steps.append(
            processors.ByteLevel(trim_offsets=trim_offsets, add_prefix_space=add_prefix_space)
        )
    if bos:
        ids = [(BOS, core.token_to_id(BOS))]
        steps.append(processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=ids))
    if steps:
        core.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def tiny_model(
    kind: str,
    *,
    attention: str = "eager",
    bos: bool | None = None,
    seed: int = 0,
    **config: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model of `kind` (see KINDS) and its tokenizer.

    Unless `bos` is given, models of the GPT family come with a tokenizer without BOS, the others
    with BOS. The same arguments give the same weights. `config` replaces fields of the model's
    config.
    """
    family, fields = KINDS[kind]
    tokenizer = tiny_tokenizer(bos=not kind.startswith("gpt") if bos is None else bos)
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    settings = {"vocab_size": len(tokenizer), **ids, **fields, **config}
    settings_type = getattr(transformers, f"{family}{'Text' if 'text' in kind else ''}Config")
    model_type = getattr(
        transformers, f"{family}{'LMHeadModel' if kind == 'gpt2' else 'ForCausalLM'}"
    )
    made = settings_type(**settings)
    made._attn_implementation = attention
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_type(made).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)
                else:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        model.tie_weights()
    return model, tokenizer


def plain_keys(module: torch.nn.Module, *entering: torch.Tensor) -> torch.Tensor:
    """Keys at an edited module in a plain pass, [tokens, d_in], by what entered it.

    Of experts long keys, read off the gradients of their own forward pass: that of an output by a
    row of an expert's matrix is the expert's key times the router's weight.
    """
    if "down_proj" not in module._parameters:
        return entering[0].reshape(-1, entering[0].shape[-1])
    down: Any = module.down_proj
    given = down.detach().clone().requires_grad_()
    module._parameters["down_proj"] = given
    try:
        with torch.enable_grad():
            out = module(*(tensor.detach() for tensor in entering))
            found = [torch.autograd.grad(row[0], given, retain_graph=True)[0] for row in out]
    finally:
        module._parameters["down_proj"] = down
    side = 2 if getattr(module, "is_transposed", False) else 1
    return torch.stack([grad.select(side, 0).flatten() for grad in found])


def save_tiny(kind: str, folder: Path, **options: Any) -> Path:
    """Write a tiny model and its tokenizer to `folder`, as save_pretrained does."""
    model, tokenizer = tiny_model(kind, **options)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
