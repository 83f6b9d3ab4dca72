"""The sizes of a model, from its config alone: no weights are read or made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from alphaedit.core.errors import ArchitectureError
from alphaedit.model.experts import Experts, is_experts
from alphaedit.model.load import read_config, skeleton
from alphaedit.model.structure import is_linear, linear_shape
from alphaedit.model.told import told


@dataclass(frozen=True)
class Shape:
    """What the cost of editing depends on.

    Attributes:
        layers: decoder blocks.
        width: size of the residual stream, d_out of the edited matrices.
        inner: size of the keys, d_in; of those of one expert in a mixture.
        vocabulary: rows of the head.
        block: parameters of a block's matrices that a token goes through.
        parameters: of the whole model.
        dtype: that the weights are stored in.
        facts: what presets know models by.
        experts: of a layer that are edited, 1 where all tokens go one way.
        firing: how many of them fire for a token.
    """

    layers: int
    width: int
    inner: int
    vocabulary: int
    block: int
    parameters: int
    dtype: torch.dtype
    facts: Mapping[str, Any]
    experts: int = 1
    firing: int = 1


def shape_of(source: str, *, trust_remote_code: bool = False) -> Shape:
    """The shape of the model at `source`, built on the meta device.

    Args:
        trust_remote_code: run Python code that comes with the model.

    Raises:
        ModelError: there is no such model, or its config cannot be read.
        ArchitectureError: no blocks with a matrix back into the residual stream were found.
    """
    config = read_config(source, trust_remote_code=trust_remote_code)
    model = skeleton(config, source, trust_remote_code)
    with told(f"The config of {source}"):
        return _shape(config, model)


def _shape(config: Any, model: PreTrainedModel) -> Shape:
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]
    blocks = max(lists, key=_size, default=None)
    table: Any = model.get_input_embeddings().weight
    width = int(table.shape[1])
    inner = 0
    if blocks is not None:
        width = getattr(config.get_text_config(), "hidden_size", width)
        shapes = [linear_shape(m) for m in blocks[0].modules() if is_linear(m)]
        inner = max((d_in for d_out, d_in in shapes if d_out == width), default=0)
    routed = None if blocks is None else _routed(blocks[0], width)
    inner = inner if routed is None else routed.d_in
    if blocks is None or not inner:
        raise ArchitectureError(
            f"{type(model).__name__} has no list of blocks with a matrix of {width} rows.",
            remedy="Plans are for decoder-only models whose MLPs end in a linear layer.",
        )
    stored = getattr(config, "dtype", None)
    count = 1 if routed is None else routed.count
    firing = min(count, getattr(config.get_text_config(), "num_experts_per_tok", None) or count)
    return Shape(
        layers=len(blocks),
        width=width,
        inner=inner,
        vocabulary=table.shape[0],
        block=sum(
            p.numel() * firing // count if p.ndim == 3 else p.numel()
            for p in blocks[0].parameters()
            if p.ndim > 1
        ),
        parameters=_size(model),
        dtype=stored if isinstance(stored, torch.dtype) else torch.float32,
        facts={
            "model_type": config.get_text_config().model_type,
            "layers": len(blocks),
            "width": width,
            "inner": inner,
            "bundled": getattr(config, "alphaedit_world", None) is not None,
        },
        experts=count,
        firing=firing,
    )


def _routed(block: nn.Module, width: int) -> Experts | None:
    """The experts of `block` that would be edited: those without a matrix of all beside them."""
    for parent in block.modules():
        experts = [part for part in parent.children() if is_experts(part)]
        beside = [m for m in parent.modules() if is_linear(m) and linear_shape(m)[0] == width]
        if experts and not beside:
            return Experts(experts[0])
    return None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
