"""Where the prompts of a request end, and what was decided there: what hooks and memories go by.

A request is a text that is continued or scored. Hooks decide once for each row, at the last token
of its prompt, and keep to it while the answer is made with a cache; so nothing falls out of an
answer after its first token. Passes that are not requests (second moments, target searches,
traces) have no route, and hooks leave them alone.

Routes live in a context variable: requests of different threads or tasks never see each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Render = Callable[[Sequence[str]], list[str]]
"""Puts what a memory knows of each prompt in front of it."""


@dataclass(eq=False)
class Route:
    """One request.

    Attributes:
        ends: position, in the pass that runs now, of the last token of each row's prompt, [rows]
            int64; None once the prompts lie in the cache.
        decided: what each hook decided at those ends, for all tokens that follow.
        starts: position of the first token of each row, behind padding, [rows] int64; None where
            rows begin with the pass.
    """

    ends: Tensor | None
    decided: dict[int, Any] = field(default_factory=dict)
    starts: Tensor | None = None


_NOW: ContextVar[Route | None] = ContextVar("alphaedit_route", default=None)
_PLAIN: ContextVar[bool] = ContextVar("alphaedit_plain", default=False)
_ABOUT: ContextVar[tuple[str, ...] | None] = ContextVar("alphaedit_about", default=None)


def current() -> Route | None:
    """The request that runs now, if hooks are to act on it."""
    return None if _PLAIN.get() else _NOW.get()


def is_plain() -> bool:
    """Whether hooks and memories are to leave everything alone now."""
    return _PLAIN.get()


@contextmanager
def request(ends: Tensor | Sequence[int], starts: Tensor | None = None) -> Iterator[Route]:
    """Passes inside are those of a request whose prompts end at `ends` [rows] of the first one.

    Args:
        ends: position of each prompt's last token, [rows].
        starts: position of its first, [rows] int64, where padding stands in front of it.
    """
    with going_on(Route(torch.as_tensor(ends, dtype=torch.int64), starts=starts)) as route:
        yield route


@contextmanager
def going_on(route: Route) -> Iterator[Route]:
    """Passes inside are those of a request that has begun."""
    token = _NOW.set(route)
    try:
        yield route
    finally:
        _NOW.reset(token)


@contextmanager
def plain() -> Iterator[None]:
    """Hooks and memories do nothing inside: the model is that of its weights."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


@contextmanager
def asked_about(prompts: Sequence[str]) -> Iterator[None]:
    """All that is asked inside belongs to the facts with these prompts, whatever it says.

    For evaluation alone: memories put these facts in front of everything, in place of those that
    they would find. Nobody tells them so in use.
    """
    token = _ABOUT.set(tuple(prompts))
    try:
        yield
    finally:
        _ABOUT.reset(token)


def told_about() -> tuple[str, ...] | None:
    """Prompts of the facts that an evaluation asks about; None if nobody told."""
    return _ABOUT.get()


@contextmanager
def inside() -> Iterator[None]:
    """Passes inside are the package's own: without a request, hooks do not act on them."""
    token = _OWN.set(True)
    try:
        yield
    finally:
        _OWN.reset(token)


_OWN: ContextVar[bool] = ContextVar("alphaedit_own", default=False)
_OTHERS: ContextVar[tuple[int, Route] | None] = ContextVar("alphaedit_others", default=None)
"""The request that others began last, and the model they began it with."""


def follow_others(model: nn.Module) -> Callable[[], None]:
    """Make requests of passes that others start, such as `model.generate`; undone by the result.

    A pass of several tokens begins a request, whose prompts end at the last token that is not
    masked; one of a single token with a cache goes on with it.
    """
    mine = id(model)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _OWN.get() or _PLAIN.get():
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        ids = kwargs.get("inputs_embeds") if ids is None else ids
        if ids is None:
            return
        rows, length = ids.shape[:2]
        cache, previous = kwargs.get("past_key_values"), _OTHERS.get()
        goes_on = length == 1 and cache is not None and cache.get_seq_length() > 0
        if goes_on and previous is not None and previous[0] == mine:
            previous[1].ends = None
            _NOW.set(previous[1])
            return
        mask = kwargs.get("attention_mask")
        ends, starts = torch.full((rows,), length - 1), None
        if mask is not None and mask.ndim == 2 and mask.shape[0] == rows:
            own = mask[:, -length:].cpu().long()
            ends = length - 1 - own.flip(1).argmax(1)
            starts = own.argmax(1)
        route = Route(ends, starts=starts)
        _OTHERS.set((mine, route))
        _NOW.set(route)

    def after(module: nn.Module, *rest: Any) -> None:
        if not (_OWN.get() or _PLAIN.get()):
            _NOW.set(None)

    handles = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, always_call=True),
    ]

    def undo() -> None:
        for handle in handles:
            handle.remove()

    return undo
