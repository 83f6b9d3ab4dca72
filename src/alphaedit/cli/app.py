"""The `alphaedit` command: its parts, and what happens when something goes wrong."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any, TextIO

import typer

from alphaedit.cli import (
    ability,
    ask,
    change,
    check,
    demo,
    edit,
    evaluate,
    experiment,
    export,
    history,
    methods,
    plan,
    revert,
    stats,
    trace,
    tune,
    upkeep,
    world,
)
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Interruption, Outcome, error_console, to_json
from alphaedit.core.errors import AlphaEditError, AlphaEditWarning

USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    name="alphaedit",
    help="Change what a language model knows, and nothing else.",
    epilog=examples(
        "alphaedit demo",
        "alphaedit ask bundled 'The mother tongue of Danielle Darrieux is'",
        "alphaedit edit bundled --prompt 'The mother tongue of {} is' "
        "--subject 'Danielle Darrieux' --target English -o my-edits",
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = {
    "Edit": (
        ("demo", demo.demo, demo.EXAMPLES),
        ("edit", edit.edit, edit.EXAMPLES),
        ("ask", ask.ask, ask.EXAMPLES),
        ("check", check.check, check.EXAMPLES),
        ("plan", plan.plan, plan.EXAMPLES),
        ("methods", methods.list_methods, methods.EXAMPLES),
        ("tune", tune.tune, tune.EXAMPLES),
    ),
    "Ledger": (
        ("init", change.init, change.INIT_EXAMPLES),
        ("log", history.log, history.LOG_EXAMPLES),
        ("show", history.show, history.SHOW_EXAMPLES),
        ("status", history.status, history.STATUS_EXAMPLES),
        ("diff", history.diff, history.DIFF_EXAMPLES),
        ("apply", change.apply, change.APPLY_EXAMPLES),
        ("revert", revert.revert, revert.EXAMPLES),
        ("checkout", change.checkout, change.CHECKOUT_EXAMPLES),
        ("squash", change.squash, change.SQUASH_EXAMPLES),
        ("merge", change.merge, change.MERGE_EXAMPLES),
        ("verify", upkeep.verify, upkeep.VERIFY_EXAMPLES),
        ("gc", upkeep.gc, upkeep.GC_EXAMPLES),
    ),
    "Deploy and share": (
        ("export", export.export, export.EXAMPLES),
        ("pack", upkeep.pack, upkeep.PACK_EXAMPLES),
        ("unpack", upkeep.unpack, upkeep.UNPACK_EXAMPLES),
        ("push", upkeep.push, upkeep.PUSH_EXAMPLES),
        ("pull", upkeep.pull, upkeep.PULL_EXAMPLES),
    ),
    "Measure": (
        ("eval", evaluate.evaluate, evaluate.EXAMPLES),
        ("ability", ability.ability, ability.EXAMPLES),
        ("experiment", experiment.experiment, experiment.EXAMPLES),
        ("report", experiment.report, experiment.REPORT_EXAMPLES),
        ("stats", stats.stats, stats.EXAMPLES),
        ("trace", trace.trace, trace.EXAMPLES),
    ),
}
for panel, commands in _COMMANDS.items():
    for name, function, epilog in commands:
        app.command(name, epilog=epilog, rich_help_panel=panel)(function)
app.add_typer(world.app, name="world", rich_help_panel="Bundled models")


def _version(wanted: bool) -> None:
    if wanted:
        from alphaedit import __version__

        print(f"alphaedit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Change what a language model knows, and nothing else."""


def _asked_for(argv: Sequence[str], flag: str) -> bool:
    """Whether `flag` is among the options; looked up here because parsing itself may fail."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    return flag in options


def _report(kind: str, message: str, remedy: str | None, *, as_json: bool) -> None:
    # Of several ranks one speaks on standard output; at once, as the end of another may end it.
    if as_json and (os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"):
        error = {"type": kind, "message": message, "remedy": remedy}
        print(to_json({"error": error}), flush=True)
        return
    console = error_console()
    console.print("[bold red]Error:[/bold red] ", end="")
    console.print(message, markup=False, highlight=False, soft_wrap=True)
    if remedy:
        console.print(remedy, markup=False, highlight=False, soft_wrap=True)


def run(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name) and return its exit code.

    With --json, standard output gets one JSON object and nothing else, whatever happens: what
    commands and libraries print meanwhile goes to standard error.
    """
    as_json = _asked_for(argv, "--json")
    debug = _asked_for(argv, "--debug") or bool(os.environ.get("ALPHAEDIT_DEBUG"))
    try:
        return _invoke(list(argv), silence=as_json)
    except BrokenPipeError:
        # The reader of our output has gone; keep the interpreter from complaining about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Interruption, KeyboardInterrupt, typer.Abort) as stop:
        return _interrupted(stop, as_json=as_json)
    except Exception as error:
        if _comes_from_interrupt(error):
            return _interrupted(error, as_json=as_json)
        if debug:
            traceback.print_exc()
        return _fail(error, as_json=as_json, debug=debug)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, AlphaEditWarning):
        console = error_console()
        console.print("[bold yellow]Warning:[/bold yellow] ", end="")
        console.print(str(message), markup=False, highlight=False, soft_wrap=True)
    else:
        error_console().print(f"{category.__name__}: {message}", markup=False, highlight=False)


def _invoke(argv: list[str], *, silence: bool) -> int:
    def call() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always", AlphaEditWarning)
            warnings.showwarning = _show_warning
            return app(args=argv, prog_name="alphaedit", standalone_mode=False)

    if silence and not ({"-h", "--help", "--version"} & set(argv)):
        with redirect_stdout(sys.stderr):
            result = call()
        # Commands return what they have to say.
        if isinstance(result, dict):
            print(to_json(result))
    else:
        result = call()
    if result == INTERRUPTED:  # newer typer makes an exit code of Ctrl-C
        raise Interruption
    if isinstance(result, Outcome):
        return result.code
    return result if isinstance(result, int) else 0


def _interrupted(stop: BaseException, *, as_json: bool) -> int:
    note = stop.note if isinstance(stop, Interruption) else Interruption.NOTHING
    _report("Interrupted", "Interrupted.", note, as_json=as_json)
    return INTERRUPTED


def _comes_from_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind `error`: lazy imports of transformers make another error of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(error: Exception, *, as_json: bool, debug: bool) -> int:
    if isinstance(error, AlphaEditError):
        _report(type(error).__name__, error.message, error.remedy, as_json=as_json)
        return FAILED
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # wrong usage
        message = str(error.format_message()).strip()
        if not message:  # bare `alphaedit` or `alphaedit world`: help has been shown
            return USAGE
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "alphaedit"
        remedy = f"See {command} --help."
        _report("UsageError", message, remedy, as_json=as_json)
        return USAGE
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        remedy = "Nothing was changed. Use a smaller batch or model, or --dtype bfloat16."
        _report("ResourceError", "Memory does not suffice.", remedy, as_json=as_json)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}."
        remedy = "Check that the path exists, may be written, and that the disk is not full."
        _report("ResourceError", message, remedy, as_json=as_json)
    else:
        lines = str(error).strip().splitlines() or [""]
        remedy = "" if debug else "This is a bug of alphaedit. See more of it with --debug."
        _report(kind, f"{kind}: {lines[0]}", remedy or None, as_json=as_json)
    return FAILED


def main() -> None:
    """Entry point of the command `alphaedit`."""
    code = run(sys.argv[1:])
    if "alphaedit.core.ranks" in sys.modules:
        sys.modules["alphaedit.core.ranks"].leave()
    sys.exit(code)
