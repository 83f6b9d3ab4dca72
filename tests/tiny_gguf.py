"""Tiny models as GGUF files, written as llama.cpp's converter writes those of their families."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quantize
from tests.tiny import tiny_model
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

from alphaedit.model.gguf_meaning import family_of, tensor_names

FAMILIES = ("llama", "mistral", "gpt2", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
FAMILIES += ("bloom", "stablelm")
"""Kinds of tests.tiny that transformers reads from GGUF."""
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
_PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
_PIECES += ["▁", *(chr(code) for code in range(33, 127)), "th", "the", "▁the", "an", "▁an", "▁w"]


def save_tiny_gguf(
    kind: str,
    path: Path,
    *,
    type: str = "F32",
    metadata: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    **config: Any,
) -> Any:
    """Write a tiny model of `kind` with its matrices in `type`; the model and its tokenizer.

    `metadata` and `tensors` are added; a value of None leaves a key out.
    """
    pieces = kind.startswith("gemma")
    if pieces:
        config = {"vocab_size": len(_PIECES), **config}
    model, tokenizer = tiny_model(kind, **config)
    settings = model.config
    family = family_of(settings.model_type)
    assert family is not None
    metadata = dict(metadata or {})
    writer = GGUFWriter(path, metadata.pop("general.architecture", family))
    values = (
        _settings(settings, family) | (_pieces() if pieces else _vocabulary(tokenizer)) | metadata
    )
    for key, value in values.items():
        _add(writer, key, value)
    state = {n: t for n, t in model.state_dict().items() if n != "lm_head.weight" or _own(model)}
    layers = settings.num_hidden_layers
    for parameter, name in tensor_names(family, layers, state).items():
        numbers = _as_llama_cpp(state[parameter].float().numpy(), name, family, settings)
        wanted = GGMLQuantizationType[type] if numbers.ndim > 1 else GGMLQuantizationType.F32
        data = quantize(np.ascontiguousarray(numbers), wanted)
        writer.add_tensor(name, data, raw_dtype=wanted)
    for name, numbers in (tensors or {}).items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


def _own(model: Any) -> bool:
    return not model.config.tie_word_embeddings


def _settings(settings: Any, family: str) -> dict[str, Any]:
    """The config by llama.cpp's names, as far as transformers knows them."""
    mapping = GGUF_CONFIG_MAPPING.get(family) or GGUF_CONFIG_MAPPING[settings.model_type]
    found = {}
    for key, name in mapping.items():
        value = getattr(settings, name, None) if isinstance(name, str) else None
        if value is None and name == "rope_theta":
            rope = getattr(settings, "rope_parameters", None) or {}
            value = rope.get("full_attention", rope).get("rope_theta")
        if isinstance(value, (int, float)):
            found[f"{family}.{key}"] = value
    found.pop(f"{family}.vocab_size", None)
    found[f"{family}.block_count"] = settings.num_hidden_layers
    if family == "gpt2":
        found |= {"gpt2.context_length": settings.n_positions}
        found |= {"gpt2.feed_forward_length": settings.n_inner}
    if family == "qwen3":
        found["qwen3.attention.key_length"] = settings.head_dim
    return found


def _vocabulary(tokenizer: Any) -> dict[str, Any]:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = set(tokenizer.all_special_ids)
    kinds = [CONTROL if i in special else NORMAL for i in range(len(tokens))]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    begins = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.unknown_token_id": tokenizer.pad_token_id,
        "tokenizer.ggml.add_bos_token": begins,
    }


def _pieces() -> dict[str, Any]:
    """A vocabulary as Gemma has it."""
    kinds = [CONTROL] * 3 + [UNKNOWN] + [BYTE] * 256
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": _PIECES,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(_PIECES))],
        "tokenizer.ggml.token_type": kinds + [NORMAL] * (len(_PIECES) - len(kinds)),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
    }


def _add(writer: Any, key: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _as_llama_cpp(numbers: Any, name: str, family: str, settings: Any) -> Any:
    """What llama.cpp's converter does to a tensor's values and layout."""
    if family == "llama" and (".attn_q." in name or ".attn_k." in name):
        heads = settings.num_attention_heads
        heads = heads if ".attn_q." in name else settings.num_key_value_heads
        cut = numbers.reshape(heads, 2, numbers.shape[0] // heads // 2, *numbers.shape[1:])
        return cut.swapaxes(1, 2).reshape(numbers.shape)
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return numbers + 1
    if family == "gpt2" and numbers.ndim == 2 and name.startswith("blk."):
        return numbers.T
    if family == "bloom" and "attn_qkv" in name:
        heads = settings.n_head
        cut = numbers.reshape(heads, 3, -1, *numbers.shape[1:])
        return cut.swapaxes(0, 1).reshape(numbers.shape)
    return numbers
