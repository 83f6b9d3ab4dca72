"""A model that a ledger names is loaded only if the user gave it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz import run_cli
from tests.ledgers import make
from tests.tiny import save_tiny

from alphaedit.cli import options
from alphaedit.core.errors import ConfigError
from alphaedit.ledger import known
from alphaedit.ledger.ledger import Ledger
from alphaedit.model.handle import ModelHandle


@dataclass
class Place:
    """A ledger of a tiny model with an edit in force, which nobody here has begun."""

    model: Path
    ledger: Path

    def run(self, *argv: str) -> tuple[int, dict[str, Any]]:
        names = {"LEDGER": str(self.ledger), "MODEL": str(self.model)}
        argv = tuple(names.get(arg, arg) for arg in argv)
        code, out, err = run_cli([*argv, "--json"])
        assert out.startswith("{"), err
        return code, json.loads(out)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    folder = save_tiny("gpt2", tmp_path / "model")
    handle = ModelHandle.load(folder)
    ledger = Ledger.create(tmp_path / "ledger", handle.fingerprint(), model=str(folder))
    edits = []
    for number in (1, 2):
        edit, learned = make(number)
        edits.append((type(edit)(**{**vars(edit), "base": ledger.base}), learned))
    ledger.commit("edit", add=edits)
    ledger.commit("revert", drop=[edits[1][0].id])
    return Place(folder, ledger.path)


ASKING = [
    ("verify", "LEDGER", "--ask"),
    ("diff", "LEDGER", "base", "head", "--ask"),
    ("apply", "LEDGER", "IDLE"),
    ("revert", "LEDGER", "--checkpoint", "OUT"),
    ("merge", "LEDGER", "OTHER"),
    ("export", "LEDGER", "-o", "OUT"),
]


@pytest.mark.parametrize("command", ASKING, ids=lambda command: command[0])
def test_models_of_strangers_are_not_loaded(
    command: tuple[str, ...], place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # finding 12
    def loaded(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model was loaded")

    ledger = Ledger(place.ledger)
    idle = next(iter(set(ledger.history.files) - set(ledger.head.edits)))
    other = Ledger.create(tmp_path / "other", ledger.base, model="x/y")
    edit, learned = make(3)
    other.commit("edit", add=[(type(edit)(**{**vars(edit), "base": ledger.base}), learned)])
    names = {"IDLE": idle, "OTHER": str(tmp_path / "other"), "OUT": str(tmp_path / "out")}
    monkeypatch.setattr(ModelHandle, "load", loaded)
    before = (place.ledger / "journal.jsonl").read_bytes()
    code, said = place.run(*(names.get(arg, arg) for arg in command))
    assert code == 1
    assert said["error"]["type"] == "ConfigError"
    assert str(place.model) in said["error"]["message"]
    assert str(place.ledger) in said["error"]["message"]
    assert "--model" in said["error"]["remedy"]
    assert ("--no-measure" in said["error"]["remedy"]) == (command[0] in ("apply", "merge"))
    assert (place.ledger / "journal.jsonl").read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_named_is_known_from_then_on(place: Place) -> None:
    code, said = place.run("diff", "LEDGER", "base", "base", "--ask")
    assert (code, said["error"]["type"]) == (1, "ConfigError")
    assert place.run("diff", "LEDGER", "base", "base", "--ask", "--model", "MODEL")[0] == 0
    assert place.run("diff", "LEDGER", "base", "base", "--ask")[0] == 0


def test_a_model_of_another_fingerprint_is_not_known(place: Place, tmp_path: Path) -> None:
    wrong = str(save_tiny("gpt2", tmp_path / "wrong", seed=1))
    code, said = place.run("diff", "LEDGER", "base", "base", "--ask", "--model", wrong)
    assert (code, said["error"]["type"]) == (1, "FingerprintError")
    assert known.known_model(Ledger(place.ledger)) is None


def test_ledgers_begun_here_are_known(place: Place, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    assert place.run("init", new, "--model", "MODEL")[0] == 0
    code, said = place.run("diff", new, "base", "base", "--ask")
    assert (code, said["answers"]) == (0, [])


def test_bundled_models_need_no_word(place: Place, tmp_path: Path) -> None:
    from alphaedit.jobs.ledgers import model_of

    mine = Ledger.create(tmp_path / "bundled", "0" * 64, model="bundled-small")
    assert model_of(mine, None) == "bundled-small"
    assert model_of(mine, "other") == "other"
    nameless = Ledger.create(tmp_path / "nameless", "0" * 64)
    with pytest.raises(ConfigError, match="does not name its model"):
        model_of(nameless, None)


def test_what_is_remembered(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(place.ledger)
    monkeypatch.chdir(tmp_path)
    known.remember(ledger, "model")
    assert known.known_model(ledger) == "model"
    (tmp_path / "elsewhere" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert known.known_model(ledger) == str(tmp_path / "model")  # not the one that lies here
    known.remember(ledger, "owner/name")
    assert known.known_model(ledger) == "owner/name"
    record = next((tmp_path / "cache" / known.FOLDER).iterdir())
    assert record.stem == ledger.history.entries[0].hash
    # Of somebody else, in a cache directory that is shared.
    monkeypatch.setattr(os, "getuid", lambda: os.geteuid() + 1)
    assert known.known_model(ledger) is None
    monkeypatch.undo()


@pytest.mark.parametrize("text", ["", "[", "3", "{}", '{"named": 3, "path": ""}', '{"named": ""}'])
def test_records_that_are_damaged_tell_nothing(place: Place, tmp_path: Path, text: str) -> None:
    ledger = Ledger(place.ledger)
    known.remember(ledger, "owner/name")
    next((tmp_path / "cache" / known.FOLDER).iterdir()).write_text(text)
    assert known.known_model(ledger) is None


def test_without_a_cache_directory_nothing_is_known(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(place.ledger)
    for folder in ("/dev/null/nowhere", "/proc/nowhere"):
        monkeypatch.setenv("ALPHAEDIT_CACHE", folder)
        known.remember(ledger, "owner/name")
        assert known.known_model(ledger) is None


def test_options_of_commands_that_load_a_model() -> None:
    given: list[options.Loading] = []

    @options.grouped
    def command(
        model: options.Model, loading: options.Loading = options.AS_STORED, quiet: bool = False
    ) -> int:
        """A command."""
        given.append(loading)
        return 3

    import inspect

    names = list(inspect.signature(command).parameters)
    assert names == ["model", "device", "dtype", "trust_remote_code", "quiet"]
    assert command.__doc__ == "A command."
    assert command(model="x") == 3
    command(model="x", device="cpu", dtype="bfloat16", trust_remote_code=True)
    assert given == [options.AS_STORED, options.Loading("cpu", "bfloat16", True)]
    for wrong in ({"device": "banana"}, {"dtype": "int8"}):  # finding 17
        with pytest.raises(ConfigError):
            command(model="x", **wrong)
    assert len(given) == 2


def test_a_device_that_is_not_here_is_told_first(place: Place, tmp_path: Path) -> None:
    """Finding 17: before facts, ledgers or models are looked at."""
    facts = str(tmp_path / "none.jsonl")
    for argv in (
        ["ask", "/no/model", "x"],
        ["edit", "/no/model", facts],
        ["apply", "LEDGER", "0000"],
        ["check", "/no/model", facts],
    ):
        for device in ("cuda:77", "banana"):
            code, said = place.run(*argv, "--device", device)
            assert code == 1
            assert said["error"]["message"] == f"There is no device {device!r} here."
            assert "cpu" in said["error"]["remedy"]
