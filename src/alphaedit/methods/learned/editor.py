"""What a learned editor is: a network that proposes changes of matrices for facts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from alphaedit.core.fact import Fact
from alphaedit.methods.learned.network import Factors, GradientNetwork, NetworkShape
from alphaedit.methods.steps.gradients import Tokens, Where, edit_tokens
from alphaedit.model.handle import ModelHandle

Gradients = Mapping[int, tuple[Tensor, Tensor]]
"""By layer the loss's gradients of left and right factors, shaped as these."""


@dataclass(frozen=True)
class EditorShape:
    """What decides the networks of an editor.

    Attributes:
        layers: whose edited matrices are changed.
        sizes: (d_out, d_in) of each.
        rank, blocks: of the networks.
        rate: that edits start with.
        floor: see `NetworkShape`.
        vocabulary, width: of the base's embeddings.
        tokens: of an edit, that its change is made of; None: as the kind of editor does.
    """

    layers: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    rank: int
    blocks: int
    rate: float
    floor: float
    vocabulary: int
    width: int
    tokens: Where | None = None

    @classmethod
    def of(
        cls,
        handle: ModelHandle,
        layers: Sequence[int],
        *,
        rank: int,
        blocks: int,
        rate: float,
        floor: float,
        tokens: Where | None = None,
    ) -> EditorShape:
        """For these layers of a model."""
        sizes = tuple((handle.d_out(layer), handle.d_in(layer)) for layer in layers)
        vocabulary, width = handle.embed.weight.shape  # type: ignore[misc]
        return cls(tuple(layers), sizes, rank, blocks, rate, floor, vocabulary, width, tokens)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def networks(self, scaled: Literal["before", "after"]) -> list[NetworkShape]:
        """Of one network for the matrices of each shape."""
        return [
            NetworkShape(
                d_in=size[1],
                d_out=size[0],
                rank=self.rank,
                blocks=self.blocks,
                matrices=self.sizes.count(size),
                scaled=scaled,
                floor=self.floor,
            )
            for size in dict.fromkeys(self.sizes)
        ]


@dataclass(frozen=True)
class Proposal:
    """Changes for facts, and the way back to what made them.

    Attributes:
        changes: by layer, one for each fact or one for all of them.
        backward: adds to the gradients of the network's parameters what gradients of the changes
            make of them; only of a network in training.
    """

    changes: Mapping[int, Factors]
    backward: Callable[[Gradients], None]


class EditorNetwork(nn.Module, ABC):
    """A network that proposes changes of the matrices of some layers.

    Attributes:
        rates: names of parameters that are trained at a rate of their own.
    """

    rates: ClassVar[tuple[str, ...]] = ()

    def __init__(self, shape: EditorShape, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.layers = shape.layers

    @classmethod
    @abstractmethod
    def size(cls, shape: EditorShape) -> int:
        """How many numbers would be learned."""

    def begin_at(self, rate: float) -> None:
        """Set the rate of an edit before training, of an editor that has one."""

    def rate_learning_rate(self) -> float:
        """How fast the rates of an edit learn, if it is not given."""
        return 0.0

    @abstractmethod
    def warm(self, handle: ModelHandle, facts: Sequence[Fact]) -> None:
        """Take statistics of facts in, before training."""

    def at_step(self, drawn_by: str) -> None:
        """Told before each step of training; `drawn_by` seeds what a network draws at random."""

    @abstractmethod
    def propose(self, handle: ModelHandle, facts: Sequence[Fact]) -> Proposal:
        """Changes for facts; in training, statistics take them in and gradients can go back."""


class GradientEditor(EditorNetwork):
    """An editor made of gradient networks, one for the matrices of each shape."""

    usual: ClassVar[Where] = "all"
    scaled: ClassVar[Literal["before", "after"]] = "before"
    rates: ClassVar[tuple[str, ...]] = ("rate",)
    began: Tensor

    def __init__(self, shape: EditorShape, generator: torch.Generator | None = None) -> None:
        super().__init__(shape)
        self.where: Where = shape.tokens or self.usual
        kinds = list(dict.fromkeys(shape.sizes))
        self.networks = nn.ModuleList(
            GradientNetwork(sizes, generator) for sizes in shape.networks(self.scaled)
        )
        self.rate = nn.Parameter(torch.full((len(shape.layers),), shape.rate))
        self.register_buffer("began", torch.tensor(shape.rate))
        self._places = {
            layer: (kinds.index(size), shape.sizes[:number].count(size))
            for number, (layer, size) in enumerate(zip(shape.layers, shape.sizes, strict=True))
        }

    @classmethod
    def size(cls, shape: EditorShape) -> int:
        """See EditorNetwork."""
        return sum(sizes.parameters for sizes in shape.networks(cls.scaled)) + len(shape.layers)

    @torch.no_grad()
    def begin_at(self, rate: float) -> None:
        """See EditorNetwork."""
        self.rate.fill_(rate)
        self.began.fill_(rate)

    def rate_learning_rate(self) -> float:
        """A hundredth of what edits began with."""
        return float(self.began) / 100

    def network(self, layer: int) -> tuple[GradientNetwork, int]:
        """The network of a layer's matrix, and the matrix's number in it."""
        kind, matrix = self._places[layer]
        network = self.networks[kind]
        assert isinstance(network, GradientNetwork)
        return network, matrix

    def numbered(self, tokens: Mapping[int, Tokens]) -> Iterator[tuple[int, int, Tokens]]:
        """Number of the matrix, layer, and tokens with an input and a gradient."""
        for number, layer in enumerate(self.layers):
            yield number, layer, firing(tokens[layer])

    def fronts(self, handle: ModelHandle, facts: Sequence[Fact]) -> Sequence[str] | None:
        """Text in front of each fact's prompt while its gradient is taken; None for nothing."""
        return None

    def read(self, handle: ModelHandle, facts: Sequence[Fact]) -> dict[int, Tokens]:
        """Inputs and gradients of the matrices; in training statistics take them in."""
        fronts = self.fronts(handle, facts)
        tokens = edit_tokens(handle, facts, self.layers, where=self.where, fronts=fronts)
        if self.training:
            self.take_in(tokens)
        return tokens

    def take_in(self, tokens: Mapping[int, Tokens]) -> None:
        """Count tokens in the statistics of the networks."""
        for _, layer, own in self.numbered(tokens):
            moments = self.network(layer)[0].moments
            moments.update(torch.cat([own.inputs, own.gradients], 1).to(moments.mean))

    def warm(self, handle: ModelHandle, facts: Sequence[Fact]) -> None:
        """See EditorNetwork."""
        self.train()
        self.read(handle, facts)


def firing(tokens: Tokens) -> Tokens:
    """Those tokens that have an input and a gradient."""
    fires = (tokens.inputs != 0).any(1) & (tokens.gradients != 0).any(1)
    return Tokens(tokens.inputs[fires], tokens.gradients[fires], tokens.edit[fires])
