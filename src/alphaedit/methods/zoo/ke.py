"""KnowledgeEditor: gates for a fact's gradient, read off its text (De Cao et al., 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from alphaedit.core.fact import Fact
from alphaedit.methods.learned.editor import EditorNetwork, EditorShape, Gradients, Proposal
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.network import Factors, by_edit
from alphaedit.methods.steps.gradients import Tokens, Where, edit_tokens
from alphaedit.model.handle import ModelHandle

HIDDEN = 128
"""Width of the network that reads a fact, in each direction."""


@dataclass(frozen=True)
class Gates:
    """What a fact's text says of one matrix, for each edit.

    Attributes:
        row: weights of the gradient's rows [e, d_out], of sum 1; `column` [e, d_in].
        new_row: [e, d_out], of sum 1, and `new_column` [e, d_in]: what is added to the gradient.
        size: [e], from 0 to 1.
    """

    row: Tensor
    column: Tensor
    new_row: Tensor
    new_column: Tensor
    size: Tensor

    @classmethod
    def of(cls, raw: Tensor, d_out: int, d_in: int) -> Gates:
        """From what a network gives, [e, 2 d_out + 2 d_in + 1]."""
        row, new_row, column, new_column, size = raw.split((d_out, d_out, d_in, d_in, 1), dim=1)
        size = size.sigmoid().squeeze(1)
        return cls(row.softmax(1), column, new_row.softmax(1), new_column, size)

    def applied(self, tokens: Tokens) -> Factors:
        """The changes size * (G * (row column^T) + new_row new_column^T), G the sum of g u^T.

        As a product of rank tokens + 1: a gate of rank one keeps a matrix's rank.
        """
        edits = len(self.size)
        ours, theirs = (x.to(self.row.dtype) for x in (tokens.inputs, tokens.gradients))
        gated = theirs * self.row[tokens.edit] * self.size[tokens.edit, None]
        left = by_edit(gated, tokens.edit, edits).transpose(1, 2)
        right = by_edit(ours * self.column[tokens.edit], tokens.edit, edits)
        more = (self.size[:, None] * self.new_row)[:, :, None]
        return Factors(torch.cat([left, more], 2), torch.cat([right, self.new_column[:, None]], 1))


class NormedLinear(nn.Module):
    """A linear map whose rows have a direction and a length of their own."""

    def __init__(self, given: int, wanted: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(wanted, given, generator=generator))
        self.length = nn.Parameter(torch.full((wanted,), 3**-0.5))
        self.bias = nn.Parameter(torch.zeros(wanted))

    def forward(self, x: Tensor) -> Tensor:
        """For x [n, given], [n, wanted]."""
        unit = self.direction / self.direction.norm(dim=1, keepdim=True)
        out: Tensor = x @ (self.length[:, None] * unit).T + self.bias
        return out


class KeNetwork(EditorNetwork):
    """An LSTM reads "old >> new || prompt"; a small network for each matrix makes gates of it.

    Words are read by the base's own embeddings, which stay as they are.
    """

    def __init__(self, shape: EditorShape, generator: torch.Generator | None = None) -> None:
        super().__init__(shape)
        self.sizes = shape.sizes
        self.where: Where = shape.tokens or "all"
        self.reader = nn.LSTM(shape.width, HIDDEN, batch_first=True, bidirectional=True)
        self.condition = nn.Linear(2 * HIDDEN, shape.width)
        for parameter in (*self.reader.parameters(), *self.condition.parameters()):
            # PyTorch's own beginning, drawn by our generator.
            nn.init.uniform_(parameter, -(HIDDEN**-0.5), HIDDEN**-0.5, generator=generator)
        inner = [NormedLinear(shape.width, shape.rank, generator) for _ in shape.sizes]
        outer = [NormedLinear(shape.rank, 2 * sum(size) + 1, generator) for size in shape.sizes]
        self.inner, self.outer = nn.ModuleList(inner), nn.ModuleList(outer)

    @classmethod
    def size(cls, shape: EditorShape) -> int:
        """See EditorNetwork."""
        reader = 8 * HIDDEN * (shape.width + HIDDEN + 2) + (2 * HIDDEN + 1) * shape.width
        linear = [(shape.width + 2) * shape.rank for _ in shape.sizes]
        linear += [(shape.rank + 2) * (2 * sum(size) + 1) for size in shape.sizes]
        return reader + sum(linear)

    def warm(self, handle: ModelHandle, facts: Sequence[Fact]) -> None:
        """It has no statistics."""

    def read(self, handle: ModelHandle, facts: Sequence[Fact]) -> Tensor:
        """What the texts of facts say, [e, width]."""
        texts = [f"{fact.truth or ''} >> {fact.target} || {fact.text}" for fact in facts]
        ids, mask = handle.tokens.pad([handle.tokens.encode(text) for text in texts], "right")
        with torch.no_grad():
            words = handle.embed(ids.to(handle.device)).to(self.condition.weight.dtype)
        packed = pack_padded_sequence(words, mask.sum(1), batch_first=True, enforce_sorted=False)
        _, (last, _) = self.reader(packed)
        return torch.tanh(self.condition(torch.cat([last[0], last[1]], dim=1)))

    def propose(self, handle: ModelHandle, facts: Sequence[Fact]) -> Proposal:
        """A change for each fact; see EditorNetwork."""
        tokens = edit_tokens(handle, facts, self.layers, where=self.where)
        changes: dict[int, Factors] = {}
        with nullcontext() if self.training else torch.no_grad():
            encoded = self.read(handle, facts)
            for number, (layer, size) in enumerate(zip(self.layers, self.sizes, strict=True)):
                raw = self.outer[number](torch.tanh(self.inner[number](encoded)))
                changes[layer] = Gates.of(raw, *size).applied(tokens[layer])

        def backward(gradients: Gradients) -> None:
            made = [t for layer in gradients for t in (changes[layer].left, changes[layer].right)]
            torch.autograd.backward(made, [part for pair in gradients.values() for part in pair])

        return Proposal(changes, backward)


METHOD = LearnedMethod(
    name="ke",
    title="KnowledgeEditor",
    paper="https://arxiv.org/abs/2104.08164",
    summary="A network, trained before, reads a fact and gates its gradient by rows and columns.",
    network=KeNetwork,
)
