"""Let part of a model compute in another dtype for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from alphaedit.core.errors import ConfigError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.quantised import is_quantised


@contextmanager
def computing_in(handle: ModelHandle, dtype: str | None, *, after: int) -> Iterator[None]:
    """While the block runs, the blocks after `after`, the final norm and the head are in `dtype`.

    What flows into them is rounded to it; everything before them computes as ever. The weights
    are copies, so that nothing is lost when it ends.

    Raises:
        ConfigError: these parts are quantised.
    """
    chosen: torch.dtype = handle.dtype if dtype is None else getattr(torch, dtype)
    with _attention_for(handle, chosen):
        if chosen == handle.dtype:
            yield
        else:
            with _cast_parts(handle, chosen, after):
                yield


@contextmanager
def _attention_for(handle: ModelHandle, dtype: torch.dtype) -> Iterator[None]:
    """Plain attention in half precision on a CPU, where the fused one's gradients are slow.

    Of two queries and twenty keys they take eight times as long (torch 2.13).
    """
    before = getattr(handle.model.config.get_text_config(), "_attn_implementation", None)
    half = dtype in (torch.bfloat16, torch.float16)
    if before != "sdpa" or not half or handle.device.type != "cpu":
        yield
        return
    handle.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        handle.model.set_attn_implementation(before)


@contextmanager
def _cast_parts(handle: ModelHandle, chosen: torch.dtype, after: int) -> Iterator[None]:
    """`computing_in` another dtype than the model's."""
    blocks = [handle.block(i) for i in range(after + 1, handle.n_layers)]
    if handle.sharded:
        raise ConfigError(
            f"A model that is split over processes cannot search in {chosen}.",
            remedy=f"Leave search_dtype out, or load the model as {chosen}.",
        )
    parts = {m for part in (*blocks, handle.final_norm, handle.head) for m in part.modules()}
    if any(is_quantised(module) for module in parts):
        raise ConfigError(
            f"A quantised model cannot search in {chosen}.",
            remedy="Leave search_dtype out: its layers compute in a dtype of their own.",
        )
    copies: dict[nn.Parameter, nn.Parameter] = {}

    def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return _cast(args, chosen), _cast(kwargs, chosen)

    with ExitStack() as stack:
        for module in parts:
            # The entries are replaced, not their data: a head may share its matrix with the
            # embeddings, which keep theirs.
            stack.callback(module._parameters.update, dict(module._parameters))
            for name, parameter in module._parameters.items():
                if parameter is None or not parameter.is_floating_point():
                    continue
                if parameter not in copies:
                    cast = parameter.detach().to(chosen)
                    copies[parameter] = nn.Parameter(cast, requires_grad=False)
                module._parameters[name] = copies[parameter]
        for part in (*blocks, handle.final_norm):
            hook = part.register_forward_pre_hook(enter, with_kwargs=True)
            stack.callback(hook.remove)
        yield


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Every floating tensor in `value` as `dtype`, infinite only where it was."""
    if isinstance(value, dict):
        return {name: _cast(item, dtype) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, Cache) or not isinstance(value, Tensor):
        return value
    if not value.is_floating_point() or value.dtype == dtype:
        return value
    limit = torch.finfo(dtype)
    # Masks hold the lowest number of their dtype, which rounds to minus infinity.
    return value.clamp(limit.min, limit.max).to(dtype)
