"""Edited models as checkpoints that transformers loads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils.hub import cached_file

from alphaedit.core.errors import ConfigError
from alphaedit.core.files import atomic_folder
from alphaedit.core.marks import MANIFEST
from alphaedit.model.experts import numbered
from alphaedit.model.gguf import ORIGIN
from alphaedit.model.handle import ModelHandle
from alphaedit.model.quantised import keep_unquantised
from alphaedit.model.wider import Wider

INDEX = "model.safetensors.index.json"
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt")
CHECKPOINT, LAST = "checkpoint", "config.json"
"""Kind of our manifest, and the file without which transformers loads nothing."""
ADAPTER = "adapter_config.json"
"""File by which transformers loads an adapter, and the model that it names, from a directory."""
_RIVALS = re.compile(
    r"(model|consolidated)\.safetensors|model\.safetensors\.index\.json"
    r"|pytorch_model.*\.bin|pytorch_model\.bin\.index\.json"
    r"|tf_model\.h5|model\.ckpt\.index|flax_model\.msgpack"
    r"|adapter_config\.json|adapter_model\.(safetensors|bin)"
)


def rival(name: str) -> bool:
    """Whether a file beside a checkpoint would be loaded in its place, or as a part of it."""
    return _RIVALS.fullmatch(name) is not None


def save_checkpoint(
    handle: ModelHandle,
    folder: Path,
    *,
    texts: Mapping[str, str] | None = None,
    only_ours: bool = False,
    wider: Wider | None = None,
) -> Path:
    """Write model and tokenizer, all or nothing.

    Where the files of the base are at hand, the new ones have its dtype, shards, index, config and
    tokenizer, and tensors that were not edited have its bits. Otherwise, and for quantised bases,
    they are written as transformers does. Files of other names in `folder` stay.

    Args:
        handle: the edited model.
        folder: where to write.
        texts: other files to write with it, by name.
        only_ours: in a folder that is there, replace only what we wrote and nobody changed.
        wider: neurons that MLPs get, in place of the hooks in force.

    Raises:
        ConfigError: `folder` is where the unedited model was loaded from, or lies in it; or edits
            are in force that no weights can hold.
        ResourceError: writing failed, or weights lie in `folder` that would be loaded in place of
            these; what was there before is kept.
    """
    refuse_source(handle, folder)
    if (handle.hooked and wider is None) or handle.memories:
        raise ConfigError(
            "Edits are in force that act while the model runs: no checkpoint can hold them.",
            remedy="Save the ledger, or revert them first.",
        )
    source = base_files(handle)
    with atomic_folder(
        folder, last=LAST, kind=CHECKPOINT, rivals=rival, only_ours=only_ours
    ) as part:
        if source is not None:
            _like(handle, source, part, wider)
        elif wider is not None:
            wider.model(handle).save_pretrained(part, safe_serialization=True)
        else:
            keep_unquantised(handle.model.config, handle.unquantised)
            handle.model.save_pretrained(part, safe_serialization=True)
        if not (part / "tokenizer_config.json").is_file():
            handle.tokenizer.save_pretrained(part)
        for name, text in (texts or {}).items():
            (part / name).write_text(text, encoding="utf-8")
    return folder


def refuse_source(handle: ModelHandle, folder: Path) -> None:
    """Refuse to write where the unedited model was loaded from.

    Raises:
        ConfigError: `folder` is that directory, or lies in it.
    """
    source = source_folder(handle)
    if source is not None and folder.resolve().is_relative_to(source.resolve()):
        where = "is" if folder.resolve() == source.resolve() else "lies in"
        raise ConfigError(
            f"{folder} {where} the directory that the unedited model was loaded from.",
            remedy="Choose another directory: the model's own is never written to.",
        )


def source_folder(handle: ModelHandle) -> Path | None:
    """The directory that the model was loaded from, if it is known and still there."""
    name = str(handle.model.config.name_or_path or "")
    if not name:
        return None
    folder = Path(name)
    if (folder / LAST).is_file():
        return folder
    if folder.is_absolute():
        return None
    cached = cached_file(
        name,
        LAST,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(cached).parent if cached is not None else None


def base_files(handle: ModelHandle) -> Path | None:
    """The directory of safetensors that the model was loaded from, if its names are the model's."""
    folder = source_folder(handle)
    if folder is None or getattr(handle.model, "is_quantized", False):
        return None
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


def stored_dtype(handle: ModelHandle) -> torch.dtype | None:
    """Of the edited matrices in the files of the base; None where they are not at hand."""
    source, own = base_files(handle), handle.model.state_dict()
    for shard in _shards(source) if source is not None else []:
        with safe_open(shard, "pt") as file:
            for key in file.keys():
                if _match(handle, key, own) == handle.edited_name(0):
                    dtype: torch.dtype = file.get_tensor(key).dtype
                    return dtype
    return None


def _like(handle: ModelHandle, source: Path, target: Path, wider: Wider | None) -> None:
    """Copy a base's files, with the model's values where they differ from the stored ones."""
    own = handle.model.state_dict()
    for path in source.iterdir():
        if path.name in (MANIFEST, ADAPTER, ORIGIN) or path.name.startswith(".alphaedit."):
            continue  # it lies beside the model, and is no part of it
        if path.is_file() and not path.name.endswith((*WEIGHTS, INDEX)):
            shutil.copyfile(path, target / path.name)
    if wider is not None:
        wider.write_width(target / LAST)
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
                if wider is not None and name is not None and name in wider.parameters:
                    value = wider.parameters[name].of(value)
                changed = changed or value is not stored
                tensors[key] = value
        if changed:
            save_file(tensors, target / shard.name, meta)
        else:
            shutil.copyfile(shard, target / shard.name)


def _value(handle: ModelHandle, name: str, current: Tensor, stored: Tensor) -> Tensor:
    """`stored` itself if the model holds its value, else the model's in the stored dtype."""
    if current.shape != stored.shape or torch.equal(stored.to(current.dtype), current.cpu()):
        return stored
    if name.endswith(".weight"):
        current = handle.snapshot([name])[name]
    elif stored.ndim == 3:
        return _experts(handle, name, current.cpu(), stored)
    return current.detach().cpu().to(stored.dtype).contiguous()


def _experts(handle: ModelHandle, name: str, current: Tensor, stored: Tensor) -> Tensor:
    """`stored`, with the model's values of the experts that differ."""
    value = stored.clone()
    for expert, (own, given) in enumerate(zip(current, stored, strict=True)):
        if not torch.equal(given.to(own.dtype), own):
            expert_name = numbered(name, expert)
            value[expert] = handle.snapshot([expert_name])[expert_name].cpu().to(stored.dtype)
    return value
