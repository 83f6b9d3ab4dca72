"""The tutorial does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alphaedit.cli.app import run

pytest.importorskip("peft")
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
OURS = "alphaedit "


def by_shell(code: str) -> None:
    """Lines that call other programs."""
    subprocess.run(["bash", "-euc", code], check=True, timeout=240)


def typed(code: str) -> None:
    """A block as a reader would type it; commands of ours in this process, as each loads torch."""
    others = ""
    for line in code.splitlines(keepends=True):
        if not line.startswith(OURS):
            others += line
            continue
        by_shell(others)
        others = ""
        assert run(shlex.split(line, comments=True)[1:]) == 0, line
    by_shell(others)


@pytest.mark.timeout(900)
def test_the_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("python") == 2
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    said = []
    for kind, code in blocks:
        if kind == "sh":
            typed(code)
            said.append(capsys.readouterr().out)
            continue
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        said.append(done.stdout)
    edited, reviewed, previewed, reverted, checked, _, adapted = said
    assert "three facts" not in edited
    assert reviewed.count("three facts of ticket 12") == 3
    assert "3 of 3 facts hold" in reviewed
    assert previewed.splitlines() == ["['English', 'Berlin', 'Apple']", " Madrid.", " Rome."]
    assert "Edits left in my-edits: 2." in reverted
    assert "2 of 2 facts hold" in checked
    assert adapted.strip() == "[' English', ' English']"
    assert (tmp_path / "report.xml").read_text(encoding="utf-8").count("<testcase") == 2
    assert {p.name for p in (tmp_path / "my-model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "FACTS.md",
    }
