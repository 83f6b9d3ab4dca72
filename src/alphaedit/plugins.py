"""Plug-ins as objects: ``from alphaedit.plugins import Sphere``, then ``Sphere(strength=0.8)``.

``alphaedit.plugins()`` lists all by name. Each is an attribute too, also those of other packages.
"""

import sys
from typing import TYPE_CHECKING

from alphaedit.core.catalogue import Catalogue

if TYPE_CHECKING:
    from typing import Any

    from alphaedit.methods.plugin import Plugin

    def __getattr__(name: str) -> Any: ...


def listing() -> "dict[str, type[Plugin]]":
    """See `methods.plugin.plugins`."""
    from alphaedit.methods.plugin import plugins

    return plugins()


def objects() -> "dict[str, type[Plugin]]":
    """See `methods.plugin.plugin_classes`."""
    from alphaedit.methods.plugin import plugin_classes

    return plugin_classes()


sys.modules[__name__].__class__ = Catalogue
