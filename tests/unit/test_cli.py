"""The command line: help, one JSON object on standard output, exit codes, sources of facts."""

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, save_tiny

from alphaedit.cli import facts as sources
from alphaedit.cli import prepare
from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError, FactError
from alphaedit.jobs.facts import records_of
from alphaedit.ledger.ledger import Ledger

COMMANDS = ["demo", "edit", "ask", "stats", "trace", "eval", "revert", "methods"]
COMMANDS += ["tune", "ability", "experiment", "report", "export", "check", "init", "log", "show"]
COMMANDS += ["status", "diff", "apply", "checkout", "squash", "merge", "verify", "gc", "pack"]
COMMANDS += ["unpack", "push", "pull", "plan", "serve"]
COMMANDS += [f"world {c}" for c in ("facts", "records", "corpus", "tasks", "train", "info")]
FACT = {"prompt": "The mother tongue of {} is", "subject": "Danielle Darrieux", "target": "English"}
OTHER = {
    "prompt": "The capital of {} is",
    "subject": "France",
    "target": "Madrid",
    "truth": "Paris",
}
RECORD = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "The capital of {} is",
        "relation_id": "P36",
        "target_new": {"str": "Madrid", "id": ""},
        "target_true": {"str": "Paris", "id": ""},
        "subject": "France",
    },
    "paraphrase_prompts": ["France has the capital"],
    "neighborhood_prompts": ["The capital of Spain is"],
    "attribute_prompts": ["The capital of Spain is"],
    "generation_prompts": ["The capital of France is"],
}
RATES = ("efficacy", "generalization", "specificity", "fluency", "consistency")
RATES += ("efficacy_generate", "generalization_generate")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, text, records and facts."""
    folder = tmp_path_factory.mktemp("cli")
    save_tiny("gpt2", folder / "model")
    (folder / "text.txt").write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    second = json.loads(json.dumps(RECORD).replace("France", "Spain"))
    (folder / "records.json").write_text(json.dumps([RECORD, second]), encoding="utf-8")
    lines = [json.dumps(FACT), json.dumps(OTHER)]
    (folder / "facts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def tiny(place: Path, command: str, *rest: str, method: bool = True) -> list[str]:
    """A command line for the tiny model, with settings that make it quick."""
    common = ["--corpus", str(place / "text.txt"), "--tokens", "400"]
    common += ["--cache-dir", str(place / "cache"), "-q"]
    if method:
        for pair in ("layers=1,2", "steps=2", "contexts=1", "energy=0.9", "ridge=1"):
            common += ["--set", pair]
    return [command, str(place / "model"), *rest, *common]


def the_object(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What standard output holds: exactly one JSON object."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    data = json.loads(out)
    assert isinstance(data, dict)
    return data


@pytest.mark.parametrize("command", ["", "world", *COMMANDS])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples:" in out
    assert f"$ alphaedit {command}".rstrip() in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    run([*command.split(), "--help"])
    assert "--json" in capsys.readouterr().out


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom alphaedit.cli.app import run\n"
        f"for command in {COMMANDS!r}:\n    run([*command.split(), '--help'])\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'sklearn', 'jinja2'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("alphaedit ")


@pytest.mark.parametrize(
    ("argv", "code", "kind", "words"),
    [
        (["edit", "m", "missing.jsonl"], 1, "FactError", ["missing.jsonl", "does not exist"]),
        (["edit", "m"], 1, "ConfigError", ["No facts"]),
        (["edit", "m", "--prompt", "{} is", "--subject", "X"], 1, "ConfigError", ["--target"]),
        (["edit", "no/such/model/here", "FACTS"], 1, "ModelError", ["no/such/model/here"]),
        (["edit", "m", "FACTS", "--set", "clmap=1"], 1, "UnknownNameError", ["clmap"]),
        (["edit", "m", "FACTS", "--set", "clamp=-1"], 1, "ConfigError", ["clamp"]),
        (["edit", "m", "FACTS", "--set", "clamp"], 1, "ConfigError", ["KEY=VALUE"]),
        (["edit", "m", "FACTS", "--plugin", "spere"], 1, "UnknownNameError", ["spere"]),
        (["edit", "m", "FACTS", "--plugin", "ridge:much"], 1, "ConfigError", ["much"]),
        (["edit", "m", "FACTS", "--from", "nowhere"], 1, "LedgerError", ["nowhere"]),
        (["eval", "m", "missing.json"], 1, "DataError", ["missing.json"]),
        (["eval", "m", "world", "--method", "alfaedit"], 1, "UnknownNameError", ["alfaedit"]),
        (["eval", "m", "world", "--batch-size", "0"], 2, "UsageError", ["--batch-size"]),
        (["ask", "no/such/model/here", "Hello"], 1, "ModelError", ["no/such/model/here"]),
        (["ask", "m"], 2, "UsageError", ["PROMPT"]),
        (["stats", "m", "--plot", "picture.doc"], 1, "ConfigError", [".doc"]),
        (["stats", "m", "--energy", "0.9", "--threshold", "1"], 1, "ConfigError", ["--energy"]),
        (["revert", "nowhere"], 1, "LedgerError", ["nowhere"]),
        (["log", "nowhere"], 1, "LedgerError", ["nowhere", "journal.jsonl"]),
        (["world", "facts", "--relation", "P0"], 1, "UnknownNameError", ["P0"]),
        (["world", "train", "bundeld", "-o", "x"], 1, "UnknownNameError", ["bundeld"]),
        (["nonsense"], 2, "UsageError", ["nonsense"]),
        (["edit", "m", "--nonsense"], 2, "UsageError", ["--nonsense"]),
    ],
)
def test_errors(
    argv: list[str],
    code: int,
    kind: str,
    words: list[str],
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = [str(place / "facts.jsonl") if part == "FACTS" else part for part in argv]
    assert run([*argv, "--json"]) == code
    error = the_object(capsys)["error"]
    assert error["type"] == kind
    assert all(word in error["message"] for word in words)
    assert error["remedy"]
    assert run(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Error: ")
    assert "Traceback" not in captured.err


def test_a_broken_line_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = place / "broken.jsonl"
    broken.write_text(json.dumps(FACT) + '\n{"prompt": "x"\n', encoding="utf-8")
    assert run(["edit", "m", str(broken)]) == 1
    assert "broken.jsonl, line 2" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("failure", "code", "kind", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted", "Nothing was changed"),
        (MemoryError(), 1, "ResourceError", "Memory"),
        (torch.OutOfMemoryError("x"), 1, "ResourceError", "Memory"),
        (OSError(errno.ENOSPC, "No space left", "f"), 1, "ResourceError", "No space left"),
        (RuntimeError("odd"), 1, "RuntimeError", "odd"),
    ],
)
def test_failures_on_the_way(
    failure: BaseException,
    code: int,
    kind: str,
    words: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr("alphaedit.jobs.opening.Opening.open", fail)
    argv = tiny(place, "edit", str(place / "facts.jsonl"), "-o", str(tmp_path / "out"))
    assert run([*argv, "--json"]) == code
    error = the_object(capsys)["error"]
    assert error["type"] == kind
    assert words in f"{error['message']} {error['remedy']}"
    assert run([*argv, "--debug"]) == code
    assert not (tmp_path / "out").exists()


def test_interrupt_that_an_import_hides(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            raise ModuleNotFoundError("Could not import module") from error

    monkeypatch.setattr("alphaedit.cli.ask.open_editor", fail)
    assert run(["ask", "m", "x", "--json"]) == 130
    assert the_object(capsys)["error"]["type"] == "Interrupted"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.jsonl", json.dumps(FACT)),
        ("f.json", json.dumps([FACT])),
        ("f.csv", "prompt,subject,target\nThe mother tongue of {} is,Danielle Darrieux,English\n"),
        (
            "f.yaml",
            "- prompt: The mother tongue of {} is\n  subject: Danielle Darrieux\n"
            "  target: English\n",
        ),
    ],
)
def test_facts_from_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    from_file = sources.read(tmp_path / name, None, None, None)
    assert from_file == sources.read(None, *(FACT[k] for k in ("prompt", "subject", "target")))
    assert from_file.facts[0].text == "The mother tongue of Danielle Darrieux is"


def test_facts_from_one_source(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text(json.dumps(FACT), encoding="utf-8")
    with pytest.raises(ConfigError, match="both"):
        sources.read(tmp_path / "f.jsonl", None, None, "English")
    with pytest.raises(FactError, match="command line"):
        sources.read(None, "The tongue of her is", "Danielle", "English")


def test_counterfact_records_measure_themselves(place: Path) -> None:
    source = sources.read(place / "records.json", None, None, None)
    assert [f.subject for f in source.facts] == ["France", "Spain"]
    from alphaedit.core.edit import Answer

    records = records_of(source, [Answer("", 0.0)] * 2)
    assert records[0].generation_prompts == ("The capital of France is",)


def test_old_object_is_what_the_model_said() -> None:
    from alphaedit.core.edit import Answer

    source = sources.read(None, "{} speaks", "Danielle", "English")
    (record,) = records_of(source, [Answer(" French. And more", 0.1)])
    assert record.target_true == "French"


def test_settings_are_typed() -> None:
    over = prepare.overrides(["layers=3-5,7", "clamp=1.5", "steps=4", "project=true"])
    assert over == {"layers": (3, 4, 5, 7), "clamp": 1.5, "steps": 4, "project": True}
    for bad in (["steps=1.5"], ["steps=1", "steps=2"], ["layers=a"]):
        with pytest.raises(ConfigError):
            prepare.overrides(bad)


def test_edit_go_on_ask_and_revert(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session, page = str(tmp_path / "session"), str(tmp_path / "report.html")
    one = ["--prompt", FACT["prompt"], "--subject", FACT["subject"], "--target", "English"]
    assert run(tiny(place, "edit", *one, "-o", session, "--report", page, "--json")) == 0
    result = the_object(capsys)
    assert result["dry_run"] is False
    assert result["out"] == session
    assert result["efficacy"]["n"] == 1
    assert all(name in result for name in RATES)
    assert {"model", "edit", "evaluation", "solve"} <= set(result["seconds"])
    assert "Danielle Darrieux" in Path(page).read_text(encoding="utf-8")
    ledger = Ledger(session)
    first, learned = ledger.edits()[0][0].id, ledger.edits()[0][1]

    facts = str(place / "facts.jsonl")
    more = ["-o", session, "--batch-size", "1", "--no-generation", "--why", "more", "--json"]
    assert run(tiny(place, "edit", facts, *more)) == 0
    assert len(the_object(capsys)["edits"]) == 2
    assert [entry.why for entry in ledger.history.entries] == ["", "", "more", "more"]

    model = str(place / "model")
    assert run(["ask", model, "The capital of France is", "--edits", session, "--json"]) == 0
    asked = the_object(capsys)
    assert len(asked["edits"]) == 3
    assert asked["answers"][0]["prompt"] == "The capital of France is"

    assert run(["revert", session, "-n", "4", "--json"]) == 1
    assert "has 3" in the_object(capsys)["error"]["message"]
    checkpoint = tmp_path / "checkpoint"
    argv = ["revert", session, "-n", "2", "--model", model, "--checkpoint", str(checkpoint)]
    assert run([*argv, "--json"]) == 0
    assert the_object(capsys)["left"] == result["edits"]
    assert (checkpoint / "config.json").is_file()
    assert ledger.head.edits == [first]
    again = ledger.edits()[0][1]
    assert again.keys.keys() == learned.keys.keys()
    assert all(torch.equal(again.keys[layer], learned.keys[layer]) for layer in again.keys)


def test_plugins_are_kept_with_the_edit(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = tmp_path / "session"
    argv = tiny(place, "edit", str(place / "facts.jsonl"), "-o", str(session), "--no-generation")
    argv += ["--method", "memit", "--plugin", "project", "--plugin", "sphere:strength=0.8"]
    assert run([*argv, "--json"]) == 0
    the_object(capsys)
    edit = json.loads(next(session.glob("edits/*/edit.json")).read_text(encoding="utf-8"))
    assert edit["hyperparameters"]["plugins"] == ["project", "sphere:strength=0.8"]


def test_dry_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(p for p in place.rglob("*") if "cache" not in p.parts)
    argv = tiny(place, "edit", str(place / "facts.jsonl"), "--no-generation")
    assert run(argv) == 0
    out = capsys.readouterr().out
    assert "Dry run" in out
    assert "English" in out
    assert sorted(p for p in place.rglob("*") if "cache" not in p.parts) == before


@pytest.mark.parametrize("method", ["none", "memit"])
def test_eval(method: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    argv = tiny(place, "eval", str(place / "records.json"), "--method", method)
    argv += ["--batch-size", "1", "--edits", "2", "--every", "1", "--report", str(page), "--json"]
    assert run(argv) == 0
    result = the_object(capsys)
    for name in RATES:
        rate = result[name]
        assert set(rate) == {"value", "low", "high", "n"}
        assert rate["low"] <= rate["value"] <= rate["high"]
        assert set(result["before"][name]) == set(rate)
    assert result["method"] == method
    assert result["edits"] == (0 if method == "none" else 2)
    assert "evaluation" in result["seconds"]
    assert page.is_file()


def test_stats(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "spectrum.svg"
    more = ["--layers", "1-2", "--energy", "0.9", "--plot", str(plot)]
    assert run([*tiny(place, "stats", *more, method=False), "--json"]) == 0
    result = the_object(capsys)
    assert [row["layer"] for row in result["layers"]] == [1, 2]
    assert all(0 < row["dim"] < row["d_in"] for row in result["layers"])
    assert plot.read_text(encoding="utf-8").startswith("<?xml")
    assert run([*tiny(place, "stats", "--tolerance", "0.9", method=False), "--json"]) == 0
    assert the_object(capsys)["tokens"] <= result["tokens"]
    assert run(tiny(place, "stats", "--layers", "9", method=False)) == 1
    assert "out of range" in capsys.readouterr().err


def test_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["world", "facts", "--relation", "P103", "--count", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["P103", "P103"]
    assert run(["world", "facts", "--count", "3", "--json"]) == 0
    assert len(the_object(capsys)["facts"]) == 3
    file = tmp_path / "records.json"
    assert run(["world", "records", "--count", "4", "-o", str(file), "--json"]) == 0
    assert the_object(capsys)["count"] == 4
    assert run(["eval", "m", str(file), "--edits", "5", "--json"]) == 1
    assert "holds 4" in the_object(capsys)["error"]["message"]
    assert run(["world", "records", "-o", str(file)]) == 1
    assert run(["world", "corpus", "--count", "2", "--json"]) == 0
    assert len(the_object(capsys)["texts"]) == 2
    assert run(["world", "info", "--json"]) == 0
    assert the_object(capsys)["subjects"] > 1000


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--json"]) == 0
    found = the_object(capsys)
    assert {row["name"] for row in found["plugins"]} >= {"project", "sphere", "ridge", "queue"}
    listed = {row["name"]: row for row in found["methods"]}
    assert listed["alphaedit"]["paper"] == "https://arxiv.org/abs/2410.02355"
    assert run(["methods"]) == 0
    assert "memit-history" in capsys.readouterr().out


def test_text_is_sampled_when_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = tiny(place, "edit", str(place / "facts.jsonl"), "--json")
    assert run(argv) == 0
    assert "fluency" not in json.loads(capsys.readouterr().out)
    assert run([*argv, "--generation"]) == 0
    assert "fluency" in json.loads(capsys.readouterr().out)
    assert run([*argv, "--report", str(tmp_path / "report.html")]) == 0
    assert "fluency" in json.loads(capsys.readouterr().out)
