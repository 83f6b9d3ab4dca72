"""`alphaedit help`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from alphaedit.cli import complete, options
from alphaedit.cli.options import examples
from alphaedit.core.errors import unknown_name

EXAMPLES = examples(
    "alphaedit help", "alphaedit help edit", "alphaedit help world facts", "alphaedit help --json"
)


def help_page(
    ctx: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="COMMAND",
            help="A command of `alphaedit`, such as edit, or world facts.",
            show_default="all",
            autocompletion=complete.commands,
        ),
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> dict[str, Any] | None:
    """Show the help page of a command, or list all commands."""
    root = ctx.find_root()
    current: Any = root.command
    at: Any = root
    path = ["alphaedit"]
    for name in command or ():
        known = getattr(current, "commands", {})
        if name not in known:
            raise unknown_name("command", " ".join([*path[1:], name]), list(known))
        current = known[name]
        path.append(name)
        at = type(root)(current, info_name=name, parent=at)
    if json:
        return _described(current, at, " ".join(path))
    text = current.get_help(at)
    if text:  # else typer has printed it
        print(text)
    return None


def _described(command: Any, ctx: Any, name: str) -> dict[str, Any]:
    """A command, its parts and its options as JSON values."""
    inner = getattr(command, "commands", None)
    return {
        "command": name,
        "help": " ".join((command.help or "").split()),
        "commands": {
            key: " ".join((subcommand.help or "").split()).split(". ")[0]
            for key, subcommand in inner.items()
        }
        if inner is not None
        else None,
        "options": [
            {
                "names": list(param.opts) if param.param_type_name == "option" else [],
                "metavar": param.metavar,
                "required": param.required,
                "repeatable": bool(getattr(param, "multiple", False) or param.nargs == -1),
                "help": getattr(param, "help", None),
            }
            for param in command.params
        ],
    }
