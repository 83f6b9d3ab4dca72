"""What the fuzz suites share: how many cases, and what no input may bring about.

A suite is a test with `@both(60)` and an argument `count`, around a function of hypothesis:

    @both(60)
    def test_something(count: int) -> None:
        @profile(count)
        @given(st.text())
        def one(text: str) -> None:
            assert_told(lambda: something(text))

        one()
"""

import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from typing import Any
from unittest import mock

import pytest
import typer
from hypothesis import HealthCheck, settings

from alphaedit.cli import app as cli
from alphaedit.core.errors import AlphaEditError

HUNG = 30.0
"""Seconds after which a case hangs."""


ESCAPES = frozenset("\x07\x08\x0b\x1b\x9b\u202e")
"""What text of others could steer a terminal with."""


class Hung(BaseException):
    """No `Exception`: nothing that catches errors shall catch this."""


def cases(short: int, *, long: bool = False) -> int:
    """How many cases: `short` in `make test`, $ALPHAEDIT_FUZZ_CASES or 2000 in the long profile."""
    return int(os.environ.get("ALPHAEDIT_FUZZ_CASES", "2000")) if long else short


def both(short: int) -> pytest.MarkDecorator:
    """Run a test twice, with `count` cases of the short profile and (slow) of the long one."""
    slow = [pytest.mark.slow, pytest.mark.timeout(7200)]
    long = pytest.param(cases(short, long=True), marks=slow, id="long")
    return pytest.mark.parametrize("count", [pytest.param(cases(short), id="short"), long])


def profile(count: int) -> settings:
    """Settings for so many cases; those of a short profile are always the same."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=count < 500,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@contextmanager
def in_time(seconds: float = HUNG) -> Iterator[None]:
    """Fail when the block takes longer, also while it waits for a file."""

    def late(*_: object) -> None:
        raise Hung(f"not done after {seconds:g} s")

    known = signal.signal(signal.SIGALRM, late)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # pytest-timeout uses the same clock
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, known)
        signal.setitimer(signal.ITIMER_REAL, left)


def assert_told(call: Callable[[], Any]) -> Any:
    """Call it; errors of ours that tell something are fine, all others fail the test.

    Returns:
        What the call returns, or the error.
    """
    try:
        with in_time():
            return call()
    except AlphaEditError as error:
        told = error
    except BaseException as error:
        raise AssertionError(f"raw {type(error).__name__}: {error}") from error
    assert told.message.strip()
    return told


@cache
def _command() -> Any:
    """The command, which typer else puts together anew for each call; that takes most of it."""
    return typer.main.get_command(cli.app)


def run_cli(argv: Sequence[str], stdin: bytes = b"") -> tuple[int, str, str]:
    """Run `alphaedit ARGV` in this process; exit code, standard output, standard error.

    Fails on exceptions that get out, tracebacks, "bug of alphaedit", other codes than 0, 1 and 2,
    characters that steer a terminal, and on cases that hang. Leave --debug out: it shows tracebacks
    on purpose.
    """
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    command = mock.patch.object(cli, "app", _command())
    try:
        with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "stdin", given):
            with command, in_time():
                code: Any = cli.run(list(argv))
    except BaseException as error:
        raise AssertionError(f"alphaedit {list(argv)}: {traceback.format_exc()}") from error
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    said = f"alphaedit {list(argv)} -> {code}\n{texts[0]}\n{texts[1]}"
    for mark in ("Traceback (most recent call last)", "bug of alphaedit"):
        assert mark not in texts[0] + texts[1], said
    assert code in (0, 1, 2), said
    if "FORCE_COLOR" not in os.environ:
        assert not ESCAPES & set(texts[0] + texts[1]), said.encode("unicode_escape")
    return code, texts[0], texts[1]
