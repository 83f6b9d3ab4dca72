"""Editing methods, and plug-ins that change a step of them.

``alphaedit.methods()`` lists all by name. Each is an attribute too, also those of other packages,
and is called with its settings: ``alphaedit.methods.MemitHistory(clamp=0.5)``.
"""

import sys
from typing import TYPE_CHECKING

from alphaedit.core.catalogue import Catalogue

if TYPE_CHECKING:
    from alphaedit.methods.base import Method

    def __getattr__(name: str) -> Method: ...


def listing() -> "dict[str, Method]":
    """See `registry.methods`."""
    from alphaedit.methods.registry import methods

    return methods()


def objects() -> "dict[str, Method]":
    """See `registry.method_objects`."""
    from alphaedit.methods.registry import method_objects

    return method_objects()


sys.modules[__name__].__class__ = Catalogue
