"""Facts and records from standard input (issue F, part 6)."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.fuzz import in_time, run_cli

from alphaedit.cli import facts as sources
from alphaedit.core import reading
from alphaedit.core.errors import AlphaEditError, ConfigError, FactError, ModelError
from alphaedit.core.fact import Fact

FACT = {"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}
OTHER = {"prompt": "The capital of {} is", "subject": "Spain", "target": "Cadiz"}
FACTS = [Fact(**FACT), Fact(**OTHER)]
TEXTS = {
    "jsonl": f"{json.dumps(FACT)}\n{json.dumps(OTHER)}\n",
    "json": json.dumps([FACT, OTHER], indent=1),
    "csv": "Prompt,subject,target\nThe capital of {} is,France,Lyon\n"
    "The capital of {} is,Spain,Cadiz",
    "tsv": "prompt\tsubject\ttarget\nThe capital of {} is\tFrance\tLyon\n"
    "The capital of {} is\tSpain\tCadiz\n",
    "yaml": "- {prompt: 'The capital of {} is', subject: France, target: Lyon}\n"
    "- {prompt: 'The capital of {} is', subject: Spain, target: Cadiz}\n",
}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gets as far as loading a model is told so."""

    def stop(*_: object, **__: object) -> None:
        raise ModelError("As far as the model.", remedy="None needed.")

    monkeypatch.setattr("alphaedit.jobs.opening.Opening.open", stop)
    monkeypatch.setattr("alphaedit.model.handle.ModelHandle.load", stop)


def given(text: bytes) -> Any:
    return mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text), "ascii"))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", TEXTS)
def test_every_format(kind: str, named: bool) -> None:
    text = ("\ufeff" + TEXTS[kind].replace("Cadiz", "Cádiz")).encode()
    with given(text):
        found = sources.load("-", kind if named else None)
    assert found == [FACTS[0], Fact(**{**OTHER, "target": "Cádiz"})]


@pytest.mark.parametrize("argv", [["edit", "m", "-"], ["check", "m", "-"], ["trace", "m", "-"]])
@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.usefixtures("no_model")
def test_commands(argv: list[str], kind: str) -> None:
    code, _, said = run_cli(argv, TEXTS[kind].encode())
    assert (code, "As far as the model" in said) == (1, True), said
    code, _, said = run_cli([*argv, "--format", "yml" if kind == "yaml" else kind.upper()], b"")
    assert (code, "standard input is empty" in said) == (1, True), said
    code, out, _ = run_cli([*argv, "--json"], TEXTS[kind].replace("target", "tagret").encode())
    error = json.loads(out)["error"]
    assert code == 1
    assert "standard input" in error["message"]
    assert "target" in error["message"] + error["remedy"]


@pytest.mark.usefixtures("no_model")
def test_a_format_for_a_file_of_another_ending(tmp_path: Path) -> None:
    path = tmp_path / "facts.txt"
    path.write_text(TEXTS["jsonl"])
    assert "unknown ending" in run_cli(["check", "m", str(path)])[2]
    assert "As far as" in run_cli(["check", "m", str(path), "--format", "jsonl"])[2]
    assert "Did you mean 'jsonl'" in run_cli(["check", "m", str(path), "--format", "jsnl"])[2]
    argv = ["edit", "m", "--prompt", "{} is", "--subject", "a", "--target", "b"]
    assert "--format" in run_cli([*argv, "--format", "csv"])[2]


@pytest.mark.usefixtures("no_model")
def test_records_of_a_data_set() -> None:
    row = {"src": "Who wrote Faust?", "subject": "Faust", "alt": "Kafka", "pred": "Goethe"}
    for text in (json.dumps(row), json.dumps([row]), f"{json.dumps(row)}\n{json.dumps(row)}\n"):
        assert "As far as the model" in run_cli(["eval", "m", "-"], text.encode())[2]
    del row["alt"]
    for text, place in ((json.dumps(row), "line 1"), (json.dumps([row]), "record 0")):
        said = run_cli(["eval", "m", "-", "--schema", "zsre"], text.encode())[2]
        assert f"standard input, {place}: field 'alt' is missing" in said
    assert "standard input holds no records" in run_cli(["eval", "m", "-"], b"")[2]


def test_counterfact_records_are_checked_before_a_model_is_loaded() -> None:
    rewrite = {"prompt": "{} is", "subject": "It", "target_new": {"str": "a"}}
    said = run_cli(["edit", "m", "-"], json.dumps({"requested_rewrite": rewrite}).encode())[2]
    assert "standard input, line 1: field 'requested_rewrite.target_true' is missing" in said
    record = {"requested_rewrite": {**rewrite, "target_true": {"str": "b"}}}
    record["attribute_prompts"] = ["{} was"]  # type: ignore[assignment]
    said = run_cli(["edit", "m", "-"], json.dumps(record).encode())[2]
    assert "standard input, line 1: Field 'attribute_prompts' has a place" in said


def told(error: type[AlphaEditError], *parts: str) -> None:
    with in_time(10), pytest.raises(error) as caught:
        sources.standard_input()
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.remedy


def test_what_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock.patch.object(sys, "stdin", None):
        told(ConfigError, "is closed")
    with given(b"") as stream:
        stream.close()
        told(ConfigError, "is closed")
    with given(b"\xff"):
        told(FactError, "standard input, line 1: not UTF-8")
    with given(b"\x1f\x8b\x08"):
        told(FactError, "a gzip archive")
    monkeypatch.setattr(sources, "read_stream", lambda file: reading.read_stream(file, 3))
    with given(b"abcd"):
        told(ConfigError, "more than 512 MiB")
    with given(b"abc"):
        assert sources.standard_input() == "abc"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with given(b"abc"):
        told(ConfigError, "several processes")


def test_a_terminal_is_not_waited_for() -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs) as terminal, mock.patch.object(sys, "stdin", terminal):
        told(ConfigError, "is a terminal", "cat facts.jsonl |")
    os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False])
def test_in_a_process_of_its_own(closed: bool) -> None:
    code = "from alphaedit.cli.app import main; main()"
    argv = [sys.executable, "-c", code, "check", "/nowhere/model", "-"]
    done = subprocess.run(
        argv if not closed else ["sh", "-c", 'exec "$@" <&-', "sh", *argv],
        input=None if closed else TEXTS["jsonl"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert ("Standard input is closed" if closed else "/nowhere/model") in done.stderr
