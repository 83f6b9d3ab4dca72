"""What an editor checks, says and shows while it takes a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphaedit.core.arguments import as_count
from alphaedit.stats.corpus import check_corpus

LOG = logging.getLogger(__name__)


def check_loading(model: Any, corpus: str | None, tokens: int | None) -> None:
    """Refuse what is impossible, and log what happens to a loaded model."""
    check_corpus(corpus)
    if tokens is not None:
        as_count("tokens", tokens)
    if not isinstance(model, (str, Path)):
        _tell_what_changes(model)


@contextmanager
def library_bars(shown: bool) -> Iterator[None]:
    """Transformers' own bars, unless they are not wanted, for the length of a block."""
    from transformers.utils import logging as library

    off = library.is_progress_bar_enabled() and not shown
    if off:
        library.disable_progress_bar()
    try:
        yield
    finally:
        if off:
            library.enable_progress_bar()


def _tell_what_changes(model: Any) -> None:
    """Log what an editor does to a loaded model besides editing it."""
    if getattr(model, "training", False):
        LOG.warning("%s was in training mode; it is put into evaluation mode", name_of(model))
    parameters = getattr(model, "parameters", None)
    if callable(parameters) and any(parameter.requires_grad for parameter in parameters()):
        LOG.info("gradients of the parameters of %s are switched off", name_of(model))


def name_of(model: Any) -> str:
    """What to call a model: its path or name, or its class."""
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
