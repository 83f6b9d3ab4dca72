"""Routed experts: their matrices, and their keys as one long key of the whole layer.

A mixture adds sum_e g_e (W_e k_e + b_e) to the residual stream, g_e the router's weight and k_e
what enters the output matrix of expert e, over the experts that fire. With the keys g_e k_e of all
experts put one behind the other, zero where an expert does not fire, and the matrices W_e side by
side, that is one matrix times one key: a layer like any other, but for what is kept in blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from alphaedit.core.errors import ArchitectureError

OUT, INTO = "down_proj", ("gate_up_proj", "up_proj")
"""Names that transformers gives the parameters of fused experts, one of the latter two."""
LOOKED_FOR = (
    f"Looked for experts as transformers 5 keeps them: parameters {OUT} and {' or '.join(INTO)} of "
    "three dimensions, called with hidden states and the indices and weights of the experts that "
    "fire (Mixtral, Qwen3-MoE, gpt-oss). Edit another model, or one with a shared expert."
)
_NAMED = re.compile(rf"(.+\.{OUT})\[(\d+)\]")
WIDE = torch.float32
"""Keys are at least this wide."""
_ALIKE = {torch.float32: 1e-3, torch.float64: 1e-3}
"""How far our sum may be from the model's, by dtype."""


def is_experts(module: nn.Module | None) -> bool:
    """Whether `module` holds experts as transformers fuses them."""
    own = {} if module is None else module._parameters
    return any(_deep(own.get(name)) for name in INTO) and _deep(own.get(OUT))


def _deep(parameter: Tensor | None) -> bool:
    return parameter is not None and parameter.ndim == 3


def numbered(parameter: str, expert: int) -> str:
    """Name of the matrix of one expert in the parameter of all."""
    return f"{parameter}[{expert}]"


def split_name(name: str) -> tuple[str, int] | None:
    """Name of the parameter and number of the expert, of what `numbered` made."""
    match = _NAMED.fullmatch(name)
    return None if match is None else (match[1], int(match[2]))


class Experts:
    """The experts of one layer, by the attributes that transformers' own fast paths go by.

    Attributes:
        module: what holds them.
        count: how many there are.
        transposed: each output matrix is stored as [d_in, d_out].
        d_in: size of an expert's key.
        d_out: size of the residual stream.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module
        self.transposed = bool(getattr(module, "is_transposed", False))
        stored: Any = self.module.down_proj
        self.count, rows, columns = (int(size) for size in stored.shape)
        self.d_in, self.d_out = (rows, columns) if self.transposed else (columns, rows)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        device: torch.device = self.module.down_proj.device
        return device

    def stored(self, expert: int) -> Tensor:
        """A view of the output matrix of `expert`, as it is stored."""
        view: Tensor = self.module.down_proj.detach()[expert]
        return view

    def keys(self, hidden: Tensor, expert: int) -> Tensor:
        """What enters the output matrix of `expert`, [n, d_in], for hidden states [n, d_out]."""
        gated = bool(getattr(self.module, "has_gate", True))
        into = INTO[0] if gated else INTO[1]
        weight, bias = getattr(self.module, into)[expert], None
        if getattr(self.module, "has_bias", False):
            bias = getattr(self.module, into + "_bias")[expert]
        inner = F.linear(hidden, weight.T if self.transposed else weight, bias)
        keys: Tensor = self.module._apply_gate(inner) if gated else self.module.act_fn(inner)
        return keys

    def rows(self, expert: int) -> slice:
        """Where the key of `expert` stands in the long key."""
        return slice(expert * self.d_in, (expert + 1) * self.d_in)

    def fired(self, keys: Tensor) -> list[int]:
        """The experts with a part in long keys [count * d_in, n]."""
        there = keys.unflatten(0, (self.count, self.d_in)).ne(0).flatten(1).any(1)
        return [int(expert) for expert in there.nonzero().flatten()]


@dataclass(frozen=True, eq=False)
class Routed:
    """What enters the experts of a layer in one pass.

    Attributes:
        experts: the layer's.
        hidden: [n, d_out] hidden states, of all tokens of the pass.
        index: [n, k] the experts that fire.
        weights: [n, k] what the router weighs them by.
    """

    experts: Experts
    hidden: Tensor
    index: Tensor
    weights: Tensor

    @property
    def count(self) -> int:
        """How many tokens these are."""
        return len(self.hidden)

    def of(self, expert: int) -> tuple[Tensor, Tensor]:
        """The tokens [m] at which `expert` fires, and their keys times its weights [m, d_in]."""
        token, place = (self.index == expert).nonzero(as_tuple=True)
        keys = self.experts.keys(self.hidden[token], expert)
        weights = self.weights[token, place][:, None].to(torch.promote_types(keys.dtype, WIDE))
        return token, keys * weights

    def firing(self) -> list[int]:
        """The experts that fire at some token, in their order."""
        numbers = self.index.unique().tolist()
        return [expert for expert in numbers if 0 <= expert < self.experts.count]

    def only(self, places: Tensor) -> Routed:
        """The same at the tokens `places` [m] alone."""
        place = places.to(self.hidden.device)
        return Routed(self.experts, self.hidden[place], self.index[place], self.weights[place])

    def at(self, places: Tensor) -> Tensor:
        """Long keys [m, count * d_in] at the tokens `places` [m]."""
        some = self.only(places)
        size = self.experts.d_in
        wide = torch.promote_types(self.hidden.dtype, WIDE)
        long = self.hidden.new_zeros(len(places), self.experts.count, size, dtype=wide)
        for expert in some.firing():
            token, keys = some.of(expert)
            long[token, expert] = keys
        return long.flatten(1)

    def output(self) -> Tensor:
        """What the experts give, [n, d_out]."""
        experts = self.experts
        wide = torch.promote_types(self.hidden.dtype, WIDE)
        total = torch.zeros_like(self.hidden, dtype=wide)
        bias = getattr(experts.module, OUT + "_bias", None)
        for expert in self.firing():
            token, keys = self.of(expert)
            matrix = experts.stored(expert).to(wide)
            total[token] += keys @ (matrix if experts.transposed else matrix.T)
            if bias is not None:
                weight = (self.weights * (self.index == expert)).sum(1, keepdim=True)[token]
                total[token] += weight.to(wide) * bias.detach()[expert].to(wide)
        return total


def routed(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Routed | None:
    """What a call of `module`, which holds experts, is about; None if it is called otherwise."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if len(given) != 3 or any(tensor.ndim != 2 for tensor in given):
        return None
    hidden, *others = given
    index = [tensor for tensor in others if not tensor.is_floating_point()]
    weights = [tensor for tensor in others if tensor.is_floating_point()]
    if len(index) != 1 or index[0].shape != weights[0].shape or len(hidden) != len(index[0]):
        return None
    return Routed(Experts(module), hidden, index[0], weights[0])


@contextmanager
def on_routed(module: nn.Module, see: Any) -> Iterator[None]:
    """While the block runs, call `see` with the Routed of each call of `module`."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        routing = routed(module, args, kwargs)
        assert routing is not None  # as in the probe
        see(routing)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def check_experts(path: str, call: Routed | None, module: nn.Module, output: Tensor | None) -> None:
    """Refuse experts that cannot be edited, or that compute otherwise than we do.

    Args:
        path: name of their module.
        call: what entered them; None where that was not understood.
        output: what they gave for it.

    Raises:
        ArchitectureError: saying why.
    """
    kind = f"The experts of {path} ({type(module).__name__})"
    parameters = [p for p in module._parameters.values() if p is not None]
    if any(isinstance(p, DTensor) for p in parameters):
        raise ArchitectureError(
            f"{kind} are split over processes, and experts are edited whole only.",
            remedy="Load the model on one device, or spread by device_map (--device auto).",
        )
    if getattr(module, "_is_expert_parallel", False):
        raise ArchitectureError(
            f"{kind} run in expert parallelism: each process has some of them.",
            remedy="Load the model without an expert-parallel plan.",
        )
    if any(not p.is_floating_point() for p in parameters):
        raise ArchitectureError(
            f"{kind} are quantised, and experts are edited unquantised only.",
            remedy="Load the model in bfloat16 (of gpt-oss with Mxfp4Config(dequantize=True)).",
        )
    if getattr(module, "has_post_expert_norm", False):
        raise ArchitectureError(
            f"{kind} are followed by a norm of each expert's output.", remedy=LOOKED_FOR
        )
    if call is None or output is None:
        raise ArchitectureError(f"{kind} are called in a way not known.", remedy=LOOKED_FOR)
    with torch.no_grad():
        ours = call.output().float()
    theirs = output.reshape(ours.shape).float()
    gap = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))
    if not gap <= _ALIKE.get(call.hidden.dtype, 5e-2):
        raise ArchitectureError(
            f"{kind} give something else than the sum of their matrices' outputs: it differs by "
            f"{gap:.1e}.",
            remedy=LOOKED_FOR,
        )
