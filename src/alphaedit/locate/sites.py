"""Where blocks write to the residual stream: the outputs of their MLP and of their attention."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache

from alphaedit.core.errors import ArchitectureError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_output
from alphaedit.model.structure import is_linear, linear_shape

PROBE = (5, 6, 7, 8)


def mlp_outputs(handle: ModelHandle) -> tuple[nn.Module, ...]:
    """For each block the module of the edited matrix, which ends its MLP."""
    return tuple(handle.edited_module(layer) for layer in range(handle.n_layers))


@torch.no_grad()
def attention_outputs(handle: ModelHandle) -> tuple[nn.Module, ...]:
    """For each block the linear module that ends its attention.

    Attention is what is handed the key-value cache; its output matrix is the last linear module
    inside it as wide as the residual stream. That it stands behind the mixing of tokens is tried
    out: a change of its output at one token leaves the block at that token alone.

    Raises:
        ArchitectureError: a block has no such module.
    """
    table = handle.embed.weight
    assert isinstance(table, Tensor)
    ids = torch.tensor([PROBE], device=handle.device) % table.shape[0]
    linears = _last_linear(handle, ids)
    for layer, module in enumerate(linears):
        if module is None:
            raise _refusal(handle, layer, "none was found")
    modules = tuple(module for module in linears if module is not None)
    _check(handle, ids, modules)
    return modules


def _last_linear(handle: ModelHandle, ids: Tensor) -> list[nn.Module | None]:
    """The last linear module called inside what is handed the cache, block by block."""
    called: list[nn.Module] = []
    attention: set[nn.Module] = set()

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        called.append(module)
        if any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
            attention.add(module)

    blocks = [
        [module for module in block.modules() if module is not block] for block in handle.layers
    ]
    with ExitStack() as stack:
        for module in {m for inside in blocks for m in inside}:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        handle.forward(ids, torch.ones_like(ids), cache=DynamicCache(), use_cache=True)
    linears: list[nn.Module | None] = []
    for layer, inside in enumerate(blocks):
        parts = {part for module in inside if module in attention for part in module.modules()}
        width = handle.d_out(layer)
        linear = [m for m in called if m in parts and is_linear(m) and linear_shape(m)[0] == width]
        linears.append(linear[-1] if linear else None)
    return linears


def _check(handle: ModelHandle, ids: Tensor, modules: tuple[nn.Module, ...]) -> None:
    """Change the output of module number i at the second token of row i, and see where it shows."""
    count, at = len(modules), 1
    rows = ids.expand(count + 1, -1)
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for number, (module, block) in enumerate(zip(modules, handle.layers, strict=True)):

            def change(output: Tensor, number: int = number) -> Tensor:
                copy = output.clone()
                # Not the same everywhere: a LayerNorm would take that out again.
                ramp = torch.linspace(-1, 1, output.shape[-1]) * (1 + float(output.float().std()))
                copy.view(*rows.shape, -1)[number, at] += ramp.to(output)
                return copy

            stack.enter_context(on_output(module, change))
            stack.enter_context(on_output(block, seen.append))
        handle.forward(rows, torch.ones_like(rows))
    for layer, leaving in enumerate(seen):
        change_at = (leaving[layer] - leaving[count]).float().norm(dim=-1)
        others = [i for i in range(rows.shape[1]) if i != at]
        if not change_at[at] > 0 or change_at[others].max() > 1e-3 * change_at[at]:
            raise _refusal(handle, layer, "the last one there acts on other tokens, or on none")


def _refusal(handle: ModelHandle, layer: int, why: str) -> ArchitectureError:
    block = handle.block(layer)
    return ArchitectureError(
        f"The attention's output matrix of layer {layer} ({type(block).__name__}) was not found: "
        f"{why}.",
        remedy="Looked, in what is handed the key-value cache, for a linear module (nn.Linear or "
        "Conv1D) that writes to the residual stream. Trace hidden states or the MLP instead.",
    )
