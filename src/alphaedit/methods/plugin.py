"""Plug-ins: small objects in a list that change one step of a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

import yaml
from torch import Tensor

from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.patch import LowRank
from alphaedit.linalg.subspace import Subspace
from alphaedit.methods.base import Problem
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.target_value import Targets

ENTRY_POINTS = "alphaedit.plugins"
Memory = MutableMapping[str, Tensor]
"""What is kept from batch to batch, saved with the session."""
Restrain = Callable[[Tensor], Tensor]
"""From a change [d_out, d_in] to one that is allowed."""


@dataclass(frozen=True)
class Parts:
    """The parts of one layer's linear system; see `linalg.solve.System`."""

    ridge: float
    subspace: Subspace | None
    second_moment: Tensor | None
    moment_weight: float
    past_keys: Tensor | None
    keys: Tensor
    """Keys of this batch, [d_in, u], for plug-ins to look at."""


class Plugin:
    """Changes one step of a method; each hook gives back what it was given unless overridden.

    A plug-in is a frozen dataclass: its fields are its options. `solves` says that it needs a
    method with a linear system, `searches` one with a target search.
    """

    name = ""
    title = ""
    paper = ""
    summary = ""
    solves = False
    searches = False

    def search(self, hp: Hyperparameters) -> Hyperparameters:
        """Settings of the target search."""
        return hp

    def searching(self, problem: Problem, memory: Memory) -> AbstractContextManager[None]:
        """The model's state while targets are searched."""
        return nullcontext()

    def targets(self, problem: Problem, found: Targets, memory: Memory) -> Targets:
        """The target values of a batch."""
        return found

    def system(self, problem: Problem, layer: int, parts: Parts, memory: Memory) -> Parts:
        """The linear system of a layer."""
        return parts

    def restrain(self, problem: Problem, layer: int) -> Restrain | None:
        """For methods that follow gradients: what brings the change back after each step."""
        return None

    def delta(self, problem: Problem, layer: int, delta: LowRank, memory: Memory) -> LowRank:
        """The change of a layer, with the weights as they are before it."""
        return delta

    def after(
        self,
        problem: Problem,
        deltas: Mapping[int, LowRank],
        keys: Mapping[int, Tensor],
        memory: Memory,
    ) -> None:
        """Learn from a batch that is done: its changes and keys by layer."""


def plugins() -> dict[str, type[Plugin]]:
    """Every known plug-in by name, the package's own first."""
    from alphaedit.methods import plugins as home

    found: dict[str, type[Plugin]] = {}
    for module in sorted(iter_modules(home.__path__), key=lambda m: m.name):
        kind: type[Plugin] = import_module(f"{home.__name__}.{module.name}").PLUGIN
        found[kind.name] = kind
    for point in entry_points(group=ENTRY_POINTS):
        kind = point.load()
        found.setdefault(kind.name, kind)
    return found


def make(spec: str) -> Plugin:
    """The plug-in that "name" or "name:option=value,option=value" asks for.

    Raises:
        UnknownNameError: no such plug-in or option.
        ConfigError: an option without a value, or of the wrong type.
    """
    name, _, rest = spec.partition(":")
    known = plugins()
    name = name.strip().lower().replace("_", "-")
    if name not in known:
        raise unknown_name("plug-in", name, list(known))
    kind = known[name]
    given: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        option, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(
                f"Plug-in {name}: {part!r} is not an option.",
                remedy=f"Write {name}:option=value.",
            )
        given[option.strip()] = yaml.safe_load(value)
    return _checked(kind, given)


def _checked(kind: type[Plugin], given: Mapping[str, Any]) -> Plugin:
    options = list(options_of(kind))
    for option, value in given.items():
        if option not in options:
            raise unknown_name(f"option of plug-in {kind.name}", option, options)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(
                f"Plug-in {kind.name}: {option} is {value!r}.", remedy="Give a number."
            )
    return kind(**given)


def options_of(kind: type[Plugin]) -> dict[str, Any]:
    """Options of a plug-in and their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def chain(
    hp: Hyperparameters, own: Sequence[Plugin] = (), *, method: str, solves: bool, searches: bool
) -> list[Plugin]:
    """The plug-ins of a run: those asked for, then the method's own.

    Raises:
        ConfigError: a plug-in does not fit the method, or is given twice.
    """
    specs: Iterable[str] = (*(("project",) if hp.project else ()), *hp.plugins)
    asked = [make(spec) for spec in specs]
    for plugin in asked:
        if (plugin.solves and not solves) or (plugin.searches and not searches):
            need = "a linear system" if plugin.solves else "a target search"
            raise ConfigError(
                f"Plug-in {plugin.name} does not fit {method}: it needs a method with {need}.",
                remedy="Leave it out, or choose another method (see `alphaedit methods`).",
            )
    names = [plugin.name for plugin in [*asked, *own]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Plug-in {twice[0]} is given twice (or is part of {method}).", remedy="Leave one out."
        )
    return [*asked, *own]


def run_delta(
    chosen: Sequence[Plugin], problem: Problem, layer: int, delta: LowRank, memory: Memory
) -> LowRank:
    """`delta` as all plug-ins leave it."""
    for plugin in chosen:
        delta = plugin.delta(problem, layer, delta, memory)
    return delta
