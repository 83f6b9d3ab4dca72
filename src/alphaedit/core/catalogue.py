"""A module that is called for all it has by name, and has each as an attribute."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Generic, TypeVar

from alphaedit.core.errors import suggestion

T = TypeVar("T")


class Catalogue(ModuleType, Generic[T]):
    """The class of such a module: ``sys.modules[__name__].__class__ = Catalogue``.

    The module names two functions, which load what they list when they are first called.

    Attributes:
        listing: everything by the name that edits on disk and the command line have for it.
        objects: everything by what it is called in Python; names begin with a capital.
    """

    listing: Callable[[], dict[str, T]]
    objects: Callable[[], dict[str, T]]

    def __call__(self) -> dict[str, T]:
        """Everything by its name."""
        return self.listing()

    def __getattr__(self, name: str) -> T:
        """One thing by what it is called in Python; the case of letters does not matter."""
        message = f"module {self.__name__!r} has no attribute {name!r}"
        if not name[:1].isupper():
            raise AttributeError(message)
        known = self.objects()
        for spelling, thing in known.items():
            if spelling.casefold() == name.casefold():
                return thing
        raise AttributeError(f"{message}. {suggestion(name, known)}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.objects()})
