"""Edited models as checkpoints that transformers loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.hub import cached_file

from alphaedit.core.files import atomic_folder
from alphaedit.model.handle import ModelHandle
from alphaedit.model.quantised import keep_unquantised

INDEX = "model.safetensors.index.json"
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt")


def save_checkpoint(handle: ModelHandle, folder: Path) -> Path:
    """Write model and tokenizer, all or nothing.

    Where the files of the base are at hand, the new ones have its dtype, shards, index, config and
    tokenizer, and tensors that were not edited have its bits. Otherwise, and for quantised bases,
    they are written as transformers does.

    Raises:
        ResourceError: writing failed; what was there before is kept.
    """
    source = base_files(handle)
    with atomic_folder(folder) as part:
        if source is not None:
            _like(handle, source, part)
        else:
            keep_unquantised(handle.model.config, handle.unquantised)
            handle.model.save_pretrained(part, safe_serialization=True)
        if not (part / "tokenizer_config.json").is_file():
            handle.tokenizer.save_pretrained(part)
    return folder


def base_files(handle: ModelHandle) -> Path | None:
    """The directory of safetensors that the model was loaded from, if its names are the model's."""
    name = str(handle.model.config.name_or_path or "")
    if not name or getattr(handle.model, "is_quantized", False):
        return None
    folder = Path(name)
    if not (folder / "config.json").is_file():
        found = None
        if not folder.is_absolute():
            found = cached_file(
                name,
                "config.json",
                local_files_only=True,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        if found is None:
            return None
        folder = Path(found).parent
    own = handle.model.state_dict()
    stored: set[str] = set()
    for shard in _shards(folder):
        with safe_open(shard, "pt") as file:
            for key in file.keys():
                match = _match(handle, key, own)
                if match and list(file.get_slice(key).get_shape()) == list(own[match].shape):
                    stored.add(match)
    edited = {handle.edited_name(layer) for layer in range(handle.n_layers)}
    return folder if edited <= stored else None


def _shards(folder: Path) -> list[Path]:
    """The files of weights: those of the index, or the only one."""
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = [folder / name for name in sorted(set(names))]
        return shards if all(shard.is_file() for shard in shards) else []
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _match(handle: ModelHandle, key: str, own: Mapping[str, Tensor]) -> str | None:
    """The model's name of a stored tensor: base models are stored without their prefix."""
    prefix = handle.model.base_model_prefix
    for name in (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")):
        if name in own:
            return name
    return None


def _like(handle: ModelHandle, source: Path, target: Path) -> None:
    """Copy a base's files, with the model's values where they differ from the stored ones."""
    own = handle.model.state_dict()
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith((*WEIGHTS, INDEX)):
            shutil.copyfile(path, target / path.name)
    if (source / INDEX).is_file():
        shutil.copyfile(source / INDEX, target / INDEX)
    for shard in _shards(source):
        tensors, changed = {}, False
        with safe_open(shard, "pt") as file:
            meta = file.metadata()
            for key in file.keys():
                stored = file.get_tensor(key)
                name = _match(handle, key, own)
                value = _value(handle, name, own[name], stored) if name else stored
                changed = changed or value is not stored
                tensors[key] = value
        if changed:
            save_file(tensors, target / shard.name, meta)
        else:
            shutil.copyfile(shard, target / shard.name)


def _value(handle: ModelHandle, name: str, held: Tensor, stored: Tensor) -> Tensor:
    """`stored` itself if the model holds its value, else the model's in the stored dtype."""
    if held.shape != stored.shape or torch.equal(stored.to(held.dtype), held.cpu()):
        return stored
    full = handle.snapshot([name])[name] if name.endswith(".weight") else held
    return full.detach().cpu().to(stored.dtype).contiguous()
