"""Find and read a model and its tokenizer; whatever goes wrong is told with its remedy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from alphaedit.core.errors import (
    AlphaEditError,
    ConfigError,
    ModelError,
    NonFiniteError,
    ResourceError,
)
from alphaedit.model.quantised import quantisation
from alphaedit.model.sharded import part

BUNDLED = "bundled"


def load_pretrained(
    source: str,
    tokenizer: Any,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    bits: str | None = None,
) -> tuple[PreTrainedModel, Any]:
    """The model at `source` and its tokenizer (or the one given).

    A local directory is read without asking the network for anything.

    Args:
        source: A directory, a hub name, or the name of a bundled model.
        tokenizer: Taken as it is if not None.
        dtype: By default float32 on a CPU, and as stored on other devices.
        device: Decides the default dtype; the model is not moved, unless it is quantised. "auto"
            spreads it over the devices there are, by accelerate.
        bits: "4bit" or "8bit", to quantise by bitsandbytes.

    Raises:
        ModelError: there is no model, no tokenizer, or not one that can be edited.
        ResourceError: memory does not suffice.
    """
    where, local = resolve(source)
    config = _read(f"The config of {source}", AutoConfig.from_pretrained, where, local)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source} is an encoder-decoder model ({config.model_type}).",
            remedy="Give a decoder-only language model.",
        )
    if dtype is None:
        on_cpu = not torch.cuda.is_available()
        if device != "auto":
            on_cpu = device is None or torch.device(device).type == "cpu"
        dtype = torch.float32 if on_cpu else getattr(config, "dtype", None) or torch.float32
    options: dict[str, Any] = {}
    if bits:
        options["quantization_config"] = quantisation(bits, dtype)
        options["device_map"] = {"": device or "cpu"}
    if device == "auto":
        options["device_map"] = _spread()
    model, info = _read(
        f"{source} (as a causal language model)",
        AutoModelForCausalLM.from_pretrained,
        where,
        local,
        dtype=dtype,
        output_loading_info=True,
        **options,
    )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"The weights of {source} lack {len(missing)} tensors that the model needs: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            remedy="Download or save the model again; its config may also belong to another model.",
        )
    if tokenizer is None:
        tokenizer = _read(f"The tokenizer of {source}", AutoTokenizer.from_pretrained, where, local)
        check_tokenizer(tokenizer, source)
    return model, tokenizer


def _spread() -> str:
    """Transformers' word for a model over all devices.

    Raises:
        ConfigError: accelerate is not installed.
    """
    if find_spec("accelerate") is None:
        raise ConfigError(
            "A model over several devices needs accelerate, which is not installed.",
            remedy="pip install 'alphaedit[peft]', or name one device.",
        )
    return "auto"


def resolve(source: str) -> tuple[str, bool]:
    """Where to read `source` from, and whether that is a local directory.

    Raises:
        ModelError: `source` is a path with no model.
    """
    if source.startswith(BUNDLED):
        from alphaedit.world.asset import NAMES, path

        if source in NAMES:
            return str(path(source)), True
    folder = Path(source).expanduser()
    if folder.is_file():
        raise ModelError(f"{source} is a file.", remedy="Give the model's directory.")
    if not folder.is_dir():
        if _looks_like_path(source, folder):
            raise ModelError(
                f"There is no model at {source}.",
                remedy="Give a model directory, a hub name (owner/name), or 'bundled'.",
            )
        return source, False
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{source} is not a model directory: it has no config.json.",
            remedy="Give a directory written by save_pretrained.",
        )
    return str(folder), True


def _looks_like_path(source: str, folder: Path) -> bool:
    if source.startswith((".", "~")) or folder.is_absolute() or "\\" in source:
        return True
    return source.count("/") > 1 or ("/" in source and folder.parent.is_dir())


def _read(what: str, read: Any, where: str, local: bool, **options: Any) -> Any:
    try:
        return read(where, local_files_only=local, **options)
    except AlphaEditError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise what they like
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if _out_of_memory(error):
            raise ResourceError(
                f"{what} does not fit into memory: {lines[0]}",
                remedy="Use a smaller model, a machine with more memory, or dtype bfloat16.",
            ) from error
        raise ModelError(
            f"{what} cannot be read: {lines[0]}",
            remedy="Give a directory written by save_pretrained (config.json, weights, "
            "tokenizer.json, tokenizer_config.json), a hub name, or 'bundled'.",
        ) from error


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def check_tokenizer(tokenizer: Any, source: str) -> None:
    """Refuse a tokenizer without a vocabulary, which is what missing files can give.

    Raises:
        ModelError: the tokenizer turns text into nothing.
    """
    ids = tokenizer("The mother of two", add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not [i for i in ids if i != unknown]:
        raise ModelError(
            f"{source} has no tokenizer with a vocabulary.",
            remedy="Put tokenizer.json and tokenizer_config.json beside the weights.",
        )


def check_finite(model: nn.Module) -> None:
    """Refuse a model with NaN or infinity in a weight.

    Raises:
        NonFiniteError: names the tensor.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point() and part(tensor).numel() and not tensor.is_meta:
            # NaN goes through aminmax, which makes no copy of the tensor.
            low, high = torch.aminmax(part(tensor.detach()))
            if not bool(torch.isfinite(low) & torch.isfinite(high)):
                raise NonFiniteError(
                    f"Weight {name} holds NaN or infinity.",
                    remedy="Load an undamaged copy of the model.",
                )


def at_least_float32(stored: torch.Tensor) -> torch.dtype:
    """The dtype of `stored`, or float32 where that is wider."""
    return torch.promote_types(stored.dtype, torch.float32)


def as_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """The floating-point dtype called `name`, or None.

    Raises:
        ConfigError: there is no such dtype.
    """
    if name is None or isinstance(name, torch.dtype):
        return name
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(
            f"Unknown dtype {name!r}.", remedy="Give float32, bfloat16, float16 or float64."
        )
    return found
