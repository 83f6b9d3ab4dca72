"""The network that turns each token's gradient into an outer product, one change for each fact."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch

from alphaedit.core.fact import Fact
from alphaedit.methods.learned.editor import GradientEditor, Gradients, Proposal
from alphaedit.methods.learned.network import Factors, outer_products
from alphaedit.model.handle import ModelHandle


class MendNetwork(GradientEditor):
    """Delta_l = -rate_l * sum of g~ u~^T over the tokens of an edit."""

    def propose(self, handle: ModelHandle, facts: Sequence[Fact]) -> Proposal:
        """A change for each fact; see EditorNetwork."""
        tokens = self.read(handle, facts)
        changes: dict[int, Factors] = {}
        with nullcontext() if self.training else torch.no_grad():
            for number, layer, own in self.numbered(tokens):
                network, matrix = self.network(layer)
                changes[layer] = outer_products(
                    network,
                    own.inputs,
                    own.gradients,
                    own.edit,
                    len(facts),
                    matrix=matrix,
                    rate=self.rate[number],
                )

        def backward(gradients: Gradients) -> None:
            made = [part for layer in gradients for part in _parts(changes[layer])]
            torch.autograd.backward(made, [part for pair in gradients.values() for part in pair])

        return Proposal(changes, backward)


def _parts(factors: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    return factors.left, factors.right
