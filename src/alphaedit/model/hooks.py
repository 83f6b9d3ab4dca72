"""See and replace what flows through modules, by context managers that always clean up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import Any

from torch import Tensor, nn

from alphaedit.core.errors import ArchitectureError
from alphaedit.model.sharded import whole

See = Callable[[Tensor], Tensor | None]
"""Called with a tensor; what it returns, unless None, takes the tensor's place."""

HIDDEN_ARGUMENT = "hidden_states"


class StopForward(Exception):
    """Raised inside a hook to leave the forward pass; see `stoppable`."""


@contextmanager
def stoppable() -> Iterator[None]:
    """A block that a hook may leave by raising StopForward."""
    try:
        yield
    except StopForward:
        pass


def hidden_of(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
    """The hidden states among a module's arguments: the first positional one, or the keyword."""
    value = args[0] if args else kwargs.get(HIDDEN_ARGUMENT)
    return value if isinstance(value, Tensor) else None


def with_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with `hidden` in place of the hidden states."""
    if args:
        return (hidden, *args[1:]), kwargs
    return args, {**kwargs, HIDDEN_ARGUMENT: hidden}


def output_of(value: Any) -> Tensor | None:
    """The hidden states that a module returns: its output, or the first part of it."""
    if isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


@contextmanager
def on_input(module: nn.Module, see: See) -> Iterator[None]:
    """While the block runs, call `see` with the hidden states that enter `module`.

    Passes of other threads go by unseen.

    Raises:
        ArchitectureError: `module` is called without a tensor.
    """
    mine = get_ident()

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if get_ident() != mine:
            return None
        new = see(_required(hidden_of(args, kwargs), module))
        return None if new is None else with_hidden(args, kwargs, new)

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def on_output(module: nn.Module, see: See) -> Iterator[None]:
    """While the block runs, call `see` with the hidden states that leave `module`.

    Passes of other threads go by unseen.

    Raises:
        ArchitectureError: `module` returns no tensor.
    """
    mine = get_ident()

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if get_ident() != mine:
            return None
        new = see(_required(output_of(output), module))
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, (tuple, list)) else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _required(tensor: Tensor | None, module: nn.Module) -> Tensor:
    if tensor is None:
        raise ArchitectureError(
            f"{type(module).__name__} is called without hidden states, or returns none.",
            remedy=f"Looked for a tensor as first argument, as {HIDDEN_ARGUMENT!r}, "
            "or as first part of the output.",
        )
    return whole(tensor)
