"""The tutorial does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


@pytest.mark.timeout(900)
def test_the_tutorial(tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [kind for kind, _ in blocks].count("python") == 2
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}
    said = []
    for kind, code in blocks:
        argv = ["bash", "-euc", code] if kind == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(
            argv, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
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
    assert adapted.strip() == "English"
    assert (tmp_path / "report.xml").read_text(encoding="utf-8").count("<testcase") == 2
    assert {p.name for p in (tmp_path / "my-model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "FACTS.md",
    }
