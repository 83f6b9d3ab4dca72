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

from torch import Tensor

from alphaedit.core.arguments import as_text
from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Site
from alphaedit.linalg.subspace import Subspace
from alphaedit.methods import others
from alphaedit.methods.base import Method, Problem, Statistics
from alphaedit.methods.config import Hyperparameters, Settings
from alphaedit.methods.steps.target_value import Targets

ENTRY_POINTS = "alphaedit.plugins"
LARGEST = 1e300
"""Numbers of options are smaller."""
UNKNOWN = "Declare its class as an entry point (see docs/writing-a-method.md)."
"""What to do about a plug-in that no name leads to."""
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
    method with a linear system, `searches` one with a target search; `second_moments` that it reads
    those of the edited layers. Where a layer is a mixture of
    experts, its hooks are called for each expert that is edited, with an `Expert` as `layer`.
    """

    name = ""
    title = ""
    paper = ""
    summary = ""
    solves = False
    searches = False
    second_moments = False

    @property
    def spec(self) -> str:
        """The text that stands for it, as --plugin takes it and the ledger keeps it.

        Options that have their default are left out.

        Raises:
            ConfigError: no text gives this plug-in, so that nobody could make it again.
        """
        options = {
            option: value
            for option, default in options_of(type(self)).items()
            if (value := getattr(self, option)) != default
        }
        text = ",".join(f"{option}={value}" for option, value in options.items())
        spec = f"{self.name}:{text}" if text else self.name
        try:
            again = make(spec)
        except ConfigError as error:
            raise ConfigError(
                f"Plug-in {type(self).__name__} cannot be kept with an edit: {error.message}",
                remedy=f"{UNKNOWN} Options are numbers with a default.",
            ) from error
        if again != self:
            raise ConfigError(
                f"Plug-in {self!r} cannot be kept with an edit: {spec!r} stands for {again!r}.",
                remedy=f"{UNKNOWN} Options are numbers with a default.",
            )
        return spec

    def check(self, option: str, allowed: str, fits: bool) -> None:
        """Refuse a value of an option, for `__post_init__`.

        Args:
            option: its name.
            allowed: what it may be, such as "a share above 0, up to 1".
            fits: whether it is.

        Raises:
            ConfigError: it is not.
        """
        if not fits:
            raise ConfigError(
                f"Plug-in {self.name}: {option} is {getattr(self, option)!r}.",
                remedy=f"Give {allowed}.",
            )

    def statistics(self, known: Statistics) -> Statistics:
        """What is known of the preserved keys."""
        return known

    def search(self, hp: Hyperparameters) -> Hyperparameters:
        """Settings of the target search."""
        return hp

    def searching(self, problem: Problem, memory: Memory) -> AbstractContextManager[None]:
        """The model's state while targets are searched."""
        return nullcontext()

    def targets(self, problem: Problem, targets: Targets, memory: Memory) -> Targets:
        """The target values of a batch."""
        return targets

    def system(self, problem: Problem, layer: Site, parts: Parts, memory: Memory) -> Parts:
        """The linear system of a layer."""
        return parts

    def restrain(self, problem: Problem, layer: Site) -> Restrain | None:
        """For methods that follow gradients: what brings the change back after each step."""
        return None

    def delta(self, problem: Problem, layer: Site, delta: LowRank, memory: Memory) -> LowRank:
        """The change of a layer, with the weights as they are before it."""
        return delta

    def after(
        self,
        problem: Problem,
        deltas: Mapping[Site, LowRank],
        keys: Mapping[int, Tensor],
        memory: Memory,
    ) -> None:
        """Learn from a batch that is done: its changes and keys by layer."""


def plugins() -> dict[str, type[Plugin]]:
    """Every known plug-in by name, the package's own first.

    Warns:
        BrokenEntryPoint: a plug-in of another package cannot be loaded; it is left out.
    """
    own = _own()
    foreign, broken = _foreign()
    others.warn("plug-in", broken)
    return own | {name: kind for name, kind in foreign.items() if name not in own}


def get_plugin(name: str) -> type[Plugin]:
    """The plug-in called `name`; case and underscores do not matter.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest.
        ConfigError: another package declares it, and it cannot be loaded.
    """
    own = _own()
    key = as_text("The plug-in", name).strip().lower().replace("_", "-")
    if key in own:
        return own[key]
    foreign, broken = _foreign()
    if key in foreign:
        return foreign[key]
    others.refuse("plug-in", key, broken)
    others.warn("plug-in", broken)
    raise unknown_name("plug-in", key, [*own, *foreign])


def plugin_classes() -> dict[str, type[Plugin]]:
    """Every known plug-in by the name of its class, the package's own first."""
    classes: dict[str, type[Plugin]] = {}
    for kind in plugins().values():
        classes.setdefault(kind.__name__, kind)
    return classes


def _own() -> dict[str, type[Plugin]]:
    from alphaedit.methods import plugins as home

    own: dict[str, type[Plugin]] = {}
    for module in sorted(iter_modules(home.__path__), key=lambda m: m.name):
        kind: type[Plugin] = import_module(f"{home.__name__}.{module.name}").PLUGIN
        own[kind.name] = kind
    return own


def _foreign() -> tuple[dict[str, type[Plugin]], list[others.Broken]]:
    return others.load(entry_points(group=ENTRY_POINTS), _problem)


def _problem(thing: Any) -> str | None:
    if not (isinstance(thing, type) and issubclass(thing, Plugin)):
        return f"{getattr(thing, '__name__', type(thing).__name__)} is no class of Plugin"
    if not thing.name or not isinstance(thing.name, str):
        return f"{thing.__name__} has no name"
    return None


def make(spec: str) -> Plugin:
    """The plug-in that "name" or "name:option=value,option=value" asks for.

    Raises:
        UnknownNameError: no such plug-in or option.
        ConfigError: an option without a value, or of the wrong type.
    """
    name, _, rest = as_text("A plug-in", spec).partition(":")
    kind = get_plugin(name)
    name = kind.name
    given: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        option, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(
                f"Plug-in {name}: {part!r} is not an option.",
                remedy=f"Write {name}:option=value.",
            )
        given[option.strip()] = _number(value.strip())
    return _checked(kind, given)


def _number(text: str) -> Any:
    """The number that `text` is, or `text` itself."""
    for read in (int, float):
        try:
            value = read(text)
        except (ValueError, OverflowError):
            continue
        return value if abs(value) < LARGEST else text
    return text


def _checked(kind: type[Plugin], given: Mapping[str, Any]) -> Plugin:
    options = list(options_of(kind))
    for option, value in given.items():
        if option not in options:
            raise unknown_name(f"option of plug-in {kind.name}", option, options)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(
                f"Plug-in {kind.name}: {option} is {str(value)[:80]!r}.",
                remedy="Give a number.",
            )
        if isinstance(options_of(kind)[option], int) and isinstance(value, float):
            raise ConfigError(
                f"Plug-in {kind.name}: {option} is {value:g}.", remedy="Give a whole number."
            )
    return kind(**given)


def options_of(kind: type[Plugin]) -> dict[str, Any]:
    """Options of a plug-in and their defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def chain(hp: Settings, own: Sequence[Plugin] = (), *, method: Method) -> list[Plugin]:
    """The plug-ins of a run: those asked for, then the method's own.

    Raises:
        ConfigError: a plug-in does not fit the method, or is given twice.
    """
    return [*asked_for(hp.plugins, project=hp.project, own=own, method=method), *own]


def statistics_for(method: Method, hp: Settings, known: Statistics) -> Statistics:
    """What a method with these settings takes for the preserved keys: its plug-ins may say."""
    for plugin in chain(hp, [make(spec) for spec in method.plugins], method=method):
        known = plugin.statistics(known)
    return known


def needs_moments(method: Method, hp: Settings) -> bool:
    """Whether a method with these settings, or one of its plug-ins, reads second moments."""
    own = [make(spec) for spec in method.plugins]
    wanted = (plugin.second_moments for plugin in chain(hp, own, method=method))
    return method.needs.second_moments or any(wanted)


def asked_for(
    specs: Iterable[str], *, project: bool, own: Sequence[Plugin] = (), method: Method
) -> list[Plugin]:
    """The plug-ins that are asked for.

    Args:
        specs: texts that stand for them.
        project: "project" before all others.
        own: the method's own.

    Raises:
        ConfigError: one does not fit the method, or is given twice.
    """
    asked = [make(spec) for spec in (*(("project",) if project else ()), *specs)]
    needs = method.needs
    for plugin in asked:
        if needs.layers == "none" or not (needs.weights or plugin.searches):
            raise ConfigError(
                f"Plug-in {plugin.name} does not fit {method.name}, which leaves the weights "
                "alone.",
                remedy="Leave it out, or choose another method (see `alphaedit methods`).",
            )
        if (plugin.solves and not needs.linear_system) or (
            plugin.searches and not needs.target_search
        ):
            need = "a linear system" if plugin.solves else "a target search"
            raise ConfigError(
                f"Plug-in {plugin.name} does not fit {method.name}: it needs a method with {need}.",
                remedy="Leave it out, or choose another method (see `alphaedit methods`).",
            )
    names = [plugin.name for plugin in [*asked, *own]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            f"Plug-in {twice[0]} is given twice (or is part of {method.name}).",
            remedy="Leave one out.",
        )
    return asked


def run_delta(
    chosen: Sequence[Plugin], problem: Problem, layer: Site, delta: LowRank, memory: Memory
) -> LowRank:
    """`delta` as all plug-ins leave it."""
    for plugin in chosen:
        delta = plugin.delta(problem, layer, delta, memory)
    return delta
