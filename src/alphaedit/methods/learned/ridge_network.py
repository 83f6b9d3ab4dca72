"""The network whose wishes for many facts one least-squares system fits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alphaedit.core.fact import Fact
from alphaedit.linalg.ridge_values import RidgeValues
from alphaedit.methods.learned.editor import (
    EditorShape,
    GradientEditor,
    Gradients,
    Proposal,
)
from alphaedit.methods.learned.network import Factors
from alphaedit.methods.steps.gradients import Tokens
from alphaedit.model.handle import ModelHandle

TOKENS_AT_ONCE = 1024


class MalmenNetwork(GradientEditor):
    """Delta^T = (U^T U + e^l I)^-1 U^T D with D_i = -rate (u_i . u~_i) g~_i, for all facts."""

    usual = "answer"
    scaled = "after"

    def __init__(self, shape: EditorShape, generator: torch.Generator | None = None) -> None:
        super().__init__(shape, generator)
        self.log_ridge = nn.Parameter(torch.zeros(len(shape.layers)))

    @classmethod
    def size(cls, shape: EditorShape) -> int:
        """See EditorNetwork."""
        return super().size(shape) + len(shape.layers)

    def values(self, number: int, layer: int, tokens: Tokens) -> Tensor:
        """Value differences [n, d_out] of tokens at a layer's matrix."""
        network, matrix = self.network(layer)
        inputs, gradients = network(tokens.inputs, tokens.gradients, matrix)
        scales = (tokens.inputs.to(inputs) * inputs).sum(1, keepdim=True)
        values: Tensor = -self.rate[number] * scales * gradients
        return values

    def propose(self, handle: ModelHandle, facts: Sequence[Fact]) -> Proposal:
        """One change for all facts; see EditorNetwork.

        Values are computed without a graph; `backward` computes them again, some tokens at a time.
        """
        tokens = self.read(handle, facts)
        changes: dict[int, Factors] = {}
        systems: dict[int, RidgeValues] = {}
        for number, layer, own in self.numbered(tokens):
            with torch.no_grad():
                parts = [self.values(number, layer, part) for part in _parts(own)]
            systems[layer] = RidgeValues(own.inputs, float(self.log_ridge[number].detach()))
            left = systems[layer].left(torch.cat(parts))
            changes[layer] = Factors(left[None], own.inputs[None])

        def backward(gradients: Gradients) -> None:
            for number, layer, own in self.numbered(tokens):
                left = changes[layer].left[0]
                wanted, ridge = systems[layer].backward(left, gradients[layer][0][0])
                (ridge * self.log_ridge[number]).backward()
                for part, their in zip(_parts(own), wanted.split(TOKENS_AT_ONCE), strict=True):
                    values = self.values(number, layer, part)
                    (their.to(values) * values).sum().backward()

        return Proposal(changes, backward)


def _parts(tokens: Tokens) -> list[Tokens]:
    fields = (tokens.inputs, tokens.gradients, tokens.edit)
    return [Tokens(*part) for part in zip(*(f.split(TOKENS_AT_ONCE) for f in fields), strict=True)]
