"""Methods by name: every module of `zoo`, and third-party entry points."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Any

from alphaedit.core.arguments import as_text
from alphaedit.core.errors import ConfigError, unknown_name
from alphaedit.methods import others, zoo
from alphaedit.methods.base import Install, Method, Write
from alphaedit.methods.config import Hyperparameters, Settings

ENTRY_POINTS = "alphaedit.methods"


def methods() -> dict[str, Method]:
    """Every known method by name, the package's own first.

    Warns:
        BrokenEntryPoint: a method of another package cannot be loaded; it is left out.
    """
    foreign, broken = _foreign()
    others.warn("method", broken)
    own = _own()
    return own | {name: method for name, method in foreign.items() if name not in own}


def get_method(name: str | Method) -> Method:
    """The method called `name`; case and underscores do not matter. A method is given back.

    ``get_method("alphaedit")(ridge=5.0)`` is the method with a setting, to be given to `edit`.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest.
        ConfigError: another package declares it, and it cannot be loaded; or it is a method that
            edits on disk could not be understood by.
    """
    if isinstance(name, Method):
        return _checked(name)
    own = _own()
    key = as_text("The method", name).lower().replace("_", "-")
    if key in own:  # other packages are not asked, nor can they be in the way
        return own[key]
    foreign, broken = _foreign()
    if key in foreign:
        return foreign[key]
    others.refuse("method", key, broken)
    others.warn("method", broken)
    raise unknown_name("method", name, [*own, *foreign])


def method_objects() -> dict[str, Method]:
    """Every known method by what it is called in Python, such as `MemitHistory`."""
    objects: dict[str, Method] = {}
    for method in methods().values():
        objects.setdefault(method.object_name, method)
    return objects


def _checked(method: Method) -> Method:
    """`method`, if what edits on disk say of it can be understood later.

    One that is not registered may change weights, which need no method to be brought into force.
    """
    known = _own().get(method.name) or _foreign()[0].get(method.name)
    if known is not None and replace(method, given={}) != known:
        raise ConfigError(
            f"The method {method.name!r} that is given is not the one that is known by this name.",
            remedy="Give it a name of its own.",
        )
    for name in method.installs if known is None else ():
        if installer(name) is not method.installs[name]:
            raise ConfigError(
                f"The method {method.name!r} makes changes called {name!r}, which nobody could "
                "bring into force later: it is not registered.",
                remedy="Declare it as an entry point (see docs/writing-a-method.md).",
            )
    return method


def installer(name: str) -> Install | None:
    """What brings changes called `name` into force, if a method is here that knows them."""
    for known in (_own, methods):  # other packages are asked only for what is not our own
        for method in known().values():
            if name in method.installs:
                return method.installs[name]
    return None


def writer(name: str) -> Write | None:
    """What makes weights of changes called `name`, if a method is here that can."""
    for known in (_own, methods):
        for method in known().values():
            if name in method.writes:
                return method.writes[name]
    return None


def config_of(name: str) -> type[Settings]:
    """The class of settings of method `name`; what methods have in common if there is none."""
    known = methods()
    return known[name].config if name in known else Hyperparameters


def _own() -> dict[str, Method]:
    own: dict[str, Method] = {}
    for module in sorted(iter_modules(zoo.__path__), key=lambda m: m.name):
        method: Method = import_module(f"{zoo.__name__}.{module.name}").METHOD
        own[method.name] = method
    return own


def _foreign() -> tuple[dict[str, Method], list[others.Broken]]:
    return others.load(entry_points(group=ENTRY_POINTS), _problem)


def _problem(thing: Any) -> str | None:
    for field in ("name", "title", "paper", "summary"):
        if not isinstance(getattr(thing, field, None), str):
            return f"{type(thing).__name__} has no text {field!r}, which methods have"
    if not isinstance(thing, Method):
        name = getattr(thing, "__name__", type(thing).__name__)
        return f"{name} is no object of a class derived from alphaedit.methods.base.Method"
    return None
