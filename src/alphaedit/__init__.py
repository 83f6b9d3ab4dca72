"""Edit facts in language models through null-space projections.

The public names are loaded on first use, so that ``import alphaedit`` stays quick.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphaedit.core.edit import Edit
    from alphaedit.core.fact import Fact, load_facts
    from alphaedit.core.patch import Patch
    from alphaedit.editor.guard import Guard
    from alphaedit.editor.session import Editor
    from alphaedit.ledger.ledger import Ledger

# What is logged under this name is shown only where the caller sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__version__ = "0.1.0"
__all__ = ["Edit", "Editor", "Fact", "Guard", "Ledger", "Patch", "load_facts"]

_HOME = {
    "Edit": "alphaedit.core.edit",
    "Editor": "alphaedit.editor.session",
    "Fact": "alphaedit.core.fact",
    "Guard": "alphaedit.editor.guard",
    "Ledger": "alphaedit.ledger.ledger",
    "Patch": "alphaedit.core.patch",
    "load_facts": "alphaedit.core.fact",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
