"""Inputs and output gradients of edited matrices, and passes with a change for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, hidden_of, on_output, stoppable

ROWS_AT_ONCE = 32

Where = Literal["all", "answer", "subject"]
"""Tokens of an edit: all, those from which its target is read, or its subject's."""


@contextmanager
def watched(
    handle: ModelHandle, layer: int, keys: dict[int, Tensor], outputs: dict[int, Tensor]
) -> Iterator[None]:
    """While the block runs, keep the inputs of the edited matrix and a handle on its outputs.

    What lies in `outputs` after a pass is zero and was added: its gradient is that of the output.
    """

    def hook(module: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        hidden = hidden_of(args, kwargs)
        assert hidden is not None
        keys[layer] = hidden.detach()
        outputs[layer] = torch.zeros_like(out, requires_grad=True)
        return out + outputs[layer]

    registered = handle.edited_module(layer).register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        registered.remove()


@contextmanager
def reading(handle: ModelHandle, read: Continuations, logits: list[Tensor]) -> Iterator[None]:
    """Append the logits [n, vocabulary] from which targets are read; only these are computed."""

    def keep_hidden(hidden: Tensor) -> None:
        shaped = hidden.reshape(*read.ids.shape, hidden.shape[-1])
        logits.append(handle.logits(shaped[read.row, read.position]))
        raise StopForward

    with stoppable(), on_output(handle.block(handle.n_layers - 1), keep_hidden):
        yield


def logits_of(handle: ModelHandle, read: Continuations) -> Tensor:
    """Logits [n, vocabulary] in float32 or wider that targets are read from; gradients flow."""
    seen: list[Tensor] = []
    if handle.structure.logit_transform is None:
        seen.append(handle.forward(read.ids, read.mask)[read.row, read.position])
    else:
        with reading(handle, read, seen):
            handle.forward(read.ids, read.mask)
    return seen[0].to(handle.wide)


@dataclass(frozen=True)
class Tokens:
    """Tokens of edits at one matrix.

    Attributes:
        inputs: u [n, d_in]; `gradients` [n, d_out] of the edit's loss at the output.
        edit: [n] the number of the edit.
    """

    inputs: Tensor
    gradients: Tensor
    edit: Tensor


def edit_tokens(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layers: Sequence[int],
    *,
    where: Where,
    fronts: Sequence[str] | None = None,
) -> dict[int, Tokens]:
    """Inputs and gradients of the edited matrices of `layers`, for edits of one fact each.

    The loss of an edit is the mean negative log-likelihood of its target's tokens.

    Args:
        where: at all tokens, at those alone from which the targets are read, or at the subject's.
        fronts: text in front of each fact's prompt, whose tokens are among "all".

    Raises:
        ModelError: a prompt and its target are longer than the model reads.
    """
    parts: dict[int, list[Tokens]] = {layer: [] for layer in layers}
    for at in range(0, len(facts), ROWS_AT_ONCE):
        rows = slice(at, at + ROWS_AT_ONCE)
        read = Continuations.of(handle, facts[rows], fronts=fronts[rows] if fronts else None)
        keys: dict[int, Tensor] = {}
        outputs: dict[int, Tensor] = {}
        with ExitStack() as stack, torch.enable_grad():
            for layer in layers:
                stack.enter_context(watched(handle, layer, keys, outputs))
            losses_of(logits_of(handle, read), read).sum().backward()
        row, position = read.row, read.position
        if where == "all":
            row, position = read.mask.to(read.row.device).nonzero(as_tuple=True)
        elif where == "subject":
            row, position = _of_subjects(handle, facts[rows], fronts[rows] if fronts else None)
        for layer in layers:
            gradient = outputs[layer].grad
            assert gradient is not None
            # Some families run their MLP on [rows * length, d].
            chosen = [
                tensor.reshape(*read.ids.shape, tensor.shape[-1])[row, position].to(handle.wide)
                for tensor in (keys[layer], gradient)
            ]
            parts[layer].append(Tokens(chosen[0], chosen[1], row + at))
    return {
        layer: Tokens(
            torch.cat([p.inputs for p in own]),
            torch.cat([p.gradients for p in own]),
            torch.cat([p.edit for p in own]),
        )
        for layer, own in parts.items()
    }


def _of_subjects(
    handle: ModelHandle, facts: Sequence[Fact], fronts: Sequence[str] | None
) -> tuple[Tensor, Tensor]:
    """Row and position of each token of the facts' subjects."""
    places = []
    for row, fact in enumerate(facts):
        front = fronts[row] if fronts else ""
        encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span, front)
        covered = range(encoded.subject_first, encoded.subject_last + 1)
        places += [(row, position) for position in covered]
    row, position = torch.tensor(places, device=handle.device).T
    return row, position


def losses_of(logits: Tensor, read: Continuations) -> Tensor:
    """Mean negative log-likelihood of each row's target, [rows]."""
    nll = F.cross_entropy(logits, read.target, reduction="none")
    return row_means(nll, read)


def row_means(values: Tensor, read: Continuations) -> Tensor:
    """Means over the target tokens of each row, [rows]; `values` [n]."""
    rows = len(read.ids)
    tokens = torch.bincount(read.row, minlength=rows)
    return values.new_zeros(rows).index_add(0, read.row, values) / tokens


@contextmanager
def for_each_row(
    handle: ModelHandle, changes: Mapping[int, tuple[Tensor, Tensor]], owner: Tensor
) -> Iterator[None]:
    """Change the edited matrices in a pass, for each row by the change of its owner.

    Args:
        changes: by layer left [e, d_out, r] and right [e, r, d_in]; gradients flow to them.
        owner: [rows] the number of the change.
    """
    with ExitStack() as stack:
        for layer, (left, right) in changes.items():
            module = handle.edited_module(layer)
            hook = _adding(left, right, owner)
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def for_all_rows(
    handle: ModelHandle, changes: Mapping[int, tuple[Tensor, Tensor]]
) -> Iterator[None]:
    """Change the edited matrices in passes, for all rows alike.

    Args:
        changes: by layer left [d_out, r] and right [r, d_in]; gradients flow to them.
    """
    with ExitStack() as stack:
        for layer, (left, right) in changes.items():
            module = handle.edited_module(layer)
            hook = _adding_to_all(left, right)
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def _adding_to_all(left: Tensor, right: Tensor) -> Any:
    def hook(module: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        hidden = hidden_of(args, kwargs)
        assert hidden is not None
        return out + ((hidden.to(right.dtype) @ right.T) @ left.T).to(out.dtype)

    return hook


def _adding(left: Tensor, right: Tensor, owner: Tensor) -> Any:
    def hook(module: object, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> Tensor:
        hidden = hidden_of(args, kwargs)
        assert hidden is not None
        rows = owner.to(out.device)
        # Some families run their MLP on [rows * length, d].
        keys = hidden.reshape(len(rows), -1, hidden.shape[-1]).to(right.dtype)
        if len(left) == 1:
            moved = (keys @ right[0].T) @ left[0].T
        else:
            inner = torch.bmm(keys, right[rows].transpose(1, 2))
            moved = torch.bmm(inner, left[rows].transpose(1, 2))
        return out + moved.reshape(out.shape).to(out.dtype)

    return hook
