"""From what was typed to what the library takes; mistakes are found before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.cli.options import AS_STORED, Loading
from alphaedit.cli.outputs import Output, check_outputs
from alphaedit.core import defaults
from alphaedit.core.errors import ConfigError
from alphaedit.jobs.settings import numbers

if TYPE_CHECKING:
    from pydantic import BaseModel

    from alphaedit.core.progress import Progress
    from alphaedit.core.ranks import Ranks
    from alphaedit.editor.guard import Guard
    from alphaedit.editor.session import Editor

__all__ = ["Output", "check_outputs", "guard_of", "join_ranks", "numbers", "open_editor"]
__all__ += ["overrides", "pairs"]


def open_editor(
    model: str,
    progress: Progress,
    *,
    loading: Loading = AS_STORED,
    ledger: Path | None = None,
    **opening: Any,
) -> Editor:
    """The editor for `model`, with the edits in force in `ledger`; `opening` as for `Opening`."""
    from alphaedit.jobs.opening import Opening

    return Opening(model=model, **vars(loading), **opening).open(progress, ledger=ledger)


def join_ranks(device: str | None, given: Mapping[str, Any]) -> Ranks | None:
    """The processes that torchrun started, once all agree on what was given; None without it.

    Raises:
        ConfigError: ranks were given different things.
        ResourceError: the others cannot be reached.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return None
    from alphaedit.core.ranks import from_environment

    ranks = from_environment(device)
    ranks.agree(given)
    return ranks


def guard_of(spec: str | None) -> Guard | None:
    """The guard that `--guard` asks for.

    Raises:
        ConfigError: an unknown action or option, or an impossible value.
        StatsError: its text is no file, or no text.
    """
    if spec is None:
        return None
    from alphaedit.editor.guard import Guard
    from alphaedit.stats.corpus import check_corpus

    guard = Guard.parse(spec)
    check_corpus(guard.text)
    return guard


def overrides(
    pairs: Sequence[str] | None,
    plugins: Sequence[str] | None = None,
    *,
    method: str = defaults.WEIGHTS,
) -> dict[str, Any]:
    """`--set KEY=VALUE` pairs and `--plugin`s as hyperparameters of `method`, of the right types.

    Raises:
        ConfigError: a pair has no "=", a name is unknown or given twice, or a value impossible.
    """
    if not pairs and not plugins:
        return {}
    from alphaedit.methods.config import build
    from alphaedit.methods.plugin import make
    from alphaedit.methods.registry import config_of

    given: dict[str, Any] = {}
    if plugins:
        for spec in plugins:
            make(spec)
        given["plugins"] = tuple(plugins)
    given |= _values(pairs or (), given)
    built = build({"layers": (0,), **given}, "--set", config_of(method))
    return {key: getattr(built, key) for key in given}


def pairs(given: Sequence[str] | None, config: type[BaseModel]) -> dict[str, Any]:
    """`--set KEY=VALUE` pairs as settings of class `config`, of the right types.

    Raises:
        ConfigError: see `overrides`.
    """
    from alphaedit.methods.config import build

    values = _values(given or (), ())
    built = build(values, "--set", config)
    return {key: getattr(built, key) for key in values}


def _values(pairs: Sequence[str], before: Collection[str]) -> dict[str, Any]:
    """Values of KEY=VALUE pairs as typed, layers as numbers; keys `before` were given already."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = (part.strip() for part in pair.partition("="))
        key = key.replace("-", "_")
        if not sign or not key or not value:
            raise ConfigError(f"--set {pair!r} is not KEY=VALUE.", remedy="Write --set clamp=1.5.")
        if key in given or key in before:
            raise ConfigError(f"--set {key} is given twice.", remedy="Give it once.")
        given[key] = numbers(value) if key == "layers" else None if value == "none" else value
    return given
