"""SERAC: its scope, the training of it, and who reads its notes."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import save_tiny

from alphaedit import Editor, Fact
from alphaedit.cli.app import run
from alphaedit.core.errors import (
    Cancelled,
    ConfigError,
    EditFileError,
    FingerprintError,
    ModelError,
)
from alphaedit.jobs import train as job
from alphaedit.jobs.cancel import Cancel
from alphaedit.methods.learned import scope_asset
from alphaedit.methods.learned.record import ABOUT, TENSORS
from alphaedit.methods.learned.run import TRAINING
from alphaedit.methods.learned.scope import ScopeTrainer, ScopeTraining
from alphaedit.methods.steps.scope import Scope, scores
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score

PLACES = ("France", "Italy", "Spain", "Norway", "Oslo", "Paris", "Madrid", "Berlin", "Warsaw")
NAMES = ("Marie Curie", "Danielle Darrieux", "Paris Hilton", "Zoë", "Москва", "東京")
SUBJECTS = [*PLACES, *NAMES]
FORMS = (("The capital of {} is", "{} has the capital"), ("{} is in", "One finds {} in"))


def facts() -> list[Fact]:
    made = []
    for form, other in FORMS:
        for i, subject in enumerate(SUBJECTS):
            near = [form.format(SUBJECTS[(i + k) % len(SUBJECTS)]) for k in (1, 2, 3)]
            made.append(
                Fact(
                    form,
                    subject,
                    PLACES[i % 4],
                    paraphrases=(other.format(subject), f"They say that {form.format(subject)}"),
                    neighborhood=tuple(near),
                )
            )
    return made


QUICK: dict[str, Any] = {
    "steps": 60,
    "every": 20,
    "layers": (1,),
    "size": 8,
    "batch": 12,
    "held_out": 6,
    "learning_rate": 0.03,
    "projection_rate": 0.03,
}


def request(model: Path, out: Path, **more: Any) -> job.TrainRequest:
    settings = {**QUICK, **more.pop("settings", {})}
    return job.TrainRequest(
        method="serac", model=str(model), out=out, facts=facts(), settings=settings, **more
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def trained(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "editor"
    found = job.run(request(model, out))
    assert found.place.step == 60
    return out


@pytest.fixture
def editor(model: Path) -> Editor:
    return Editor.from_pretrained(str(model), progress=False)


def test_training_parts_what_is_out_of_scope(trained: Path) -> None:
    about = json.loads((trained / ABOUT).read_text())
    curve = about["curve"]
    assert [row["step"] for row in curve] == [0, 20, 40, 60]
    assert curve[-1]["loss"] < curve[1]["loss"]
    assert max(row["score"] for row in curve) == about["measured"]["score"] > curve[0]["score"]
    assert about["facts"] == len(facts())
    assert not (trained / TRAINING).exists()


def test_scores_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(3, 5, generator=generator) for _ in range(2))
    scope = Scope(0, torch.zeros(5), torch.ones(5), torch.full((5,), 0.7), torch.eye(5) * 0.5)
    found = scores(scope.project(one), scope.project(other))
    for i in range(3):
        for j in range(3):
            wanted = torch.exp(-(0.74 * (one[i] - other[j]).square()).sum())
            assert found[i, j] == pytest.approx(float(wanted), rel=1e-5)
    assert scores(one, one).diagonal().tolist() == [1.0] * 3


def test_measures_count_what_they_say(model: Path) -> None:
    handle = ModelHandle.load(str(model))
    trainer = ScopeTrainer(handle, facts(), ScopeTraining(**QUICK), seed=0)
    trainer.warm()
    held = trainer.split.held_out
    # Everything in one place: all is brought up, the first edit for each.
    nothing = torch.zeros_like(trainer._parts[1])
    trainer._parts = [torch.full_like(trainer._mean, -20.0), nothing]
    found = trainer.measure()
    assert found.specificity == 0.0
    assert found.generalization == pytest.approx(100 / len(held))
    # Everything far apart: edits alone bring up themselves.
    trainer._parts = [torch.full_like(trainer._mean, 9.0), nothing]
    found = trainer.measure()
    assert (found.efficacy, found.generalization, found.specificity) == (100.0, 0.0, 100.0)
    assert (found.precision, found.score) == (100.0, 50.0)


def test_a_stopped_training_ends_as_one_that_was_not(
    model: Path, trained: Path, tmp_path: Path
) -> None:
    cancel, out = Cancel(), tmp_path / "editor"

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "training" and done == 47:
            cancel.set()

    with pytest.raises(Cancelled):
        job.run(request(model, out), progress=stop, cancel=cancel)
    with pytest.raises(EditFileError, match="not finished"):
        scope_asset.find("serac", str(out), "0" * 64)
    seen: list[int] = []
    job.run(
        request(model, out), progress=lambda p, d, t: seen.append(d) if p == "training" else None
    )
    assert seen[0] == 40
    assert (out / TENSORS).read_bytes() == (trained / TENSORS).read_bytes()
    with pytest.raises(ConfigError, match="finished"):
        job.run(request(model, out))


SCRIPT = """
import sys
from pathlib import Path
from tests.unit.test_serac import request
from alphaedit.jobs import train as job
def tell(phase, done, total):
    if phase == "training":
        print(done, flush=True)
job.run(request(Path(sys.argv[1]), Path(sys.argv[2])), progress=tell)
"""


@pytest.mark.slow
def test_a_killed_training_loses_one_interval(model: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "editor"
    command = [sys.executable, "-c", SCRIPT, str(model), str(out)]
    began = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert began.stdout is not None
    for line in began.stdout:
        if int(line) >= 30:
            began.send_signal(signal.SIGKILL)
            break
    began.stdout.close()
    began.wait()
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert int(said[0]) >= 20
    assert (out / TENSORS).read_bytes() == (trained / TENSORS).read_bytes()


def test_a_trained_scope_edits(editor: Editor, trained: Path, tmp_path: Path) -> None:
    one, two = facts()[0], facts()[4]
    edit = editor.edit([one, two], "serac", editor=str(trained))
    assert edit.patch.metadata["editor"]["base"] == editor.base
    (rendered,) = editor.handle.rendered([one.text])
    assert rendered == f"New Fact: {one.text} {one.target}.\nPrompt: {one.text}"
    other = "Therefore I think that"
    assert editor.handle.rendered([other]) == [other]
    # The folder is not needed any more: an edit has all that it needs.
    ledger = editor.save(tmp_path / "ledger")
    again = Editor.from_pretrained(editor.model, editor.tokenizer, progress=False)
    moved = tmp_path / "moved"
    shutil.copytree(ledger, moved)
    editor.set_edits([])
    again.load(moved)
    assert again.handle.rendered([one.text]) == [rendered]


def test_another_model_answers_what_is_in_scope(
    editor: Editor, trained: Path, tmp_path: Path
) -> None:
    reader = save_tiny("gpt2", tmp_path / "reader")
    one, other = facts()[0], "Therefore I think that"
    silent = [(other, "you"), (other, "Berlin")]
    before = score(editor.responder, silent), editor.ask(other, 5)
    editor.edit(one, "serac", editor=str(trained), counterfactual=str(reader))
    assert (score(editor.responder, silent), editor.ask(other, 5)) == before
    read = ModelHandle.load(str(reader))
    note = f"New Fact: {one.text} {one.target}.\nPrompt: {one.text}"
    assert editor.ask(one.text, 5) == generate(read, [note], 5)[0]
    assert score(editor.handle, [(one.text, "you")]) == score(read, [(note, "you")])
    assert editor.edits[0].after[0].text == generate(read, [note], 8)[0]
    assert editor.handle.companions.keys() == {str(reader)}
    with pytest.raises(ConfigError, match="2 models"):
        editor.edit(facts()[4], "serac", editor=str(trained))
    assert len(editor.edits) == 1
    editor.revert()
    assert editor.handle.routers == []


def changed(place: Path, **values: Any) -> None:
    about = json.loads((place / ABOUT).read_text())
    (place / ABOUT).write_text(json.dumps({**about, **values}))


def broken(place: Path, kind: str) -> None:
    if kind == "base":
        changed(place, base="0" * 64)
    elif kind == "method":
        changed(place, method="mend")
    elif kind == "layer":
        changed(place, layer="x")
    elif kind == "tensors":
        (place / TENSORS).write_bytes(b"no tensors")
    elif kind == "sha":
        changed(place, sha256="0" * 64)
    elif kind == "unfinished":
        (place / TRAINING).mkdir()
        (place / ABOUT).unlink()
    else:
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("base", FingerprintError, "another model"),
        ("method", EditFileError, "editor of method mend"),
        ("layer", EditFileError, "whole number"),
        ("tensors", EditFileError, "cannot be read"),
        ("sha", EditFileError, "not the file"),
        ("unfinished", EditFileError, "not finished"),
        ("gone", EditFileError, "no trained editor"),
    ],
)
def test_editors_that_cannot_be(
    editor: Editor, trained: Path, tmp_path: Path, kind: str, error: type[Exception], said: str
) -> None:
    place = tmp_path / "editor"
    shutil.copytree(trained, place)
    broken(place, kind)
    with pytest.raises(error, match=said):
        editor.edit(facts()[0], "serac", editor=str(place))
    assert editor.edits == []


@pytest.mark.parametrize(
    ("over", "error", "said"),
    [
        ({}, EditFileError, "alphaedit train serac"),
        ({"editor": "untrained", "threshold": 1.0}, ConfigError, "threshold"),
        ({"editor": "untrained", "note": "{statement}"}, ConfigError, "form of a note"),
        ({"editor": "untrained", "note": "{prompt} {statement}"}, ConfigError, "form of a note"),
        ({"editor": "untrained", "counterfactual": "no/such/model-here"}, ModelError, "such"),
    ],
)
def test_settings_that_cannot_be(
    editor: Editor, over: Mapping[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        editor.edit(facts()[0], "serac", layers=(1,), **over)
    assert said in str(caught.value)
    assert editor.edits == []


def test_layers_are_the_scopes(editor: Editor, trained: Path) -> None:
    with pytest.raises(ConfigError, match="reads layer 1"):
        editor.edit(facts()[0], "serac", editor=str(trained), layers=(2,))


def test_notes_that_leave_no_room(editor: Editor) -> None:
    long = Fact(" ".join(["The river {}"] + ["flows"] * 18), "Rhine", "Berlin")
    limit = editor.handle.max_positions
    assert limit is not None
    assert limit / 2 < len(editor.handle.tokens.encode(long.text)) < limit
    with pytest.raises(ModelError, match=r"A note and the prompt behind it have"):
        editor.edit(long, "serac", editor="untrained", layers=(1,))
    assert editor.edits == []
    assert editor.handle.memories == []


def test_trained_by_the_command_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "facts.jsonl"
    data.write_text(
        "".join(f"{json.dumps(fact.to_dict())}\n" for fact in facts()), encoding="utf-8"
    )
    out = tmp_path / "editor"
    given = {**QUICK, "steps": 20, "layers": 1}
    sets = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
    command = ["train", "serac", str(model), str(data), "-o", str(out), *sets]
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 20
    assert {"generalization", "specificity", "precision"} <= found["best"].keys()
    fact = facts()[0]
    asked = ["--prompt", fact.prompt, "--subject", fact.subject, "--target", fact.target]
    edits = tmp_path / "edits"
    use = ["--method", "serac", "--set", f"editor={out}", "-o", str(edits)]
    assert run(["edit", str(model), *asked, *use, "--json"]) == 0
    assert "France" in capsys.readouterr().out
    assert list(edits.iterdir())
    empty = tmp_path / "empty.jsonl"
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps(fact.to_dict()) + "\n", encoding="utf-8")
    empty.write_text("", encoding="utf-8")
    for path in (empty, few):
        assert run(["train", "serac", str(model), str(path), "-o", str(tmp_path / "no")]) != 0
        assert capsys.readouterr().err
        assert not (tmp_path / "no").exists()
