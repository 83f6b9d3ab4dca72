"""Which devices there are."""

from __future__ import annotations

from typing import Any

import torch

from alphaedit.core.errors import ConfigError

AUTO = "auto"


def check_device(device: Any) -> None:
    """Refuse a device that is not here, before anything is loaded onto it.

    Args:
        device: a name, a torch.device, "auto", or None.

    Raises:
        ConfigError: naming the devices there are.
    """
    if device is None or device == AUTO:
        return
    try:
        parsed = torch.device(device)
        if parsed.type == "meta":  # it holds no numbers
            raise ValueError
        torch.empty(1, device=parsed)
    except Exception as error:  # each backend has its own for what it lacks
        names = ", ".join(devices())
        raise ConfigError(
            f"There is no device {str(device)!r} here.",
            remedy=f"Devices: {names}, or auto (over all of them).",
        ) from error


def devices() -> list[str]:
    """Names of the devices there are."""
    names = [str(torch.device("cpu"))]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        names += [f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()) if kind]
    return names


def quick_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 by instructions of its own.

    Processors without them compute it step by step in float32, tens of times slower.
    """
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
