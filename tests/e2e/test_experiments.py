"""An experiment that is killed and goes on gives the numbers of one that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alphaedit.cli.app import run

ARGS = [
    "--model",
    "bundled-small",
    "--set",
    "edits=9",
    "--set",
    "batch_size=3",
    "--set",
    "every=1",
]
ARGS += ["--set", "methods=[alphaedit]", "--set", "tokens=12000", "--set", "sample=8"]
ARGS += ["--set", "measures=edits,drift", "--set", "final=shift,texts,retention"]
ARGS += ["--set", "records=world:counterfact", "--set", "pictures=curves,shift", "-q"]
COMMAND = [sys.executable, "-m", "alphaedit", "experiment", "main-table", *ARGS]


def numbers(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.glob("cells/*/rows-*.jsonl")):
        rows += [json.loads(line) for line in path.read_text().splitlines()]
    return rows


@pytest.mark.timeout(400)
def test_killed_and_gone_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    quiet = tmp_path / "quiet"
    assert run(["experiment", "main-table", *ARGS, *cache, "-o", str(quiet), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [r["method"] for r in said["results"]] == ["unedited", "alphaedit"]
    assert said["results"][1]["efficacy"]["value"] > 60
    assert not said["failed"]

    killed = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for wanted in (1, 3):  # kill once so many files of numbers are there
        process = subprocess.Popen(
            [*COMMAND, *cache, "-o", str(killed)], env=environment, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            if len(list(killed.glob("cells/*/rows-*.jsonl"))) >= wanted:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                process.wait()
            time.sleep(0.005)
    assert kills == 2
    assert run(["experiment", "main-table", *ARGS, *cache, "-o", str(killed)]) == 0
    capsys.readouterr()
    assert numbers(killed) == numbers(quiet)
    for path in quiet.glob("cells/*/extra-*.json"):
        assert (killed / path.relative_to(quiet)).read_text() == path.read_text()
    assert not list(killed.glob("cells/*/session"))

    # Nothing is run again, and another configuration is refused.
    before = {p: p.stat().st_mtime_ns for p in killed.glob("cells/*/*")}
    assert run(["experiment", "main-table", *ARGS, *cache, "-o", str(killed)]) == 0
    assert {p: p.stat().st_mtime_ns for p in killed.glob("cells/*/*")} == before
    other = ["experiment", "main-table", *ARGS, "--set", "edits=6", "-o", str(killed), "--json"]
    capsys.readouterr()
    assert run(other) == 1
    assert "edits differ" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run(["report", str(killed), str(quiet), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("<svg") >= 1
    assert "What the models write" in page


def test_measured_at_given_numbers_of_edits(tmp_path: Path) -> None:
    small = ["--set", "edits=5", "--set", "batch_size=2", "--set", "at=[1, 4]", "--set", "sample=4"]
    small += ["--set", "methods=[grace]", "--set", "final=[]", "--model", "bundled-small", "-q"]
    small += ["--set", "records=world:counterfact", "--set", "pictures=[]"]
    cache = ["--cache-dir", str(tmp_path / "cache")]
    assert run(["experiment", "main-table", *small, *cache, "-o", str(tmp_path / "run")]) == 0
    made = {row["edits"] for row in numbers(tmp_path / "run") if row["method"] == "grace"}
    assert made == {2, 4, 5}
