"""`alphaedit studio` on the command line."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.studio import TOKEN, Prepared, prepare

import alphaedit.server
from alphaedit.cli import studio as command
from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError
from alphaedit.ledger.ledger import Ledger


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("command"))


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> Any:
    """What is told in JSON of a command that fails."""
    assert run(["studio", *argv, "--json"]) == 1
    return json.loads(capsys.readouterr().out)["error"]


def test_it_opens_asks_for_its_token_and_ends(prepared: Prepared, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "alphaedit", "studio", str(prepared.model), "--port", "0"]
    argv += ["--corpus", str(prepared.text), "--json", "--no-browser"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=tmp_path, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["ledger"] == "model-edits"
        host = told["address"].removeprefix("http://")
        assert told["url"] == f"http://{host}/#token={told['token']}"
        assert host.startswith("127.0.0.1:")
        connection = http.client.HTTPConnection(host, timeout=60)
        for headers, status in (({}, 401), ({TOKEN: told["token"]}, 200)):
            connection.request("GET", "/api/about", headers=headers)
            reply = connection.getresponse()
            body = json.loads(reply.read())
            assert reply.status == status
        connection.close()
        assert Path(body["folder"]) == tmp_path.resolve()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=120)
        assert (process.returncode, rest) == (0, "")
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "model-edits").exists()


def test_a_port_in_use_is_told_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        error = error_of(capsys, "no-such-model", "--port", str(port))
    assert f"Port {port} of 127.0.0.1 is in use" in error["message"]
    assert "--port" in error["remedy"]


def test_a_model_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "./no-such-model", "--port", "0")
    assert "no-such-model" in error["message"]
    assert error["remedy"]


def test_others_cannot_reach_it_unless_they_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(capsys, "no-such-model", "--host", "0.0.0.0", "--port", "0")
    assert "can be reached from other machines" in error["message"]
    assert "ssh -L" in error["remedy"]


def test_a_ledger_of_another_model_is_refused(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger.create(tmp_path / "other", "f" * 64)
    argv = [str(prepared.model), "--edits", str(tmp_path / "other"), "--port", "0"]
    assert "fingerprint" in error_of(capsys, *argv)["message"]


def test_a_broken_ledger_is_told_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken"
    Ledger.create(folder, "f" * 64)
    (folder / "journal.jsonl").write_text("nothing\n", encoding="utf-8")
    error = error_of(capsys, "no-such-model", "--edits", str(folder))
    assert error["type"] == "LedgerError"


@pytest.mark.parametrize("option", ["--results", "--exports"])
def test_a_directory_that_is_none_is_told(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "nothing"
    assert str(place) in error_of(capsys, "no-such-model", option, str(place))["message"]


def test_the_model_is_that_of_the_ledger(tmp_path: Path) -> None:
    assert command.places(None, None) == ("bundled", Path("bundled-edits"))
    assert command.places("./a/My model.gguf", None)[1] == Path("My-model-edits")
    Ledger.create(tmp_path / "known", "f" * 64, model="bundled-small")
    assert command.places(None, tmp_path / "known") == ("bundled-small", tmp_path / "known")
    Ledger.create(tmp_path / "foreign", "f" * 64, model="owner/name")
    with pytest.raises(ConfigError, match="asks for the model"):
        command.places(None, tmp_path / "foreign")


def test_what_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "alphaedit.server.listening", None)
    monkeypatch.delattr(alphaedit.server, "listening", raising=False)

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "alphaedit.server" and "listening" in (rest[2] or ()):
            raise ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn")
        return real(name, *rest, **more)

    import builtins

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    error = error_of(capsys, "no-such-model")
    assert "needs uvicorn" in error["message"]
    assert error["remedy"] == "pip install 'alphaedit[studio]'"


def test_no_browser_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from alphaedit.cli.output import Session

    said: list[str] = []
    monkeypatch.setattr(Session, "say", lambda self, *things, **more: said.extend(things))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    command._open(Session(json=False, quiet=True), "http://127.0.0.1:1/")
    assert said == ["No browser can be opened here: open the address yourself."]
