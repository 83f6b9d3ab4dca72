"""Find and read a model and its tokenizer; whatever goes wrong is told with its remedy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from alphaedit.core.errors import (
    ConfigError,
    ModelError,
    NonFiniteError,
    ResourceError,
)
from alphaedit.model.devices import AUTO, check_device
from alphaedit.model.quantised import BITS, check_quantisation, quantisation
from alphaedit.model.sharded import part
from alphaedit.model.source import check_config, check_files, check_headers, resolve, weight_bytes
from alphaedit.model.told import AGAIN, told

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DENSEST = 16
"""Numbers that one byte of a weights file can hold: more than any quantisation puts there."""
LITTLE = 10_000_000
"""So many parameters can be made for nothing: what the weights lack is then told by name."""


def load_model(
    source: Any,
    tokenizer: Any,
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    trust_remote_code: bool,
) -> tuple[PreTrainedModel, Any]:
    """A model and its tokenizer where and as they are wanted; see `ModelHandle.load`."""
    check_device(device)
    bits = dtype if isinstance(dtype, str) and dtype in BITS else None
    chosen = None if bits else as_dtype(dtype)
    if isinstance(source, (str, Path)):
        model, tokenizer = load_pretrained(
            str(source),
            tokenizer,
            dtype=chosen,
            device=device,
            bits=bits,
            trust_remote_code=trust_remote_code,
        )
    else:
        if tokenizer is None:
            raise ModelError("A loaded model needs its tokenizer.", remedy="Give both.")
        if bits:
            raise ConfigError("A loaded model cannot be quantised.", remedy="Give its name.")
        model = source
    moved: Any = model
    # A quantised one is where it computes; it must not be moved or cast.
    if not getattr(model, "is_quantized", False):
        with told("The model"):
            if device is not None and device != AUTO:
                moved = moved.to(device)
            if chosen is not None:
                moved = moved.to(chosen)
    return moved, tokenizer


def load_pretrained(
    source: str,
    tokenizer: Any,
    *,
    dtype: torch.dtype | None,
    device: str | torch.device | None,
    bits: str | None = None,
    trust_remote_code: bool = False,
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
    config = read_config(source, trust_remote_code=trust_remote_code)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source} is an encoder-decoder model ({config.model_type}).",
            remedy="Give a decoder-only language model.",
        )
    check_quantisation(config)
    if local:
        with told(f"What {source} holds"):
            check_headers(Path(where))
    dtype = dtype or _default_dtype(device, config)
    options: dict[str, Any] = {}
    if bits:
        options["quantization_config"] = quantisation(bits, dtype)
        options["device_map"] = {"": device or "cpu"}
    if device == AUTO:
        options["device_map"] = _spread()
    _check_room(skeleton(config, source, trust_remote_code), source, dtype, device, bits)
    with told(f"{source} (as a causal language model)"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where,
            local_files_only=local,
            trust_remote_code=trust_remote_code,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, with their sizes
            **options,
        )
    model, info = loaded
    _check_complete(info, source)
    if tokenizer is None:
        tokenizer = read_tokenizer(source, trust_remote_code=trust_remote_code)
    return model, tokenizer


def read_config(source: str, *, trust_remote_code: bool = False) -> Any:
    """The config of the model at `source`; nothing is built.

    Raises:
        ModelError: there is none, it cannot be read, is impossible, or needs foreign code.
    """
    where, local = resolve(source, weights=False)
    if local:
        check_files(Path(where))
    with told(f"The config of {source}"):
        raw, _ = PreTrainedConfig.get_config_dict(where, local_files_only=local)
        check_config(raw, source, trust_remote_code=trust_remote_code)
        return AutoConfig.from_pretrained(
            where, local_files_only=local, trust_remote_code=trust_remote_code
        )


def read_tokenizer(source: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of the model at `source`.

    Raises:
        ModelError: there is none, or it cannot be read or has no vocabulary.
    """
    where, local = resolve(source, weights=False)
    with told(f"The tokenizer of {source}"):
        tokenizer = AutoTokenizer.from_pretrained(
            where, local_files_only=local, trust_remote_code=trust_remote_code
        )
        check_tokenizer(tokenizer, source)
    return tokenizer


def skeleton(config: Any, source: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a config without any numbers in it.

    Raises:
        ModelError: the config does not make a causal language model.
    """
    with told(f"The config of {source}"), torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=trust_remote_code
        )
    return model


def _default_dtype(device: Any, config: Any) -> torch.dtype:
    on_cpu = not torch.cuda.is_available()
    if device != AUTO:
        on_cpu = device is None or torch.device(device).type == "cpu"
    stored = getattr(config, "dtype", None)
    return torch.float32 if on_cpu or not isinstance(stored, torch.dtype) else stored


def _check_room(
    model: PreTrainedModel, source: str, dtype: torch.dtype, device: Any, bits: str | None
) -> None:
    """Refuse a model that its files cannot hold, or memory: building it would take the machine's.

    Raises:
        ModelError: the config asks for more than the files of weights hold.
        ResourceError: the model is to stay on the CPU and does not fit there.
    """
    where, local = resolve(source)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    file_bytes = weight_bytes(Path(where)) if local else 0
    if file_bytes and numbers > max(DENSEST * file_bytes, LITTLE):
        raise ModelError(
            f"The config of {source} asks for {numbers:,} parameters, and its files of weights "
            f"have {file_bytes:,} bytes.",
            remedy=AGAIN,
        )
    if device is not None and (device == AUTO or torch.device(device).type != "cpu"):
        return
    quantised = bits or getattr(model.config, "quantization_config", None)
    need = numbers * (0.5 if quantised else dtype.itemsize)
    need += sum(b.numel() * b.element_size() for b in model.buffers())
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    if need > free:
        raise ResourceError(
            f"{source} does not fit into memory: its weights take {need / 1e9:,.1f} GB, and "
            f"{free / 1e9:,.1f} GB are free.",
            remedy="Use a smaller model, a machine with more memory, or dtype bfloat16.",
        )


def _check_complete(info: dict[str, Any], source: str) -> None:
    """Refuse weights that are not those that the config speaks of.

    Raises:
        ModelError: tensors have another shape, or are missing.
    """
    wrong = sorted(info.get("mismatched_keys") or ())
    if wrong:
        name, stored, wanted = wrong[0]
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ModelError(
            f"The weights of {source} do not fit its config: {name} has shape {tuple(stored)} "
            f"where the config asks for {tuple(wanted)}{more}.",
            remedy=AGAIN,
        )
    missing = sorted(info.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"The weights of {source} lack {len(missing)} tensors that the model needs: "
            f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}",
            remedy=AGAIN,
        )


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
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype) or dtype not in DTYPES:
        raise ConfigError(
            f"Unknown dtype {name!r}.", remedy="Give float32, bfloat16, float16 or float64."
        )
    return dtype
