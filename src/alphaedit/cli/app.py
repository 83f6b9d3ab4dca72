"""The `alphaedit` command: its parts, and what happens when something goes wrong."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from alphaedit.cli import (
    ability,
    ask,
    change,
    check,
    demo,
    doctor,
    edit,
    evaluate,
    experiment,
    export,
    failures,
    forget,
    help_page,
    history,
    methods,
    plan,
    revert,
    serve,
    stats,
    studio,
    trace,
    train,
    tune,
    upkeep,
    world,
)
from alphaedit.cli.command import Command, Group
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Interruption, Outcome, Started, lenient, print_json
from alphaedit.core.errors import AlphaEditWarning

app = typer.Typer(
    name="alphaedit",
    cls=Group,
    help="Change what a language model knows, and nothing else.",
    epilog=examples(
        "alphaedit demo",
        "alphaedit ask bundled 'The mother tongue of Danielle Darrieux is'",
        "alphaedit edit bundled --prompt 'The mother tongue of {} is' "
        "--subject 'Danielle Darrieux' --target English -o my-edits",
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = {
    "Edit": (
        ("demo", demo.demo, demo.EXAMPLES),
        ("studio", studio.studio, studio.EXAMPLES),
        ("edit", edit.edit, edit.EXAMPLES),
        ("ask", ask.ask, ask.EXAMPLES),
        ("check", check.check, check.EXAMPLES),
        ("plan", plan.plan, plan.EXAMPLES),
        ("methods", methods.list_methods, methods.EXAMPLES),
        ("tune", tune.tune, tune.EXAMPLES),
        ("train", train.train, train.EXAMPLES),
    ),
    "Ledger": (
        ("init", change.init, change.INIT_EXAMPLES),
        ("log", history.log, history.LOG_EXAMPLES),
        ("show", history.show, history.SHOW_EXAMPLES),
        ("status", history.status, history.STATUS_EXAMPLES),
        ("diff", history.diff, history.DIFF_EXAMPLES),
        ("apply", change.apply, change.APPLY_EXAMPLES),
        ("revert", revert.revert, revert.EXAMPLES),
        ("forget", forget.forget, forget.EXAMPLES),
        ("checkout", change.checkout, change.CHECKOUT_EXAMPLES),
        ("squash", change.squash, change.SQUASH_EXAMPLES),
        ("merge", change.merge, change.MERGE_EXAMPLES),
        ("verify", upkeep.verify, upkeep.VERIFY_EXAMPLES),
        ("gc", upkeep.gc, upkeep.GC_EXAMPLES),
    ),
    "Deploy and share": (
        ("serve", serve.serve, serve.EXAMPLES),
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
    "Help": (
        ("help", help_page.help_page, help_page.EXAMPLES),
        ("doctor", doctor.doctor, doctor.EXAMPLES),
    ),
}
for panel, commands in _COMMANDS.items():
    for name, function, epilog in commands:
        app.command(name, cls=Command, epilog=epilog, rich_help_panel=panel)(function)
for known in world.app.registered_commands:
    known.cls = Command
app.add_typer(world.app, cls=Group, name="world", rich_help_panel="Bundled models")


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


def run(argv: Sequence[str]) -> int:
    """Run the command line `argv` (without the program's name) and return its exit code.

    With --json, standard output gets one JSON object and nothing else, whatever happens: what
    commands and libraries print meanwhile goes to standard error.
    """
    out = failures.Watched(sys.stdout)
    try:
        with redirect_stdout(out):
            code = _told(list(argv), out)
            out.flush()
        return code
    except BrokenPipeError:  # the reader of our output has gone
        failures.discard_output()
        return FAILED
    except OSError as error:  # all others have been told
        return failures.output_lost(error)


def _told(argv: list[str], out: failures.Watched) -> int:
    as_json = _asked_for(argv, "--json")
    debug = _asked_for(argv, "--debug") or bool(os.environ.get("ALPHAEDIT_DEBUG"))
    try:
        return _invoke(argv, silence=as_json)
    except BrokenPipeError:
        raise
    except (Interruption, KeyboardInterrupt, typer.Abort) as stop:
        return failures.interrupted(stop, as_json=as_json)
    except Exception as error:
        if out.lost and isinstance(error, OSError):
            raise
        if failures.comes_from_interrupt(error):
            return failures.interrupted(error, as_json=as_json)
        if debug:
            traceback.print_exc()
        return failures.fail(error, as_json=as_json, debug=debug)


def _invoke(argv: list[str], *, silence: bool) -> int:
    def call() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("always", AlphaEditWarning)
            warnings.showwarning = failures.Warner()
            return app(args=argv, prog_name="alphaedit", standalone_mode=False)

    if silence and not ({"-h", "--help", "--version"} & set(argv)):
        with redirect_stdout(sys.stderr):
            result = call()
        # Commands return what they have to say.
        if isinstance(result, dict):
            print_json(result)
    else:
        result = call()
    if isinstance(result, Started):
        with redirect_stdout(sys.stderr):
            result.go_on()
    if result == failures.INTERRUPTED:  # newer typer makes an exit code of Ctrl-C
        raise Interruption
    if isinstance(result, Outcome):
        return result.code
    return result if isinstance(result, int) else 0


def main() -> None:
    """Entry point of the command `alphaedit`."""
    for stream in (sys.stdout, sys.stderr):
        lenient(stream)
    code = run(sys.argv[1:])
    if "alphaedit.core.ranks" in sys.modules:
        sys.modules["alphaedit.core.ranks"].leave()
    sys.exit(code)
