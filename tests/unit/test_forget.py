"""`alphaedit forget`, its job, and the same from Python: single facts are undone, to the bit."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model
from torch import Tensor

from alphaedit import Editor, Fact
from alphaedit.cli.app import run
from alphaedit.core.errors import Cancelled, ConfigError, EditFileError
from alphaedit.jobs import forget as job
from alphaedit.jobs.cancel import Cancel
from alphaedit.ledger.ledger import Ledger

FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} is a city in", "Oslo", "Spain"),
    Fact("The mayor of {} is", "Oslo", "Paris"),
]
MORE = [Fact("The capital of {} is", "Italy", "Vienna")]
GRACE: dict[str, Any] = {"layers": (1,), "radius": 0.5, "steps": 20, "clamp": 20.0}
ASKED = [fact.text for fact in (*FACTS, *MORE)]


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    made = Editor.from_pretrained(
        *tiny_model("gpt2"), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )
    made.edit(FACTS, "grace", **GRACE)
    made.edit(MORE, "grace", **GRACE)
    return made


@pytest.fixture
def folder(editor: Editor, tmp_path: Path) -> Path:
    return editor.save(tmp_path / "ledger")


def logits(editor: Editor) -> list[Tensor]:
    found = []
    for prompt in ASKED:
        with torch.no_grad():
            ids = torch.tensor([editor.handle.tokens.encode(prompt)])
            found.append(editor.model(input_ids=ids).logits[0, -1])
    return found


def told(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*argv, "--json", "--quiet"]) == code
    return dict(json.loads(capsys.readouterr().out))


def test_one_fact(editor: Editor, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (edit.id for edit in editor.edits)
    after = logits(editor)
    editor.set_edits([])
    before = logits(editor)
    one = ["--prompt", "The capital of {} is", "--subject", "France", "--why", "was wrong"]
    found = told(capsys, "forget", str(folder), *one)
    assert found["forgotten"] == [
        {"prompt": "The capital of France is", "subject": "France", "target": "Madrid"}
    ]
    ledger = Ledger(folder)
    (new, left) = ledger.head.edits
    assert found["replaced"] == {first: new}
    assert found["left"] == [new, left] == [new, second]
    entry = ledger.history.entries[-1]
    assert (entry.op, entry.why, entry.number) == ("forget", "was wrong", found["entry"])
    assert entry.more["forgotten"] == ["The capital of France is"]
    editor.load(folder)
    assert all(map(torch.equal, logits(editor), [before[0], *after[1:]]))
    # The same from Python.
    editor.set_edits([])
    editor.load(folder, "head~1")
    (rest,) = editor.forget_facts(FACTS[0])
    assert rest.id == new
    # What was taken out comes back with the version before it.
    assert run(["checkout", str(folder), "head~1"]) == 0
    assert ledger.head.edits == [first, second]
    assert run(["verify", str(folder)]) == 0


def test_by_subject_and_from_files(
    editor: Editor,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (edit.id for edit in editor.edits)
    assert run(["forget", str(folder), "--subject", " Oslo "]) == 0
    out = capsys.readouterr().out
    assert "Forgotten: 2 facts." in out
    assert "Oslo is a city in → Spain" in out
    assert f"Edit {first} is now" in out
    assert "with 1 fact." in out
    file = tmp_path / "facts.jsonl"
    rows = [f'{{"prompt": "{f.prompt}", "subject": "{f.subject}", "target": "x"}}' for f in MORE]
    file.write_text("\n".join(rows), encoding="utf-8")
    assert run(["forget", str(folder), str(file)]) == 0
    out = capsys.readouterr().out
    assert f"Nothing is left of edit {second}." in out
    assert "Edits left in" in out
    row = '{"prompt": "The capital of France is", "subject": "France", "target": "x"}'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(row.encode())))
    assert told(capsys, "forget", str(folder), "-")["left"] == []
    assert run(["log", str(folder)]) == 0
    assert capsys.readouterr().out.count("forget") == 3


@pytest.mark.parametrize(
    ("argv", "error", "said"),
    [
        ([], "ConfigError", "No facts are named"),
        (["--prompt", "The capital of {} is"], "ConfigError", "--subject is missing"),
        (["--prompt", "It is", "--subject", "France"], "ConfigError", "does not name 'France'"),
        (["--prompt", "The capital of Rome is"], "EditFileError", "No edit in force is about"),
        (["--subject", "Rome"], "EditFileError", "No edit in force is about 'Rome'"),
        (["--subject", "Oslo", "--format", "csv"], "ConfigError", "--format is for facts"),
        (["facts.jsonl", "--subject", "Oslo"], "ConfigError", "both in a file and"),
        (["nothere.jsonl"], "FactError", "does not exist"),
    ],
)
def test_what_cannot_be_forgotten(
    folder: Path, argv: list[str], error: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = len(Ledger(folder).history.entries)
    found = told(capsys, "forget", str(folder), *argv, code=1)["error"]
    assert found["type"] == error
    assert said in found["message"]
    assert found["remedy"]
    assert len(Ledger(folder).history.entries) == entries


@pytest.mark.filterwarnings("ignore")
def test_weights_are_of_all_facts_together(
    editor: Editor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    editor.set_edits([])
    editor.edit(FACTS, "memit", layers=(1,), steps=2, contexts=0)
    editor.edit(MORE, "grace", **GRACE)
    folder = editor.save(tmp_path / "mixed")
    # One of each: all or none.
    for argv in (["--subject", "France"], [str(tmp_path / "both.csv")]):
        (tmp_path / "both.csv").write_text(
            "prompt,subject,target\nThe capital of {} is,Italy,x\nThe capital of {} is,France,x\n",
            encoding="utf-8",
        )
        found = told(capsys, "forget", str(folder), *argv, code=1)["error"]
        assert "changes weights for 3 facts together" in found["message"]
        assert "Revert the whole edit" in found["remedy"]
    assert Ledger(folder).head.edits == [edit.id for edit in editor.edits]
    # All facts of an edit are its whole.
    found = told(capsys, "forget", str(folder), "--subject", "Italy")
    assert found["left"] == [editor.edits[0].id]


def test_the_job(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="No facts are named"):
        job.ForgetRequest(ledger=folder)
    stop = Cancel()
    stop.set()
    request = job.ForgetRequest(ledger=folder, subjects=["Italy"], prompts=[ASKED[0]])
    with pytest.raises(Cancelled):
        job.run(request, cancel=stop)
    assert Ledger(folder).head.size == 2
    found = job.run(request)
    assert [fact.subject for fact in found.forgotten] == ["France", "Italy"]
    assert found.left == found.ledger.head.edits == [found.replaced[next(iter(found.replaced))]]
    with pytest.raises(EditFileError, match="No edit in force"):
        job.run(request)
