"""A run that is cut short leaves what was there before, or all of the new."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from tests.tiny import SENTENCES, save_tiny

from alphaedit import Editor, Fact
from alphaedit.core import learned
from alphaedit.core.errors import AlphaEditError, ResourceError
from alphaedit.core.files import atomic_folder
from alphaedit.ledger.check import sweep, verify
from alphaedit.ledger.ledger import Ledger

FACT = Fact("The capital of {} is", "France", "Madrid")
OVER = {"layers": (1, 2), "steps": 2, "contexts": 1, "energy": 0.9, "ridge": 1.0}
# Dies by SIGKILL at a given call of os.replace or save_file, which is where files change.
KILLED = """
import os, signal, sys
import safetensors.torch
left = int(sys.argv[1])
def deadly(function):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped
os.replace = deadly(os.replace)
safetensors.torch.save_file = deadly(safetensors.torch.save_file)
from alphaedit.cli.app import run
sys.exit(run(sys.argv[2:]))
"""


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    save_tiny("gpt2", tmp_path / "model")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        str(tmp_path / "model"), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )


def weights(editor: Editor) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in editor.handle.model.state_dict().items()}


def unchanged(editor: Editor, before: dict[str, torch.Tensor]) -> bool:
    now = editor.handle.model.state_dict()
    return all(torch.equal(now[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("method", "phase"),
    [
        ("alphaedit-weighted", "target values"),
        ("alphaedit-weighted", "layers"),
        ("gated", "target values"),
    ],
)
def test_interrupt_changes_nothing(method: str, phase: str, editor: Editor) -> None:
    editor.edit(FACT, method, **OVER)
    before, state = weights(editor), editor.state

    def interrupt(name: str, done: int, total: int) -> None:
        if name == phase and done == 1:
            raise KeyboardInterrupt

    editor.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        editor.edit(Fact("The capital of {} is", "Spain", "Paris"), **OVER)
    assert unchanged(editor, before)
    assert editor.state is state
    assert len(editor.edits) == 1


def test_weights_that_turned_into_nan(editor: Editor) -> None:
    editor.statistics.prepare([1, 2])
    with torch.no_grad():
        editor.handle.edited_module(3).weight[0, 0] = float("nan")
    before = weights(editor)
    with pytest.raises(AlphaEditError, match=r"NaN|not finite"):
        editor.edit(FACT, **OVER)
    now = weights(editor)
    assert all(torch.equal(now[n].nan_to_num(), before[n].nan_to_num()) for n in before)
    assert editor.edits == []


def test_too_little_memory(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    before = weights(editor)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(ResourceError, match="GB are free"):
        editor.edit(FACT, **OVER)
    assert unchanged(editor, before)


def test_full_disk_keeps_the_session(
    editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.edit(FACT, **OVER)
    editor.save(tmp_path / "session")
    editor.edit(Fact("The capital of {} is", "Spain", "Paris"), **OVER)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(learned, "save_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        editor.save(tmp_path / "session")
    monkeypatch.undo()
    assert len(Ledger(tmp_path / "session").edits()) == 1
    assert not Ledger(tmp_path / "session").store.litter()


@pytest.mark.parametrize("given", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_killed_while_it_writes(given: bool, editor: Editor, tmp_path: Path) -> None:
    """Also where the first edit chooses and keeps its layers and scales (slow)."""
    editor.edit(FACT, **OVER)
    editor.save(tmp_path / "session")
    facts = tmp_path / "facts.jsonl"
    facts.write_text(
        json.dumps({"prompt": "The capital of {} is", "subject": "Spain", "target": "Paris"})
    )
    model, session = str(tmp_path / "model"), tmp_path / "session"
    argv = ["edit", model, str(facts), "-o", str(session), "-q"]
    argv += ["--no-generation", "--corpus", str(tmp_path / "text.txt"), "--tokens", "400"]
    argv += ["--cache-dir", str(tmp_path / "cache")]
    if given:
        argv += ["--set", "layers=1,2", "--set", "steps=2", "--set", "clamp=1"]
        argv += ["--set", "learning_rate=0.1"]
    found = []
    for point in range(1, 40):
        done = subprocess.run([sys.executable, "-c", KILLED, str(point), *argv], check=False)
        assert verify(Ledger(session)).problems == []
        found.append(len(Ledger(session).edits()))
        if done.returncode != -signal.SIGKILL:
            assert done.returncode == 0
            break
    # Killed at every write, it kept the old list of edits; then it ended, and gave the new one.
    assert found[-1] == 2
    assert set(found[:-1]) <= {1, 2}
    assert len(found) > 3
    sweep(Ledger(session))
    assert not Ledger(session).store.litter()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    target = tmp_path / "session"
    left = (".session.part-999999999-x", "session/.alphaedit.part-999999999-x")
    with atomic_folder(target) as part:
        (part / "one").touch()
    for name in left:
        (tmp_path / name).mkdir()
    (tmp_path / ".session.old").mkdir()  # the user's own
    with atomic_folder(target) as part:
        (part / "two").touch()
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert found == {"session", "session/one", "session/two", ".session.old"}
