"""Quantised linear modules: read as plain matrices, opened when they are written to.

Only the edited matrices of a 4-bit or 8-bit model are ever dequantised; the rest stays as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from alphaedit.core.errors import ArchitectureError, ConfigError, ModelError

BITS = {"4bit": "load_in_4bit", "8bit": "load_in_8bit"}
"""Names of quantisations, as a dtype is named, and their setting of transformers."""
METHOD = "bitsandbytes"


def is_quantised(module: nn.Module) -> bool:
    """Whether `module` keeps its weight in integers."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and not weight.is_floating_point()


@torch.no_grad()
def dequantised(module: nn.Module) -> Tensor:
    """The weight [d_out, d_in] of a quantised module, in the dtype it computes in.

    Reads bitsandbytes' 4-bit modules (``weight.quant_state``) and its 8-bit ones (rows of int8
    ``CB`` times their scale ``SCB`` / 127).

    Raises:
        ArchitectureError: it is quantised in another way.
    """
    weight: Any = module.weight
    state = getattr(weight, "quant_state", None)
    if state is not None:
        from bitsandbytes import functional  # type: ignore[import-not-found, unused-ignore]

        full: Tensor = functional.dequantize_4bit(weight.data, state)
        return full.to(_compute_dtype(module, full.dtype))
    # bitsandbytes moves both from the weight to the module's state in the first pass.
    for holder in (weight, getattr(module, "state", None)):
        rows, scale = getattr(holder, "CB", None), getattr(holder, "SCB", None)
        if isinstance(rows, Tensor) and isinstance(scale, Tensor):
            full = rows.float() * scale.float()[:, None] / 127
            return full.to(_compute_dtype(module, torch.float16))
    raise ArchitectureError(
        f"{type(module).__name__} keeps its weight as {weight.dtype} in a way that was not "
        "understood.",
        remedy="Looked for bitsandbytes' 4-bit (weight.quant_state) and 8-bit (CB and SCB) "
        "modules. Load the model unquantised.",
    )


def _compute_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    dtype = getattr(module, "compute_dtype", None)
    if isinstance(dtype, torch.dtype):
        return dtype
    bias = getattr(module, "bias", None)
    return bias.dtype if isinstance(bias, Tensor) and bias.is_floating_point() else default


def opened(module: nn.Module) -> nn.Linear:
    """A plain module that computes with the dequantised weight of `module`."""
    weight = dequantised(module)
    plain = nn.Linear(1, 1, bias=False, device="meta")
    plain.out_features, plain.in_features = weight.shape
    plain.weight = nn.Parameter(weight, requires_grad=False)
    bias = getattr(module, "bias", None)
    if bias is not None:
        plain.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return plain.eval()


def check_quantisation(config: Any) -> None:
    """Refuse a model that is quantised by something else than bitsandbytes.

    Raises:
        ModelError: naming what it is quantised by.
    """
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    if isinstance(settings, dict):
        method = settings.get("quant_method")
    else:
        method = getattr(settings, "quant_method", settings)
    name = str(getattr(method, "value", method))
    if name != METHOD:
        raise ModelError(
            f"The model is quantised by {name}, whose matrices cannot be edited.",
            remedy="Give the unquantised model, or load it with --dtype 4bit or 8bit "
            "(bitsandbytes).",
        )


def quantisation(bits: str, compute: torch.dtype) -> Any:
    """Transformers' setting for loading in "4bit" or "8bit".

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # type: ignore[import-not-found, unused-ignore]  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"Loading in {bits} needs bitsandbytes, which is not installed.",
            remedy="pip install 'alphaedit[quant]'",
        ) from None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**{BITS[bits]: True}, bnb_4bit_compute_dtype=compute)


def keep_unquantised(config: Any, names: list[str]) -> None:
    """Note in the config that the modules `names` are not quantised, for who loads it."""
    settings = getattr(config, "quantization_config", None)
    if settings is None or not names:
        return
    if isinstance(settings, dict):
        skipped = settings.get("llm_int8_skip_modules") or []
        settings["llm_int8_skip_modules"] = sorted({*skipped, *names})
    else:
        skipped = getattr(settings, "llm_int8_skip_modules", None) or []
        settings.llm_int8_skip_modules = sorted({*skipped, *names})
