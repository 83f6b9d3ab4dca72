"""`alphaedit tune` on a model whose family and name no preset knows."""

import json
from pathlib import Path
from typing import Any

import pytest

from alphaedit.cli.app import run
from alphaedit.methods.presets import preset
from alphaedit.world.asset import path
from alphaedit.world.facts import World
from alphaedit.world.records import records


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """bundled-small without what says that it is ours."""
    source, model = path("bundled-small"), tmp_path / "model"
    model.mkdir()
    for file in source.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    kept = {k: v for k, v in config.items() if not k.startswith("alphaedit")}
    (model / "config.json").write_text(json.dumps(kept))
    rows = records(World.load().largest(config["alphaedit_subjects"]), 100)
    (tmp_path / "pilots.json").write_text(json.dumps(rows[:40]))
    (tmp_path / "others.json").write_text(json.dumps(rows[40:]))
    return model


@pytest.mark.slow
def test_tuned_from_neutral_defaults_as_good_as_by_hand(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*argv: str) -> dict[str, Any]:
        code = run([*argv, "--json", "-q", "--tokens", "20000"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert code == 0, found
        return found

    neutral = ["layers=2-4", "steps=25", "learning_rate=0.5", "clamp=0.75", "energy=0.9"]
    start = tmp_path / "neutral.yaml"
    values = ", ".join(v.replace("=", ": ").replace("2-4", "[2, 3, 4]") for v in neutral)
    start.write_text(f"all: {{{values}, ridge_share: 0.1}}\n")
    file = tmp_path / "preset.yaml"
    tuning = ["tune", str(bare), str(tmp_path / "pilots.json"), "-o", str(file)]
    tuned = call(*tuning, "--preset", str(start), "--trials", "14")
    assert tuned["best"]["score"] > tuned["start"]["score"]
    assert tuned["checked"]["best"]["efficacy"] > 0.8

    test = ["eval", str(bare), str(tmp_path / "others.json"), "--edits", "60"]
    test += ["--batch-size", "30", "--no-generation"]
    ours = call(*test, "--preset", str(file))
    by_hand = preset("bundled-small", "alphaedit")
    hand = [f"{k}={','.join(map(str, v)) if k == 'layers' else v}" for k, v in by_hand.items()]
    theirs = call(*test, *(word for pair in hand for word in ("--set", pair)))
    for name, share in (("efficacy", 0.95), ("generalization", 0.9), ("specificity", 0.95)):
        assert ours[name]["value"] >= share * theirs[name]["value"], name

    assert run([*tuning, "--json", "-q"]) == 1
    assert "exists" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run(["tune", str(bare), "world", "-o", str(tmp_path / "preset.txt"), "--json"]) == 1
    assert ".yaml" in json.loads(capsys.readouterr().out)["error"]["message"]
