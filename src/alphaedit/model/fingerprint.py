"""A hash that tells whether numbers were computed with this model or with another."""

from __future__ import annotations

import json
from hashlib import sha256

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alphaedit.model.sharded import part, whole
from alphaedit.model.structure import Structure

_VOLATILE = ("transformers_version", "torch_dtype", "dtype", "architectures", "use_cache")


def fingerprint(model: PreTrainedModel, structure: Structure, upto_layer: int | None) -> str:
    """SHA-256 of config and weights; see `ModelHandle.fingerprint`."""
    config = model.config.to_diff_dict()
    settings = {k: v for k, v in config.items() if k[0] != "_" and k not in _VOLATILE}
    digest = sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    prefix = structure.layers_path + "."
    after = {_place(p) for m in (structure.final_norm, structure.head) for p in m.parameters()}
    after -= {_place(p) for p in structure.embed.parameters()}
    seen: set[int] = set()  # the head often is the embedding
    for name, tensor in sorted(model.state_dict().items()):
        if _place(tensor) in seen:
            continue
        if upto_layer is not None:
            if _place(tensor) in after:
                continue
            if name.startswith(prefix) and int(name[len(prefix) :].split(".")[0]) > upto_layer:
                continue
        seen.add(_place(tensor))
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = whole(tensor.detach()).cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(flat.numpy().data)
    return digest.hexdigest()


def _place(tensor: Tensor) -> int:
    return part(tensor.detach()).data_ptr()
