"""Groups of options: one parameter of a command in place of many."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, TypeVar, get_type_hints

R = TypeVar("R")


def grouped(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options of its groups.

    A group is a frozen dataclass whose fields are options, or groups; a parameter of the command
    that is annotated with one stands for its fields. Typer reads the signature made here, which
    has them in its place; the command gets them as one object. A group with a method `check` is
    checked before anything else is done.
    """
    given = inspect.signature(command, eval_str=True)
    groups = {
        parameter.name: parameter.annotation
        for parameter in given.parameters.values()
        if is_dataclass(parameter.annotation)
    }
    shown: list[inspect.Parameter] = []
    for parameter in given.parameters.values():
        if parameter.name in groups:
            shown += _fields_of(groups[parameter.name])
        else:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def wrapper(**values: Any) -> R:
        made = {name: _collected(group, values) for name, group in groups.items()}
        return command(**values, **made)

    wrapper.__signature__ = given.replace(parameters=shown)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in shown}
    return wrapper


def _fields_of(group: Any) -> list[inspect.Parameter]:
    """The options of a group, as parameters of a command."""
    kinds = get_type_hints(group, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for field in fields(group):
        if is_dataclass(kinds[field.name]):
            parameters += _fields_of(kinds[field.name])
            continue
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=kinds[field.name],
            )
        )
    return parameters


def _collected(group: Any, values: dict[str, Any]) -> Any:
    """One group of the values given, which are taken out of `values`."""
    kinds = get_type_hints(group)
    made = group(
        **{
            field.name: (
                _collected(kinds[field.name], values)
                if is_dataclass(kinds[field.name])
                else values.pop(field.name)
            )
            for field in fields(group)
            if is_dataclass(kinds[field.name]) or field.name in values
        }
    )
    if hasattr(made, "check"):
        made.check()
    return made
