"""An MLP with more neurons: in a block, while it is measured, or in the files of a checkpoint.

Families say one width for all blocks, so in a checkpoint the others get as many that do nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from alphaedit.core.errors import ArchitectureError, ConfigError
from alphaedit.core.neurons import Neurons
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_input, on_output
from alphaedit.model.mlp import mlp_of
from alphaedit.model.route import plain
from alphaedit.model.structure import is_linear, is_transposed, linear_shape

WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
"""What families call the number of an MLP's neurons in their configs."""
MULTIPLE = 32
"""Widths are filled up to it: blocks of quantised formats are as long."""
TRIED = (5, 6, 7, 8)


@dataclass(frozen=True, eq=False)
class Entrance:
    """The matrices of an MLP by name, as they are found by what they do.

    Attributes:
        enter: the matrix whose outputs are activated.
        beside: of a gated MLP the one whose outputs are factors.
        leave: the output projection.
        biased: whether `enter` and `beside` have biases.
    """

    enter: str
    beside: str | None
    leave: str
    biased: bool


@torch.no_grad()
def entrance(handle: ModelHandle, layer: int) -> Entrance:
    """The matrices of the MLP of block `layer`.

    Raises:
        ConfigError: it is a mixture of experts.
        ArchitectureError: it is not made of one or two matrices, an activation and a projection.
    """
    mlp = mlp_of(handle, layer)
    leave = handle.structure.edited[layer]
    path = leave.rpartition(".")[0]
    shape = handle.d_in(layer), handle.d_out(layer)
    parts = {
        f"{path}.{name}": module
        for name, module in handle.model.get_submodule(path).named_children()
        if module is not mlp.leaves and is_linear(module) and linear_shape(module) == shape
    }
    inputs, keys = list[Tensor](), list[Tensor]()
    with plain(), on_input(mlp.enters, inputs.append), on_input(mlp.leaves, keys.append):
        table = handle.structure.embed.weight
        assert isinstance(table, Tensor)
        handle.forward(*handle.tokens.pad([[token % len(table) for token in TRIED]], "right"))
    for first in parts:
        for second in [None] if len(parts) == 1 else [name for name in parts if name != first]:
            made = mlp.activation(parts[first](inputs[0]))
            if second is not None:
                made = made * parts[second](inputs[0])
            if len(parts) < 3 and _alike(made, keys[0]):
                names = [first] if second is None else [first, second]
                biases = {parts[name].bias is not None for name in names}
                if len(biases) == 1:
                    return Entrance(first, second, leave, biases.pop())
    raise ArchitectureError(
        f"The MLP of block {layer} in {type(handle.model).__name__} was not understood.",
        remedy=f"Looked, beside {leave}, for one or two matrices {shape} whose activated (and "
        "multiplied) outputs enter it.",
    )


def _alike(made: Tensor, keys: Tensor) -> bool:
    made, keys = made.reshape(-1).float(), keys.reshape(-1).float()
    return made.shape == keys.shape and bool((made - keys).norm() <= 1e-2 * keys.norm())


@dataclass(frozen=True, eq=False)
class Grown:
    """What a parameter becomes: longer in a dimension, by numbers or by zeros.

    Attributes:
        at: the dimension in which it grows.
        by: how much.
        more: what is put there; None: zeros.
    """

    at: int
    by: int
    more: Tensor | None

    def of(self, tensor: Tensor) -> Tensor:
        """The longer tensor, in the same dtype and place."""
        shape = list(tensor.shape)
        shape[self.at] = self.by
        more = tensor.new_zeros(shape)
        if self.more is not None:
            given = self.more.to(tensor)
            more.narrow(self.at, 0, given.shape[self.at]).copy_(given)
        return torch.cat([tensor, more], self.at)


@dataclass(frozen=True, eq=False)
class Wider:
    """More neurons in blocks of a model.

    Attributes:
        by: how many in each block of a checkpoint.
        neurons: those that do something, by block.
        parameters: what becomes of which, in all blocks.
        setting: name of the width in the model's config.
        width: its new value.
    """

    by: int
    neurons: Mapping[int, Neurons]
    parameters: Mapping[str, Grown]
    setting: str
    width: int

    @classmethod
    def of(cls, handle: ModelHandle, neurons: Mapping[int, Neurons]) -> Wider:
        """So that blocks have these neurons, too.

        Raises:
            ConfigError: the model is quantised, or its config says no width of its MLPs alone.
            ArchitectureError: an MLP was not understood.
        """
        if getattr(handle.model, "is_quantized", False):
            raise ConfigError(
                "The matrices of a quantised model cannot be made wider.",
                remedy="Load the model that it was made of, and quantise what is exported.",
            )
        most = max((len(own) for own in neurons.values()), default=1)
        by = -(-most // MULTIPLE) * MULTIPLE
        setting, width = _setting(handle)
        parameters = dict[str, Grown]()
        for layer in range(handle.n_layers):
            parameters |= _grown(handle, entrance(handle, layer), neurons.get(layer), by)
        wider = cls(by, neurons, parameters, setting, width + by)
        wider._check(handle)
        return wider

    def _check(self, handle: ModelHandle) -> None:
        """Whether the config with the new width gives a model of the new shapes, and no others.

        Raises:
            ConfigError: it does not.
        """
        with torch.device("meta"):
            made = type(handle.model)(self._config(handle)).state_dict()
        for name, tensor in handle.model.state_dict().items():
            shape = list(tensor.shape)
            if name in self.parameters:
                shape[self.parameters[name].at] += self.by
            if name in made and list(made[name].shape) != shape:
                raise ConfigError(
                    f"{self.setting} in the config of {type(handle.model).__name__} is not the "
                    f"width of its MLPs alone: with {self.width} {name} is "
                    f"{list(made[name].shape)} in place of {shape}.",
                    remedy="Keep the ledger, and serve it with `alphaedit serve`; or edit by "
                    "alphaedit-weighted.",
                )

    def _config(self, handle: ModelHandle) -> PretrainedConfig:
        config: PretrainedConfig = deepcopy(handle.model.config)
        setattr(config.get_text_config(), self.setting, self.width)
        return config

    @contextmanager
    def in_place(self, handle: ModelHandle, dtype: torch.dtype | None = None) -> Iterator[None]:
        """The model computes with them, for the length of a block.

        Args:
            dtype: as they are when rounded to it.
        """
        with ExitStack() as stack:
            for layer, neurons in self.neurons.items():
                enter_beside(stack, handle, layer, neurons.rounded(dtype) if dtype else neurons)
            yield

    def about(self, handle: ModelHandle) -> dict[str, Any]:
        """How many neurons are where, and what they cost, as JSON values."""
        own = handle.model.state_dict()
        return {
            "blocks": {layer: len(neurons) for layer, neurons in self.neurons.items()},
            "setting": self.setting,
            "width": self.width,
            "more_parameters": sum(
                own[name].numel() // own[name].shape[grown.at] * grown.by
                for name, grown in self.parameters.items()
            ),
        }

    def write_width(self, config: Path) -> None:
        """Put the new width into the file of a model's config."""
        about = json.loads(config.read_text(encoding="utf-8"))
        inner = about.get("text_config")
        part = inner if isinstance(inner, dict) and self.setting not in about else about
        part[self.setting] = self.width
        config.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    def model(self, handle: ModelHandle) -> PreTrainedModel:
        """A model with them, of the same class and dtype; its tensors are in memory beside."""
        own = handle.model.state_dict()
        tensors = {
            name: self.parameters[name].of(tensor) if name in self.parameters else tensor
            for name, tensor in own.items()
        }
        model: PreTrainedModel = type(handle.model)(self._config(handle)).to(handle.model.dtype)
        model.load_state_dict(tensors)
        return model


def can_be_wider(handle: ModelHandle) -> bool:
    """Whether this model's MLPs can get neurons."""
    try:
        Wider.of(handle, {})
    except (ArchitectureError, ConfigError):
        return False
    return True


def enter_beside(stack: ExitStack, handle: ModelHandle, layer: int, neurons: Neurons) -> None:
    """Add what neurons make of an MLP's input to its output."""
    mlp, inputs = mlp_of(handle, layer), list[Tensor]()
    own = neurons.to(handle.weight_device(layer), handle.wide)

    def see(x: Tensor) -> None:
        inputs[:] = [x]

    def add(output: Tensor) -> Tensor:
        return output + own(inputs[0].to(handle.wide), mlp.activation).to(output)

    stack.enter_context(on_input(mlp.enters, see))
    stack.enter_context(on_output(mlp.leaves, add))


def _setting(handle: ModelHandle) -> tuple[str, int]:
    config = handle.model.config.get_text_config()
    width = handle.d_in(0)
    for name in WIDTHS:
        if getattr(config, name, width + 1) in (width, None):
            return name, width
    raise ConfigError(
        f"The config of {type(handle.model).__name__} says no width of its MLPs.",
        remedy=f"Looked for {', '.join(WIDTHS)} of {width}.",
    )


def _grown(
    handle: ModelHandle, matrices: Entrance, neurons: Neurons | None, by: int
) -> dict[str, Grown]:
    """What becomes of the parameters of one MLP."""
    grown = dict[str, Grown]()

    def grow(name: str, matrix: Tensor | None, bias: Tensor | None) -> None:
        turned = is_transposed(handle.model.get_submodule(name))
        grown[f"{name}.weight"] = Grown(int(turned), by, _turned(matrix, turned))
        if matrices.biased:
            grown[f"{name}.bias"] = Grown(0, by, bias)

    own: tuple[Tensor | None, ...] = (None,) * 4
    if neurons is not None:
        own = neurons.enter, neurons.bias, neurons.beside, neurons.beside_bias
    grow(matrices.enter, *own[:2])
    if matrices.beside is not None:
        grow(matrices.beside, *own[2:])
    turned = is_transposed(handle.model.get_submodule(matrices.leave))
    leave = None if neurons is None else neurons.leave
    grown[f"{matrices.leave}.weight"] = Grown(int(not turned), by, _turned(leave, turned))
    return grown


def _turned(matrix: Tensor | None, turned: bool) -> Tensor | None:
    return matrix if matrix is None or not turned else matrix.T
