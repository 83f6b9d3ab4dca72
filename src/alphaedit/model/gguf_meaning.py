"""What a GGUF file says that transformers' reader leaves out, and its names for tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alphaedit.core.errors import GGUFWarning, ModelError
from alphaedit.model.gguf_file import Header

FAMILIES = {
    "mistral": "llama",
    "mixtral": "llama",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "cohere": "command-r",
    "gpt_bigcode": "starcoder",
    "olmo3": "olmo2",
    "gpt_oss": "gpt-oss",
}
"""llama.cpp's names of families where they are not those of transformers."""

_LLAMA3 = ("llama3", "llama-v3", "llama-bpe")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Vocabularies that cut numbers into digits before anything else."""
_SIZES = {
    "gpt2": {"context_length": "n_positions", "feed_forward_length": "n_inner"},
    "qwen3": {"attention.key_length": "head_dim"},
}
"""Sizes that a family's common models have by default, and others tell."""
_POSITIONS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")


def family_of(model_type: str) -> str | None:
    """llama.cpp's name of a family of transformers; None if it has none."""
    from gguf.constants import MODEL_ARCH_NAMES

    plain = model_type.removesuffix("_text")
    for name in (FAMILIES.get(plain, plain), plain.replace("_", ""), plain.replace("_", "-")):
        if name in MODEL_ARCH_NAMES.values():
            return name
    return None


def tensor_names(family: str, layers: int, parameters: Iterable[str]) -> dict[str, str]:
    """Names in a GGUF file of a model's parameters, as far as they have one.

    Args:
        family: llama.cpp's name of it.
        layers: how many blocks the model has.
        parameters: names as `named_parameters` gives them.

    Raises:
        ModelError: the gguf package does not know the family.
    """
    from gguf.constants import MODEL_ARCH_NAMES
    from gguf.tensor_mapping import get_tensor_name_map

    known = {name: arch for arch, name in MODEL_ARCH_NAMES.items()}
    if family not in known:
        raise ModelError(
            f"llama.cpp's family {family!r} is unknown to the installed gguf package.",
            remedy="pip install --upgrade gguf",
        )
    names = get_tensor_name_map(known[family], layers)
    by_parameter = {}
    for parameter in parameters:
        path, _, kind = parameter.rpartition(".")
        while path:
            # Some families are named without the prefix that the causal model has.
            name = names.get_name(path)
            if name is not None:
                by_parameter[parameter] = f"{name}.{kind}"
                break
            path = path.partition(".")[2]
    return by_parameter


def warn_of_unread(header: Header, model: Any) -> None:
    """Warn of tensors in the file that no parameter of `model` was filled from."""
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", 0)
    names = tensor_names(header.architecture, layers, dict(model.state_dict()))
    unread = set(header.tensors) - set(names.values()) - set(_POSITIONS)
    # Experts are stacked, and their names are not those of parameters.
    unread = {name for name in unread if "exp" not in name}
    if unread:
        some = ", ".join(sorted(unread)[:3])
        warnings.warn(
            GGUFWarning(
                f"{header.path} has {len(unread)} tensors that transformers does not read ({some}"
                f"{', ...' if len(unread) > 3 else ''}): engines may compute otherwise. Give the "
                "model's original checkpoint where answers differ."
            ),
            stacklevel=2,
        )


def complete_config(config: Any, header: Header) -> Any:
    """`config` with what the file tells and transformers does not read: sizes, positions."""
    text = config.get_text_config()
    for key, name in _SIZES.get(header.architecture, {}).items():
        value = header.metadata.get(f"{header.architecture}.{key}")
        if isinstance(value, int):
            setattr(text, name, value)
    before = getattr(text, "rope_parameters", None)
    rope = before.get("full_attention", before) if isinstance(before, dict) else {}
    if rope.get("rope_type", "default") != "default":
        return config
    scaling = _scaling(header, text)
    if scaling is None:
        return config
    if isinstance(before, dict) and "full_attention" in before:
        text.rope_parameters = {**before, "full_attention": {**rope, **scaling}}
    elif isinstance(before, dict):
        text.rope_parameters = {**before, **scaling}
    else:
        text.rope_scaling = scaling
    return config


def _scaling(header: Header, config: Any) -> dict[str, Any] | None:
    key = f"{header.architecture}.rope.scaling."
    kind = header.metadata.get(key + "type", "none")
    factor = float(header.metadata.get(key + "factor", 1.0))
    length = header.metadata.get(key + "original_context_length")
    if "rope_freqs.weight" in header.tensors:
        return _llama3(header, config)
    if "rope_factors_long.weight" in header.tensors or kind == "longrope":
        _warn_of_positions(header, "longrope")
        return None
    if factor == 1.0 or kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and length:
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": int(length),
        }
    _warn_of_positions(header, kind)
    return None


def _llama3(header: Header, config: Any) -> dict[str, Any] | None:
    """The scaling of Llama 3.1 and later, whose factors are a tensor in the file."""
    stored = header.tensors["rope_freqs.weight"]
    with header.path.open("rb") as file:
        file.seek(stored.start)
        factors = np.frombuffer(file.read(stored.size), "<f4") if stored.type == 0 else None
    base = float(header.metadata.get(f"{header.architecture}.rope.freq_base", 10000.0))
    if factors is not None and len(factors):
        scaling = {
            "rope_type": "llama3",
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        if np.allclose(factors, llama3_factors(base, len(factors), scaling), rtol=1e-3):
            return scaling
    _warn_of_positions(header, "by a tensor")
    return None


def llama3_factors(base: float, count: int, scaling: dict[str, Any]) -> NDArray[np.float64]:
    """What llama.cpp's converter divides the frequencies of Llama 3.1 by, [count]."""
    length, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = length * base ** (-np.arange(count) / count) / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))


def _warn_of_positions(header: Header, kind: str) -> None:
    warnings.warn(
        GGUFWarning(
            f"{header.path} scales positions ({kind}) in a way that is not read: long texts are "
            "understood otherwise than in llama.cpp. Give the model's original checkpoint for them."
        ),
        stacklevel=2,
    )


def complete_tokenizer(tokenizer: Any, header: Header) -> None:
    """Make `tokenizer` split numbers and begin texts as llama.cpp does with this vocabulary."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return
    kind = header.metadata.get("tokenizer.ggml.pre")
    byte_level = header.metadata.get("tokenizer.ggml.model") == "gpt2"
    if byte_level and kind in _DIGITS:
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        core.pre_tokenizer = Sequence(
            [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        )
    if byte_level and kind in _LLAMA3:
        core.model.ignore_merges = True
    wanted = header.metadata.get("tokenizer.ggml.add_bos_token")
    if wanted is None and byte_level:
        wanted = kind in _LLAMA3
    bos = tokenizer.bos_token_id
    if wanted is None or bos is None:
        return
    begins = tokenizer("a")["input_ids"][:1] == [bos]
    if wanted and not begins:
        _begin_with(core, tokenizer.bos_token, bos)
    elif begins and not wanted:
        from tokenizers.processors import ByteLevel as Plain

        core.post_processor = Plain(trim_offsets=False)


def _begin_with(core: Any, token: str, number: int) -> None:
    from tokenizers.processors import ByteLevel, Sequence, TemplateProcessing

    template = TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, number)]
    )
    core.post_processor = Sequence([ByteLevel(trim_offsets=False), template])
