"""Edited models as checkpoints that transformers loads."""

from __future__ import annotations

from pathlib import Path

from alphaedit.core.files import atomic_folder
from alphaedit.model.handle import ModelHandle
from alphaedit.model.quantised import keep_unquantised


def save_checkpoint(handle: ModelHandle, folder: Path) -> Path:
    """Write model and tokenizer as transformers does, all or nothing.

    Raises:
        ResourceError: writing failed; what was there before is kept.
    """
    with atomic_folder(folder) as part:
        keep_unquantised(handle.model.config, handle.unquantised)
        handle.model.save_pretrained(part, safe_serialization=True)
        handle.tokenizer.save_pretrained(part)
    return folder
