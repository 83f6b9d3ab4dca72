"""Edit facts in language models through null-space projections.

The public names are loaded on first use, so that ``import alphaedit`` stays quick.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphaedit import errors as errors
    from alphaedit.bench.data import EditRecord
    from alphaedit.bench.evaluation import evaluate, load_records
    from alphaedit.core.catalogue import Catalogue
    from alphaedit.core.edit import Edit
    from alphaedit.core.errors import AlphaEditError
    from alphaedit.core.fact import Fact, load_facts
    from alphaedit.core.patch import Patch
    from alphaedit.editor.guard import Guard
    from alphaedit.editor.session import Editor
    from alphaedit.ledger.ledger import Ledger
    from alphaedit.methods.base import Method
    from alphaedit.methods.plugin import get_plugin
    from alphaedit.methods.registry import get_method

    methods: Catalogue[Method]
    plugins: Catalogue[Any]

# What is logged under this name is shown only where the caller sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"
__all__ = [
    "AlphaEditError",
    "Edit",
    "EditRecord",
    "Editor",
    "Fact",
    "Guard",
    "Ledger",
    "Patch",
    "errors",
    "evaluate",
    "get_method",
    "get_plugin",
    "load_facts",
    "load_records",
    "methods",
    "plugins",
]

_HOME = {
    "AlphaEditError": "alphaedit.core.errors",
    "Edit": "alphaedit.core.edit",
    "EditRecord": "alphaedit.bench.data",
    "Editor": "alphaedit.editor.session",
    "Fact": "alphaedit.core.fact",
    "Guard": "alphaedit.editor.guard",
    "Ledger": "alphaedit.ledger.ledger",
    "Patch": "alphaedit.core.patch",
    "evaluate": "alphaedit.bench.evaluation",
    "get_method": "alphaedit.methods.registry",
    "get_plugin": "alphaedit.methods.plugin",
    "load_facts": "alphaedit.core.fact",
    "load_records": "alphaedit.bench.evaluation",
}
# Modules, the last two of which are called: `methods()`, `plugins()`.
_MODULES = ("errors", "methods", "plugins")


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
