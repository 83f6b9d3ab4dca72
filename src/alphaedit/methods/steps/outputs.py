"""Target outputs: what the edited matrices should give so that the model says the new objects.

For families with a norm, a gate or a factor behind the MLP (Gemma 2 and 3, OLMo 2, Granite): a
change of the residual stream that was found without it may be one that no weights can deliver,
since behind a norm what a layer adds has a fixed size. Here a change of the outputs of all edited
matrices is searched together, with everything behind them in the loop, so that what is found is
what the weights can give (the paper's v* = v + delta with f(m + delta), AlphaEdit section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.relational import clamp
from alphaedit.methods.steps.rows import Group, Row, rows_of
from alphaedit.methods.steps.target_value import Chunks, Targets, in_order, search
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import See, on_output
from alphaedit.model.passes.capture import capture
from alphaedit.model.passes.tail_pass import TailPass
from alphaedit.model.precision import computing_in


class OutputGroup(Group):
    """Rows whose deltas [u, layers * d_out] are added to the outputs of the edited matrices."""

    def __init__(
        self,
        tail: TailPass,
        rows: Sequence[Row],
        weights: Mapping[int, float],
        layers: Sequence[int],
    ) -> None:
        super().__init__(tail, rows, weights)
        self.layers = layers

    def moved(self, delta: Tensor) -> Tensor:
        """See Group."""
        tail, handle = self.suffix, self.suffix.handle
        hidden = tail.clean[self.active]
        parts = delta[self.fact].unflatten(1, (len(self.layers), -1))
        with ExitStack() as stack:
            for index, layer in enumerate(self.layers):
                see = _adding(parts[:, index], hidden.shape[1])
                stack.enter_context(on_output(handle.edited_module(layer), see))
            out = tail.run(hidden, rows=self.active, reads=self.reads).to(hidden.device)
        return torch.cat([out[self.row, self.position], out[self.kl_row, self.kl_position]])


def _adding(delta: Tensor, length: int) -> See:
    """Adds delta [rows, d_out] at the first token of each row."""

    def see(output: Tensor) -> Tensor:
        # Some families run their MLP on [rows * length, d].
        shaped = output.reshape(len(delta), length, output.shape[-1])
        first = (shaped[:, :1] + delta[:, None]).to(shaped.dtype)
        return torch.cat([first, shaped[:, 1:]], dim=1).reshape(output.shape)

    return see


@dataclass
class PerLayer:
    """A Maker of free vectors, each layer's part of which has a limit of its own.

    Args:
        outputs: [u, layers, d_out] what the matrices give now.
    """

    outputs: Tensor

    def __post_init__(self) -> None:
        self.vectors = torch.zeros_like(self.outputs.flatten(1), requires_grad=True)
        norms = self.outputs.norm(dim=2)
        self.share = norms / self.outputs.flatten(1).norm(dim=1, keepdim=True).clamp_min(1e-30)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """See Maker."""
        return [self.vectors]

    def delta(self) -> Tensor:
        """See Maker."""
        return self.vectors

    def restrain(self, limit: Tensor) -> None:
        """See Maker; `limit` [u] is for all layers together."""
        layers = self.share.shape[1]
        with torch.no_grad():
            parts = self.vectors.unflatten(1, (layers, -1))
            limits = limit[:, None] * self.share
            for index in range(layers):
                parts[:, index] = clamp(parts[:, index].clone(), limits[:, index])


class _OutputChunks(Chunks):
    """Chunks of facts whose rows are run from before the first edited layer on."""

    def __init__(
        self,
        handle: ModelHandle,
        layers: Sequence[int],
        hp: Hyperparameters,
        rows: Sequence[Sequence[Row]],
        outputs: Tensor,
        progress: Progress,
    ) -> None:
        super().__init__(handle, layers[0] - 1, hp, rows, None, None, progress)
        self.layers, self.outputs = layers, outputs

    def _searched(self, chunk: Sequence[int], *, first: bool) -> tuple[Targets, int]:
        def make(tail: TailPass, rows: Sequence[Row], weights: Mapping[int, float]) -> Group:
            return OutputGroup(tail, rows, weights, self.layers)

        groups = self._groups(chunk, first=first, make=make)
        own = self.outputs[list(chunk)]
        say = self._saying(len(chunk))
        flat = own.flatten(1)
        return search(groups, len(chunk), self.hp, flat, PerLayer(own), say, clean=flat)

    def _saying(self, count: int) -> Callable[[int], None]:
        done = self.done

        def say(step: int) -> None:
            now = done + count * step // self.hp.steps
            self.progress("target values", now, len(self.rows))

        return say


def outputs_at(
    handle: ModelHandle, facts: Sequence[Fact], layers: Sequence[int]
) -> dict[int, Tensor]:
    """What the edited matrices give at the subject's last token of the bare prompts, [d_out, u]."""
    ids, lasts = [], []
    for fact in facts:
        encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
        ids.append(encoded.ids[: encoded.subject_last + 1])
        lasts.append(encoded.subject_last)
    keys, _ = capture(handle, ids, lasts, key_layers=layers)
    return {layer: handle.times_weight(layer, keys[layer].T) for layer in layers}


def find_outputs(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layers: Sequence[int],
    contexts: Sequence[str],
    hp: Hyperparameters,
    *,
    progress: Progress = silent,
) -> Targets:
    """Changes of the outputs of the edited matrices of `layers`, searched together.

    The loss and the optimiser are those of `find_targets`; |delta| and what it is measured against
    are over all layers, the clamp is each layer's own.

    Returns:
        Targets whose values and clean values are [layers * d_out, u], layer by layer.
    """
    given = outputs_at(handle, facts, layers)
    stacked = torch.stack([given[layer].T for layer in layers], dim=1)
    ends = hp.end_of_text
    rows = [rows_of(handle, i, f, contexts, end_of_text=ends) for i, f in enumerate(facts)]
    with computing_in(handle, hp.search_dtype, after=layers[0] - 1):
        return in_order(_OutputChunks(handle, layers, hp, rows, stacked, progress).run())
