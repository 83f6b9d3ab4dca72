"""A word when somebody saves a model whose edits are not in its weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn

from alphaedit.core.errors import AlphaEditWarning

NAME = "save_pretrained"


def tell_when_saved(model: nn.Module) -> Callable[[], None]:
    """Let the model's own `save_pretrained` warn that it loses what hooks do; undone by the result.

    It saves as ever.
    """
    if not hasattr(type(model), NAME) or NAME in vars(model):
        return lambda: None
    # A method and not a closure: copies of the model save themselves.
    setattr(model, NAME, MethodType(_save, model))

    def undo() -> None:
        vars(model).pop(NAME, None)

    return undo


def _save(model: Any, *args: Any, **options: Any) -> Any:
    warnings.warn(
        AlphaEditWarning(
            "Edits are in force that act while the model runs, and what the model's own "
            "save_pretrained writes has none of them. Use save_pretrained of the Editor, or save "
            "its ledger."
        ),
        stacklevel=2,
    )
    return getattr(type(model), NAME)(model, *args, **options)
