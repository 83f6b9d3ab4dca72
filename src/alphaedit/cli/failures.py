"""What commands say when something goes wrong, and the exit codes for it."""

from __future__ import annotations

import io
import os
import sys
from typing import Any, TextIO

from alphaedit.cli.output import FAILED, Interruption, error_console, print_json
from alphaedit.core.errors import AlphaEditError, AlphaEditWarning
from alphaedit.core.text import visible

USAGE, INTERRUPTED = 2, 130
LONGEST = 4000
"""Characters of a message that are shown."""


def report(kind: str, message: str, remedy: str | None, *, as_json: bool) -> None:
    """Tell an error: as JSON on standard output, else in words on standard error."""
    message = shortened(message)
    # Of several ranks one speaks on standard output; at once, as the end of another may end it.
    if as_json and (os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK") == "0"):
        print_json({"error": {"type": kind, "message": message, "remedy": remedy}})
        return
    _tell("Error: ", "bold red", message)
    if remedy:
        _tell("", "", shortened(remedy))


def _tell(label: str, style: str, message: str) -> None:
    console = error_console()
    if label:
        console.print(label, style=style, end="")
    # Lines after the first are set in, so that no text of others can pass for a line of ours.
    console.print(visible(message).replace("\n", "\n  "), lines=True, soft_wrap=True)


def shortened(text: str) -> str:
    """`text`, without its middle if it is very long."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} ... {text[-half:]}"


class Warner:
    """Shows warnings on standard error, each text once."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def __call__(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """In place of `warnings.showwarning`."""
        text = str(message)
        if text in self._told:
            return
        self._told.add(text)
        label = "Warning: " if issubclass(category, AlphaEditWarning) else f"{category.__name__}: "
        _tell(label, "bold yellow", shortened(text))


def fail(error: Exception, *, as_json: bool, debug: bool) -> int:
    """Tell what went wrong, with its remedy; the exit code."""
    done = " ".join(getattr(error, "__notes__", ()))  # what was done before it
    if isinstance(error, AlphaEditError):
        remedy = " ".join(filter(None, (done, error.remedy))) or None
        report(type(error).__name__, error.message, remedy, as_json=as_json)
        return FAILED
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # wrong usage
        message = str(error.format_message()).strip()
        if not message:  # bare `alphaedit` or `alphaedit world`: help has been shown
            return USAGE
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "alphaedit"
        report("UsageError", message, f"See {command} --help.", as_json=as_json)
        return USAGE
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        so_far = done or "Nothing was changed."
        remedy = f"{so_far} Use a smaller batch or model, or --dtype bfloat16."
        report("ResourceError", "Memory does not suffice.", remedy, as_json=as_json)
    elif isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        message = f"{where}{error.strerror or error}."
        remedy = "Check that the path exists, may be written, and that the disk is not full."
        report("ResourceError", message, f"{done} {remedy}".strip(), as_json=as_json)
    else:
        lines = str(error).strip().splitlines() or [""]
        remedy = "" if debug else "This is a bug of alphaedit. See more of it with --debug."
        report(kind, f"{kind}: {lines[0]}", f"{done} {remedy}".strip() or None, as_json=as_json)
    return FAILED


def interrupted(stop: BaseException, *, as_json: bool) -> int:
    """Tell what Ctrl-C left behind; the exit code."""
    note = stop.note if isinstance(stop, Interruption) else Interruption.NOTHING
    report("Interrupted", "Interrupted.", note, as_json=as_json)
    return INTERRUPTED


def comes_from_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind `error`: lazy imports of transformers make another error of it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


class Watched:
    """Standard output that remembers whether writing to it failed (its disk is full, for one).

    Args:
        stream: where it writes; None (closed) swallows all, as in Python.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.lost = False

    def write(self, text: str) -> int:
        """Write `text`."""
        return self._do("write", text) if self._stream is not None else len(text)

    def flush(self) -> None:
        """Write what is still in a buffer."""
        if self._stream is not None:
            self._do("flush")

    def _do(self, name: str, *given: str) -> int:
        try:
            done: int = getattr(self._stream, name)(*given)
        except OSError:
            self.lost = True
            raise
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def output_lost(error: OSError) -> int:
    """Tell that standard output cannot be written; the exit code."""
    discard_output()
    report(
        "ResourceError",
        f"Standard output cannot be written: {error.strerror or error}.",
        "Send it elsewhere, or free some space. Only the output is lost: files that the command "
        "wrote before are complete.",
        as_json=False,
    )
    return FAILED


def discard_output() -> None:
    """Send what is left of standard output nowhere, lest the interpreter complain at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError, AttributeError, io.UnsupportedOperation):
        pass
