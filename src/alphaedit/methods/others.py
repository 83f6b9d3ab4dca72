"""Methods and plug-ins of other packages, by entry point; a broken one harms nobody else."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from alphaedit.core.errors import BrokenEntryPoint, ConfigError


@dataclass(frozen=True)
class Broken:
    """An entry point that gives nothing usable, and why."""

    point: EntryPoint
    why: str

    @property
    def package(self) -> str:
        """The distribution that declares it."""
        distribution = getattr(self.point, "dist", None)
        return distribution.name if distribution is not None else "an unknown package"

    def __str__(self) -> str:
        return (
            f"entry point {self.point.name} = {self.point.value} of package {self.package} "
            f"({self.point.group}): {self.why}"
        )


def load(
    points: Iterable[EntryPoint], problem: Callable[[Any], str | None]
) -> tuple[dict[str, Any], list[Broken]]:
    """What entry points give, by its own name, and those that are broken.

    Args:
        problem: what is wrong with what was loaded, if anything.
    """
    loaded: dict[str, Any] = {}
    broken: list[Broken] = []
    for point in points:
        try:
            thing = point.load()
            wrong = problem(thing)
        except (Exception, SystemExit) as error:  # code of others raises what it likes
            lines = str(error).strip().splitlines() or [""]
            broken.append(Broken(point, f"{type(error).__name__}: {lines[0]}"))
            continue
        if wrong:
            broken.append(Broken(point, wrong))
        else:
            loaded.setdefault(thing.name, thing)
    return loaded, broken


def warn(kind: str, broken: Iterable[Broken]) -> None:
    """Say which entry points are left out."""
    for entry in broken:
        warnings.warn(
            BrokenEntryPoint(
                f"A {kind} is left out, as it cannot be loaded: {entry}. Mend or uninstall "
                f"{entry.package}."
            ),
            stacklevel=3,
        )


def refuse(kind: str, name: str, broken: Iterable[Broken]) -> None:
    """Tell why the method or plug-in `name` is not there, if a broken entry point is called so.

    Raises:
        ConfigError: names the package and what went wrong.
    """
    for entry in broken:
        if entry.point.name.lower().replace("_", "-") == name:
            raise ConfigError(
                f"The {kind} {name!r} cannot be loaded: {entry}.",
                remedy=f"Mend or uninstall {entry.package}, or choose another {kind}.",
            )
