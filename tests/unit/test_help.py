"""Help pages, completion and the doctor: of every command there is."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.text import Text
from tests.ledgers import BASE

from alphaedit.cli import complete, doctor
from alphaedit.cli.app import app, run
from alphaedit.core.errors import ModelError
from alphaedit.ledger.ledger import Ledger
from alphaedit.world.asset import NAMES

ROOT: Any = typer.main.get_command(app)
METAVARS = {
    # what is worked on
    *("MODEL", "FACTS", "LEDGER", "EDIT", "VERSION", "PROMPT", "RECORDS", "EXPERIMENT"),
    *("LEDGER|ARCHIVE", "LEDGER|DIR", "DIR|FILE", "ARCHIVE", "REPO", "DIR", "FILE", "COMMAND"),
    *("DATA", "EDITOR", "[NAME=]LEDGER"),
    # values
    *("N", "X", "GB", "TEXT", "NAME", "NAME,...", "LAYERS", "URL|MODEL"),
    *("METHOD", "PRESET", "CORPUS", "SCHEMA", "RELATION", "DEVICE", "DTYPE", "FORMAT", "TYPE"),
    *("KIND", "SIDE", "GPU", "REVISION"),
    *("KEY=VALUE", "EDIT=SIDE", "PLUGIN[:KEY=VALUE,...]", "ACTION[:KEY=VALUE,...]"),
}
ONE_NAME = {
    "--method": {"METHOD"},
    "--model": {"MODEL"},
    "--edits": {"LEDGER", "N", "[NAME=]LEDGER"},
    "--from": {"LEDGER"},
    "--preset": {"PRESET"},
    "--corpus": {"CORPUS"},
    "--set": {"KEY=VALUE"},
    "--checkpoint": {"DIR"},
    "--cache-dir": {"DIR"},
    "--report": {"FILE"},
    "--plot": {"FILE"},
    "--sign": {"FILE"},
    "--schema": {"SCHEMA"},
    "--format": {"FORMAT"},
    "--seed": {"N"},
    "--tolerance": {"X"},
    "--out": {"LEDGER", "DIR", "FILE", "DIR|FILE", "EDITOR"},
}


def commands(group: Any = ROOT, *path: str) -> Iterator[tuple[str, Any]]:
    """Every command by what is typed for it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *path, name)
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(commands())
every = pytest.mark.parametrize("name", COMMANDS)


def parsed(line: str) -> None:
    """Parse a command line without running it."""
    line = line.replace("results/*", "results/a results/b").split(" | ")[-1]
    words = shlex.split(line)
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    program, *args = words
    assert program == "alphaedit"
    command, context = ROOT, None
    while hasattr(command, "commands"):
        context = typer.Context(command, info_name=program, parent=context)
        program, *args = args
        command = command.commands[program]
    command.make_context(program, list(args), parent=context)


def examples(command: Any) -> list[str]:
    text = Text.from_markup(command.epilog or "").plain
    return [line.removeprefix("$ ") for line in text.split("\n") if line.startswith("$ ")]


@every
def test_examples_are_of_the_command_and_parse(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # finding 25
    monkeypatch.chdir(tmp_path)
    (tmp_path / "team.txt").touch()
    lines = examples(COMMANDS[name])
    assert any(f"alphaedit {name}" in line for line in lines)
    for line in lines:
        parsed(line)


def test_examples_of_groups_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for group in (ROOT, ROOT.commands["world"]):
        assert examples(group)
        for line in examples(group):
            parsed(line)


def test_a_wrong_example_would_be_found() -> None:
    for line in ("alphaedit nope", "alphaedit log x --nope", "alphaedit ask m", "other log x"):
        with pytest.raises((Exception, SystemExit)):
            parsed(line)


@every
def test_every_option_says_what_it_is(name: str) -> None:
    # finding 25
    command = COMMANDS[name]
    assert command.help
    for param in command.params:
        assert param.help, param.name
        assert param.help.strip().endswith((".", ")")), param.help
        if param.param_type_name == "option" and getattr(param, "is_flag", False):
            continue
        assert param.metavar in METAVARS, (param.name, param.metavar)
        for option in param.opts:
            assert param.metavar in ONE_NAME.get(option, {param.metavar}), (option, param.metavar)
        # One meaning everywhere: where the result is written.
        assert ("-o" in param.opts) == ("--out" in param.opts)
        if "-o" in param.opts:
            assert param.help.startswith("Write "), param.help


@every
def test_one_thing_has_one_name(name: str) -> None:
    # finding 25: by what is said of it
    for param in COMMANDS[name].params:
        said = (getattr(param, "help", "") or "").lower()
        if param.param_type_name == "argument" and "entry of the log" in said:
            assert param.metavar == "VERSION"
        if said.startswith(("ids of edits", "an edit's id")):
            assert param.metavar == "EDIT"
        if said.startswith("directory of a ledger"):
            assert param.metavar == "LEDGER"


def test_answers_are_as_long_as_in_python() -> None:
    # finding 25
    import inspect

    from alphaedit import Editor

    (option,) = (p for p in COMMANDS["ask"].params if "--max-new-tokens" in p.opts)
    assert option.default == inspect.signature(Editor.ask).parameters["max_new_tokens"].default


@pytest.mark.parametrize("name", ["", "log", "world", "world facts", "help"])
def test_help_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", *name.split()]) == 0
    by_command = capsys.readouterr().out
    assert run([*name.split(), "--help"]) == 0
    assert by_command.split() == capsys.readouterr().out.split()


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_as_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["help", *name.split(), "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert found["command"] == f"alphaedit {name}".strip()
    assert found["help"]
    assert (found["commands"] is None) == bool(name)


def test_help_of_unknown_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["lgo"], ["world", "fcats"], ["log", "x"]):
        assert run(["help", *words, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["error"]["type"] == "UnknownNameError"


def completed(line: str, cwd: Path | None = None) -> list[str]:
    """What bash is given for the last word of a command line."""
    words = line.split(" ")
    env = {
        **os.environ,
        "_ALPHAEDIT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = (
        "import sys\nfrom alphaedit.cli.app import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'alphaedit.methods.registry'}\n"
        "    print('HEAVY', heavy & set(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=cwd
    )
    assert done.stderr.strip() == "HEAVY set()"
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("alphaedit lo", ["log"]),
        ("alphaedit edit m f --method memit", ["memit", "memit-history", "memit-names"]),
        ("alphaedit edit m f --plugin sph", ["sphere"]),
        ("alphaedit edit bund", ["bundled", "bundled-small", "bundled-reader"]),
        ("alphaedit help world fa", ["facts"]),
    ],
)
def test_bash_completes(line: str, found: list[str], tmp_path: Path) -> None:
    assert completed(line, tmp_path) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown_and_installed(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {
        **os.environ,
        "HOME": str(tmp_path),
        "SHELL": f"/bin/{shell}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            [sys.executable, "-m", "alphaedit", option, shell],
            capture_output=True,
            text=True,
            env=env,
        )
        assert done.returncode == 0, done.stderr
        assert "_ALPHAEDIT_COMPLETE" in done.stdout or "installed" in done.stdout
    assert any(path.is_file() for path in tmp_path.rglob("*"))


def names(found: complete.Found) -> list[str]:
    return [name for name, _ in found]


def test_completion_knows_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alphaedit.bench.datasets.registry import schemas
    from alphaedit.bench.experiments import spec
    from alphaedit.cli import export, export_gguf
    from alphaedit.core import records
    from alphaedit.editor import guard, plan
    from alphaedit.methods.plugin import plugins
    from alphaedit.methods.presets import presets
    from alphaedit.methods.registry import methods
    from alphaedit.model.load import as_dtype
    from alphaedit.model.quantised import BITS
    from alphaedit.world.schemas import SCHEMAS

    monkeypatch.chdir(tmp_path)
    assert names(complete.methods("")) == [*methods(), "auto"]
    assert all(said for _, said in complete.methods(""))
    assert names(complete.methods_or_none("no")) == ["none"]
    assert names(complete.plugins("")) == list(plugins())
    assert names(complete.presets("")) == [*presets(), "measured"]
    assert names(complete.experiments("")) == sorted(spec.names())
    assert sorted(complete.SCHEMAS) == sorted(schemas())
    assert sorted(complete.MADE) == sorted(SCHEMAS)
    assert set(complete.FORMATS) == {*export.KINDS, *export_gguf.FORMS}
    assert set(complete.OF_FACTS) == set(records.FORMATS)
    assert set(complete.GPUS) == set(plan.GPUS)
    assert set(complete.GUARDS) == set(guard.ACTIONS)
    for name in complete.DTYPES:
        assert name in BITS or as_dtype(name)


def test_completion_finds_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    (tmp_path / "sub").mkdir()
    for name in ("mine.yaml", "text.txt", "records.json", "sub/deep.yaml"):
        (tmp_path / name).touch()
    Ledger.create(tmp_path / "my-edits", BASE)
    assert names(complete.models("mo")) == ["model"]
    assert names(complete.ledgers("")) == ["my-edits"]
    assert names(complete.ledgers("./")) == ["./my-edits"]
    assert names(complete.presets("mi")) == ["mine.yaml"]
    assert names(complete.presets("sub/")) == ["sub/deep.yaml"]
    assert "records.json" in names(complete.records("rec"))
    assert names(complete.corpora("te")) == ["text.txt"]
    for odd in ("nowhere/", "~nobody/", "\0", "/root/secret/", "\ud800/"):
        assert complete.presets(odd) == []
        assert complete.models(odd) == []


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"]
    assert "cpu" in found["devices"]
    assert set(found["folders"]) == {"cache", "temporary", "current"}
    assert all({"path", "writable", "free"} <= set(row) for row in found["folders"].values())
    assert set(found["bundled"]) == set(NAMES)
    assert found["memory"]["free"] <= found["memory"]["total"]
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("Versions", "Devices", "Memory", "Cache directory", "bundled", "ssh-keygen"):
        assert word in out


def test_doctor_tells_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Path:
        raise ModelError(f"The bundled model {name!r} is not here.", remedy="Train it.")

    (tmp_path / "file").touch()
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("alphaedit.world.asset.path", missing)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nohub"))
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory())
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["ok"]
    said = {problem["what"]: problem["remedy"] for problem in found["problems"]}
    for words, remedy in [
        ("cache directory", "ALPHAEDIT_CACHE"),
        ("ssh-keygen", "OpenSSH"),
        ("'bundled'", "Train it"),
        ("of memory", "small model"),
    ]:
        assert [what for what in said if words in what and remedy in said[what]], words
    assert all(problem["remedy"] for problem in found["problems"])


class Memory:
    """Too little."""

    total, available = 10**9, 10**8


@pytest.mark.parametrize(
    ("name", "found"), [("safetensors", None), ("torch", "1.0"), ("transformers", None)]
)
def test_doctor_fails_where_nothing_works(
    name: str,
    found: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda n: found if n == name else known(n))
    assert run(["doctor", "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["essential"]
    assert name in problem["what"]
    assert f"pip install '{name}>=" in problem["remedy"]


def test_doctor_lists_downloaded_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = tmp_path / "models--someone--small" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--someone--small" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    (tmp_path / "models--someone--broken").mkdir()
    monkeypatch.setattr("huggingface_hub.utils._cache_manager.HF_HUB_CACHE", tmp_path)
    assert run(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == {"someone/small": 2}
