"""Find the parts of a causal language model by watching one short forward pass.

No table of names: blocks are the modules of a list that feed one another, attention is what is
given the key-value cache, the edited matrix is the last linear module outside it, or those of the
routed experts where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.pytorch_utils import Conv1D

from alphaedit.core.errors import AlphaEditError, ArchitectureError, ModelError, NonFiniteError
from alphaedit.model.experts import LOOKED_FOR, Routed, check_experts, is_experts, routed
from alphaedit.model.hooks import hidden_of, output_of
from alphaedit.model.logit_transform import LogitTransform, find_logit_transform
from alphaedit.model.memory import is_out_of_memory

REMEDY = "Give a decoder-only language model such as GPT-2, GPT-Neo, GPT-J, GPT-NeoX or Llama."


@dataclass(frozen=True, eq=False)
class Structure:
    """The parts of a model that editing needs.

    Attributes:
        layers: the decoder blocks, in the order they run.
        layers_path: name of their list in the model.
        edited: for each block, the name of the MLP's output module, or of its routed experts'.
        firing: for each block, how many experts a token is routed to; 0 where none are edited.
        final_norm: what stands between the last block and the head.
        head: hidden states to logits.
        embed: token ids to vectors.
        logit_transform: from the head's output to the model's logits; None if not understood.
    """

    layers: nn.ModuleList
    layers_path: str
    edited: tuple[str, ...]
    firing: tuple[int, ...]
    final_norm: nn.Module
    head: nn.Module
    embed: nn.Module
    logit_transform: LogitTransform | None


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a module during the probe; children come before their parents."""

    path: str
    module: nn.Module
    hidden: Tensor | None
    output: Tensor | None
    cached: bool
    routed: Routed | None = None


def is_linear(module: nn.Module) -> bool:
    """Whether `module` multiplies by a weight matrix that we know how to read."""
    return isinstance(module, (nn.Linear, Conv1D))


def is_transposed(module: nn.Module) -> bool:
    """Whether `module` stores its weight as [d_in, d_out]."""
    return isinstance(module, Conv1D)


def turned(matrix: Tensor, module: nn.Module) -> Tensor:
    """[d_out, d_in] to the way `module` stores it, and back."""
    return matrix.T if is_transposed(module) else matrix


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """``(d_out, d_in)`` of a linear module."""
    if isinstance(module, Conv1D):
        return int(module.weight.shape[1]), int(module.weight.shape[0])
    assert isinstance(module, nn.Linear)
    return module.out_features, module.in_features


def find_structure(model: PreTrainedModel) -> Structure:
    """Watch `model` read two short sequences, and tell its parts from what it does.

    Raises:
        ModelError: the model is not causal, cannot read token ids and return logits, or gives the
            same logit to every token.
        NonFiniteError: it computes NaN or infinity.
        ArchitectureError: a part was not found; the message says what was looked for.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{_kind(model)} has no language-model head.", remedy=REMEDY)
    calls, logits = _probe(model)
    path, layers = _find_layers(model, calls)
    head_call = next((c for c in calls if c.module is head), None)
    if head_call is None or head_call.hidden is None:
        raise ArchitectureError(
            f"{_kind(model)} does not call its head {type(head).__name__}.",
            remedy="Looked for a call of get_output_embeddings() in the forward pass.",
        )
    edited = [_find_edited(calls, f"{path}.{i}", block) for i, block in enumerate(layers)]
    return Structure(
        layers=layers,
        layers_path=path,
        edited=tuple(call.path for call in edited),
        firing=tuple(0 if c.routed is None else c.routed.index.shape[1] for c in edited),
        final_norm=_find_final_norm(model, calls, layers[-1], head_call),
        head=head,
        embed=model.get_input_embeddings(),
        logit_transform=None
        if head_call.output is None
        else find_logit_transform(model.config.get_text_config(), head_call.output, logits),
    )


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _holds_cache(values: Sequence[Any]) -> bool:
    return any(isinstance(value, Cache) for value in values)


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _probe(model: PreTrainedModel) -> tuple[list[_Call], Tensor]:
    """All calls of modules while the model reads two sequences that differ in the last token."""
    calls: list[_Call] = []
    names = {module: name for name, module in model.named_modules()}

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        hidden, output = _copy(hidden_of(args, kwargs)), _copy(output_of(out))
        cached = _holds_cache([*args, *kwargs.values()])
        entered = routed(module, args, kwargs) if is_experts(module) else None
        calls.append(_Call(names[module], module, hidden, output, cached, entered))

    table = model.get_input_embeddings().weight
    assert isinstance(table, Tensor)
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=table.device) % table.shape[0]
    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in names]
    try:
        with torch.no_grad():
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
        logits = getattr(out, "logits", None)
    except AlphaEditError:
        raise
    except Exception as error:  # the model's own code may do anything
        if is_out_of_memory(error):
            raise
        raise ModelError(
            f"{_kind(model)} cannot be run as a causal language model: {error}", remedy=REMEDY
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        raise ModelError(f"{_kind(model)} returns no logits.", remedy=REMEDY)
    _check_numbers(model, calls, logits)
    first, second = logits[:, :-1].float()
    # The two rows go through one kernel: in a causal model they differ by rounding at most.
    bound = 1e-5 if logits.dtype in (torch.float32, torch.float64) else 1e-3
    if (first - second).norm() > bound * first.norm():
        raise ModelError(
            f"{_kind(model)} is not causal: a token changes what is predicted before it.",
            remedy=REMEDY,
        )
    return calls, logits


def _check_numbers(model: PreTrainedModel, calls: list[_Call], logits: Tensor) -> None:
    """Refuse a model that computes no numbers, or the same one for every token.

    Raises:
        NonFiniteError: naming the module where NaN or infinity begins.
        ModelError: it predicts all tokens alike.
    """
    if not bool(logits.isfinite().all()):
        bad = (c.path for c in calls if c.output is not None and not c.output.isfinite().all())
        raise NonFiniteError(
            f"{_kind(model)} computes NaN or infinity, first in {next(bad, '') or 'its logits'}, "
            f"though its weights are finite (in {str(logits.dtype).removeprefix('torch.')}).",
            remedy="Load an undamaged copy of the model, or give a wider dtype, such as float32.",
        )
    if bool((logits == logits[..., :1]).all()):
        raise ModelError(
            f"{_kind(model)} predicts every token alike, whatever it reads: its weights are zero, "
            "too large to compute with, or were never set.",
            remedy="Load an undamaged copy of the model.",
        )


def _same(first: Tensor | None, second: Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def _find_layers(model: PreTrainedModel, calls: list[_Call]) -> tuple[str, nn.ModuleList]:
    by_module: dict[nn.Module, list[_Call]] = {}
    for call in calls:
        by_module.setdefault(call.module, []).append(call)
    candidates: list[tuple[str, nn.ModuleList]] = []
    for path, blocks in model.named_modules():
        if not isinstance(blocks, nn.ModuleList) or not blocks:
            continue
        if len({type(block) for block in blocks}) > 1:
            continue
        runs = [by_module.get(block, []) for block in blocks]
        if any(len(run) != 1 or run[0].hidden is None for run in runs):
            continue
        chain = [run[0] for run in runs]
        if all(_same(a.output, b.hidden) for a, b in pairwise(chain)):
            candidates.append((path, blocks))
    if not candidates:
        raise ArchitectureError(
            f"No decoder blocks were found in {_kind(model)}.",
            remedy="Looked for a ModuleList whose modules share a type and run once each, every "
            "one reading the hidden states that the one before returned.",
        )
    return max(candidates, key=lambda item: len(item[1]))


def _find_edited(calls: list[_Call], path: str, block: nn.Module) -> _Call:
    """The last linear module of `block` that writes to the residual stream, no attention.

    Attention is any module inside the block that is handed the key-value cache. Where nothing else
    is linear, the experts that tokens are routed to.
    """
    inside = [c for c in calls if c.path.startswith(path + ".")]
    outputs = [c.output for c in calls if c.module is block]
    width = outputs[0].shape[-1] if outputs[0] is not None else -1
    attention = tuple(c.path + "." for c in inside if c.cached)
    free = [
        c
        for c in inside
        if is_linear(c.module)
        and linear_shape(c.module)[0] == width
        and not (attention and c.path.startswith(attention))
    ]
    looked = (
        f"Looked, outside attention, for a linear module (nn.Linear or Conv1D) of {width} outputs "
        "that runs last; experts with modules of their own and fused or wrapped layers have none "
        "or several."
    )
    if not free:
        return _find_experts(inside, path, block, looked)
    parents = {c.path.rpartition(".")[0] for c in free}
    if len(parents) > 1:
        names = ", ".join(sorted({c.path for c in free})[:4])
        raise ArchitectureError(
            f"The MLP output matrix of block {path} ({_kind(block)}) is ambiguous: {names}.",
            remedy=looked,
        )
    return free[-1]


def _find_experts(inside: list[_Call], path: str, block: nn.Module, looked: str) -> _Call:
    """The call of the one module of routed experts in a block without a free linear module."""
    candidates = [c for c in inside if is_experts(c.module)]
    if len(candidates) == 1:
        (call,) = candidates
        check_experts(call.path, call.routed, call.module, call.output)
        return call
    if candidates or any(p.ndim == 3 for p in block.parameters()):
        raise ArchitectureError(
            f"The MLP of block {path} ({_kind(block)}) is a mixture of experts of a kind that was "
            "not understood.",
            remedy=LOOKED_FOR,
        )
    raise ArchitectureError(
        f"No MLP output matrix was found in block {path} ({_kind(block)}).", remedy=looked
    )


def _find_final_norm(
    model: PreTrainedModel, calls: list[_Call], last: nn.Module, head: _Call
) -> nn.Module:
    """The modules through which the last block's output reaches the head, as one module."""
    start = next(i for i, c in enumerate(calls) if c.module is last)
    rest = [c for c in calls[start + 1 :] if not f"{head.path}.".startswith(f"{c.path}.")]
    current, chain = calls[start].output, list[nn.Module]()
    while not _same(current, head.hidden):
        readers = [c for c in rest if _same(c.hidden, current) and c.module not in chain]
        if not readers or len(chain) > 4:
            raise ArchitectureError(
                f"What {_kind(model)} does between its last block and its head was not understood.",
                remedy="Looked for modules (a final norm) that turn the one's output into the "
                "other's input.",
            )
        outermost = min(readers, key=lambda c: c.path.count("."))
        chain.append(outermost.module)
        current = outermost.output
    if not chain:
        return nn.Identity()
    return chain[0] if len(chain) == 1 else nn.Sequential(*chain)
