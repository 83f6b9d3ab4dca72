"""Methods by name: every module of `zoo`, and third-party entry points."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from alphaedit.core.errors import unknown_name
from alphaedit.methods import zoo
from alphaedit.methods.base import Method

ENTRY_POINTS = "alphaedit.methods"


def methods() -> dict[str, Method]:
    """Every known method by name, the package's own first."""
    found: dict[str, Method] = {}
    for module in sorted(iter_modules(zoo.__path__), key=lambda m: m.name):
        method: Method = import_module(f"{zoo.__name__}.{module.name}").METHOD
        found[method.name] = method
    for point in entry_points(group=ENTRY_POINTS):
        method = point.load()
        found.setdefault(method.name, method)
    return found


def get_method(name: str) -> Method:
    """The method called `name`; case and underscores do not matter.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest.
    """
    known = methods()
    key = name.lower().replace("_", "-")
    if key not in known:
        raise unknown_name("method", name, list(known))
    return known[key]
