"""The command line as shells, terminals and pipes meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.ledgers import BASE, make

from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError, LedgerError
from alphaedit.ledger.ledger import Ledger

DIRTY = "\r\u202e\u200b\n@9 revert  2026-01-01  root\n    - 4f2a"
"""What facts may hold."""
EVIL = "x\x1b[2J\x1b]0;owned\x07\r\u202e\x9b31m\n@9 revert  2026-01-01  root\n    - 4f2a"
FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose texts would take over a terminal and forge lines of a log."""
    folder = tmp_path_factory.mktemp("shell") / "ledger"
    kept = Ledger.create(folder, BASE, model=f"model {EVIL}", why=EVIL)
    kept.commit("edit", add=[make(1, prompt=f"a{DIRTY} {{}}", target=f"b{DIRTY}")], why=EVIL)
    kept.commit("edit", add=[make(2, prompt="Number 2 of {} → is", target="an “answer”…")])
    return folder


def shell(
    *argv: str | bytes, env: dict[str, str] | None = None, stdout: int | None = None
) -> tuple[int, bytes, bytes]:
    """A process of its own; exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "alphaedit", *argv],
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        timeout=120,
    )
    return done.returncode, done.stdout or b"", done.stderr


@pytest.mark.parametrize(
    "argv",
    [["log"], ["show", "first"], ["status"], ["diff", "base", "head"], ["verify"]],
)
def test_texts_of_others_are_escaped(
    argv: list[str], ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # finding 13
    command, *rest = argv
    if rest == ["first"]:
        rest = [Ledger(ledger).head.edits[0]]
    assert run([command, str(ledger), *rest]) == 0
    captured = capsys.readouterr()
    assert not set(captured.out + captured.err) & set("\x1b\x07\r\u202e\u200b\x9b")
    lines = captured.out.splitlines()
    assert not [line for line in lines if line.startswith(("@9 ", "    - 4f2a"))]
    if command != "verify":
        assert ("\\x1b" if command in ("log", "status") else "\\u202e") in captured.out


def test_json_of_others_is_escaped(ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # finding 13
    assert run(["log", str(ledger), "--json"]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\x07\r\u202e\u200b\x9b")
    assert json.loads(out)["entries"][-1]["why"] == EVIL


def test_errors_and_file_names_are_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # finding 13
    evil = tmp_path / "a\x1b[2J\nError: all is lost\u202e"
    for argv in (["log", str(evil)], ["edit", "m", f"{evil}.jsonl"], [f"\x1b[2J{evil.name}"]):
        assert run(argv) in (1, 2)
        captured = capsys.readouterr()
        assert not set(captured.out + captured.err) & set("\x1b\u202e")
        starts = [line for line in captured.err.splitlines() if line.startswith("Error:")]
        assert len(starts) == 1


def test_warnings_are_escaped_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    from alphaedit.cli.failures import Warner
    from alphaedit.core.errors import AlphaEditWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = Warner()
        for _ in range(2):
            warnings.warn(AlphaEditWarning(EVIL), stacklevel=1)
    err = capsys.readouterr().err
    assert err.count("Warning: ") == 1
    assert not set(err) & set("\x1b\x07\r\u202e\u200b\x9b")
    assert "\n@9" not in err


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        pytest.param(
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow
        ),
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_streams_that_lack_our_signs(env: dict[str, str], ledger: Path) -> None:
    # finding 19
    place = str(ledger)
    lines = [["log", place], ["show", place], ["diff", place, "base", "--json"], ["log", "--help"]]
    lines += [["→"]]
    code = f"""
import sys
from alphaedit.cli.app import run
from alphaedit.cli.output import lenient
lenient(sys.stdout)
for argv in {lines!a}:
    print("CODE", run(argv), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        capture_output=True,
        env={**os.environ, **env},
        timeout=120,
    )
    text = done.stdout.decode(env.get("PYTHONIOENCODING", "ascii"))
    assert text.count("CODE 0") == 4, (text, done.stderr)
    assert text.count("CODE 2") == 1
    assert b"Traceback" not in done.stderr
    assert "Number 2 of edits -> is" in text
    assert "+-" in text


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "argv", [["log"], ["log", "--json"], ["status"], ["--help"], ["--version"], ["no", "--json"]]
)
def test_a_full_standard_output_is_told(argv: list[str], ledger: Path) -> None:
    # finding 17
    if argv[0] in ("log", "status"):
        argv = [argv[0], str(ledger), *argv[1:]]
    with FULL.open("wb") as full:
        code, _, err = shell(*argv, stdout=full.fileno())
    assert code == 1
    assert err.decode().startswith("Error: Standard output cannot be written: No space left")
    for word in (b"bug", b"Traceback", b"Exception ignored"):
        assert word not in err


def test_a_reader_that_has_gone_is_no_error(ledger: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    code, _, err = shell("log", str(ledger), "--json", stdout=write)
    os.close(write)
    assert (code, err) == (1, b"")


def test_bytes_that_are_not_utf8(ledger: Path) -> None:
    # finding 17
    for argv in ([b"ask", b"bundled", b"caf\xe9"], [b"log", b"\xff\xfe"], [b"\xff"], [b"--\xff"]):
        code, out, err = shell(*argv)
        assert code in (1, 2)
        assert out == b""
        assert err.startswith(b"Error: ")
        for word in (b"bug", b"Traceback"):
            assert word not in err
    for argv in ([b"ask", b"bundled", b"caf\xe9"], [b"export", b"l", b"-o", b"caf\xe9"]):
        code, _, err = shell(*argv)
        assert code == 2
        assert b"not UTF-8" in err


HUGE = "9" * 5000


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["ask", "m", "x", "--seed", "99999999999999999999999"], "--seed"),
        (["ask", "m", "x", "--seed", "-1"], "--seed"),
        (["ask", "m", "x", "--seed", HUGE], "--seed"),
        (["log", "m", "-n", HUGE], "--count"),
        (["log", "m", "-n", "9" * 4000], "at most 2147483647"),
        (["squash", "m", "--tolerance", "nan"], "--tolerance"),
        (["tune", "m", "world", "-o", "x.yaml", "--budget", "1e999"], "not a finite number"),
        (["stats", "m", "--threshold", "inf"], "not a finite number"),
        (["stats", "m", "--energy", HUGE], "not a finite number"),
        (["log", ""], "empty path"),
        (["export", "m", "--out="], "empty path"),
        (["ask", "m", "a\0b"], "NUL"),
        (["log", "a\0b"], "null byte"),
        (["ask", "m", "\ud800"], "UTF-8"),
        (["edit", "m", "caf\udce9.jsonl"], "UTF-8"),
        (["experiment", "-o", "caf\udce9"], "UTF-8"),
    ],
)
def test_values_that_no_option_means(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # finding 17
    assert run([*argv, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UsageError"
    assert words in error["message"]
    assert len(error["message"]) < 5000


@pytest.mark.parametrize(
    "more",
    [
        *(["--set", f"{key}={HUGE}"] for key in ("clamp", "steps", "layers", "dtype", "nope")),
        ["--set", f"layers=0-{HUGE}"],
        ["--set", "layers=0-99999999999"],
        ["--set", "layers=²"],
        ["--set", "clamp=nan"],
        ["--set", f"{HUGE}={HUGE}"],
        ["--plugin", f"sphere:strength={HUGE}"],
        ["--plugin", f"early-stop:steps={HUGE}"],
        ["--plugin", "early-stop:steps=1.5"],
        ["--plugin", "sphere:strength=["],
        ["--plugin", "sphere:strength=2024-13-45"],
        ["--plugin", "sphere:strength=nan"],
        ["--plugin", f"{HUGE}:a=1"],
        ["--guard", f"warn:max_kl={HUGE}"],
        ["--guard", "warn:max_kl=nan"],
        ["--guard", "warn:max_kl=["],
        ["--guard", f"{HUGE}"],
    ],
    ids=lambda more: " ".join(more)[:40],
)
def test_numbers_in_settings(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # finding 17
    facts = tmp_path / "facts.jsonl"
    facts.write_text('{"prompt": "{} is", "subject": "A", "target": "B"}', encoding="utf-8")
    assert run(["edit", "./nowhere", str(facts), *more, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] in ("ConfigError", "UnknownNameError"), error
    assert len(error["message"]) < 5000


def test_layers_are_not_counted_without_end() -> None:
    from alphaedit.cli.prepare import numbers

    with pytest.raises(ConfigError):
        numbers("0-99999999999")
    assert numbers("3-5, 7") == (3, 4, 5, 7)


@pytest.mark.parametrize("columns", ["0", "1", "20", "40", "60", "nonsense"])
def test_narrow_terminals(
    columns: str,
    ledger: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # D of the report: at 20 columns tables were frames without text
    monkeypatch.setenv("COLUMNS", columns)
    for argv in (["show", str(ledger)], ["methods"], ["show", "--help"], ["--help"]):
        assert run(argv) == 0
        out = capsys.readouterr().out
        joined = "".join(out.split())
        word = {"show": "an“answer”…", "methods": "sphere"}.get(argv[0], "Examples:")
        assert (word if "--help" not in argv else "$alphaedit") in joined
        if columns in ("20", "40"):
            assert "│" not in out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("@", "no entry @"),
        ("@x", "no entry @x"),
        ("@²", "no entry"),
        (f"@{HUGE}", "no entry"),
        (f"head~{HUGE}", "no edit"),
        ("head~²", "no edit"),
        ("head~9", "no entry"),
        ("-1", "no entry"),
        ("@last", "no entry"),
    ],
)
def test_versions_that_there_are_not(name: str, words: str, ledger: Path) -> None:
    with pytest.raises(LedgerError, match=words):
        Ledger(ledger).history.entry(name)
    assert Ledger(ledger).history.entry("HEAD~") == 2
    assert Ledger(ledger).history.entry("@1") == 1
