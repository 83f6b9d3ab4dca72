"""What enters the MLP of a block, and its activation: found beside the output projection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alphaedit.core.errors import ArchitectureError, ConfigError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.structure import is_linear, linear_shape

_NO_ACTIVATION = (nn.Dropout, nn.Identity)


@dataclass(frozen=True, eq=False)
class Mlp:
    """The MLP of a block.

    Attributes:
        enters: the module whose input is the MLP's, [..., h].
        leaves: the output projection.
        activation: of its neurons; of a gated MLP that of the gate.
    """

    enters: nn.Module
    leaves: nn.Module
    activation: Callable[[Tensor], Tensor]


def mlp_of(handle: ModelHandle, layer: int) -> Mlp:
    """The MLP of block `layer`: its parts are the modules beside the output projection.

    Raises:
        ConfigError: it is a mixture of experts, or there is no such layer.
        ArchitectureError: its first matrix or its activation was not found.
    """
    if handle.experts(layer) is not None:
        raise ConfigError(
            f"Layer {layer} is a mixture of experts, which has no MLP that all tokens go through.",
            remedy="Give a layer without experts, or use another method.",
        )
    leaves = handle.edited_module(layer)
    path = handle.structure.edited[layer].rpartition(".")[0]
    beside = [m for m in handle.model.get_submodule(path).children() if m is not leaves]
    width = handle.d_out(layer)
    enters = [m for m in beside if is_linear(m) and linear_shape(m)[1] == width]
    plain = [m for m in beside if not list(m.parameters()) and not list(m.children())]
    acting = [m for m in plain if not isinstance(m, _NO_ACTIVATION) and _is_activation(m)]
    if not enters or len(acting) != 1:
        raise ArchitectureError(
            f"The MLP of block {layer} in {type(handle.model).__name__} was not understood.",
            remedy=f"Looked, beside {handle.structure.edited[layer]}, for a linear module of "
            f"{width} inputs and one activation.",
        )
    return Mlp(enters[0], leaves, acting[0])


@torch.no_grad()
def _is_activation(module: nn.Module) -> bool:
    """Whether it maps numbers to numbers, each for itself."""
    tried = torch.linspace(-2, 2, 5)
    try:
        given = module(tried)
        alone = module(tried[1:2])
    except (TypeError, RuntimeError, AttributeError, IndexError):
        return False
    same = isinstance(given, Tensor) and given.shape == tried.shape
    return same and bool(torch.allclose(given[1:2], alone))
