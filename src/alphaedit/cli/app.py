"""`alphaedit`: the commands, and one place where errors become messages and exit codes."""

from __future__ import annotations

import os
import sys

import typer

from alphaedit import __version__
from alphaedit.cli import ask, demo, edit, evaluate, methods, revert, stats, world
from alphaedit.cli.common import emit, err
from alphaedit.core.errors import AlphaEditError

app = typer.Typer(
    name="alphaedit",
    help="Change what a language model knows, and nothing else.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo.demo)
app.command("edit")(edit.edit)
app.command("ask")(ask.ask)
app.command("stats")(stats.stats)
app.command("eval")(evaluate.evaluate)
app.command("revert")(revert.revert)
app.command("methods")(methods.methods)
app.add_typer(world.app, name="world")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True),
) -> None:
    """Change what a language model knows, and nothing else."""


def _fail(error: AlphaEditError) -> None:
    if "--json" in sys.argv:
        about = {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}
        emit({"error": about})
    err.print(f"[bold red]Error:[/] {_escape(error.message)}", highlight=False, soft_wrap=True)
    if error.remedy:
        err.print(_escape(error.remedy), highlight=False, soft_wrap=True)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def main() -> None:
    """Run the command line; exit code 0, 1 (error), 2 (usage) or 130 (interrupted)."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    try:
        app(standalone_mode=False)
    except AlphaEditError as error:
        if os.environ.get("ALPHAEDIT_DEBUG"):
            raise
        _fail(error)
        sys.exit(1)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("Interrupted. No model, session or cache was left half-written.")
        sys.exit(130)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))
