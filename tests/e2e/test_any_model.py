"""The same commands, without a preset, on models that nobody tuned them for."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import save_tiny

from alphaedit.cli.app import run

MODELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "models"
REAL = ["TinyStories-656K", "stories260K"]
FACTS = [
    {"prompt": "{} lived in the", "subject": "Lily", "target": "sea"},
    {"prompt": "{} liked to play with", "subject": "Tom", "target": "the moon"},
]


FIRST = ["gpt2", "llama", "TinyStories-656K"]
OTHERS = ["gpt_neo", "qwen3_moe", "stories260K"]


@pytest.fixture(params=[*FIRST, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model directory: random weights of four families, and two small real models."""
    if request.param in REAL:
        if not (MODELS / request.param).is_dir():
            pytest.skip(f"{request.param} is not beside the project (../shared/data/models)")
        return MODELS / request.param
    return save_tiny(request.param, tmp_path / "model")


def the_object(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    data = json.loads(capsys.readouterr().out)
    assert isinstance(data, dict)
    return data


def record(fact: dict[str, str]) -> dict[str, Any]:
    text = fact["prompt"].format(fact["subject"])
    return {
        "case_id": fact["subject"],
        "requested_rewrite": {
            "prompt": fact["prompt"],
            "subject": fact["subject"],
            "target_new": {"str": fact["target"]},
            "target_true": {"str": "house"},
        },
        "paraphrase_prompts": [f"It was known that {text}"],
        "neighborhood_prompts": ["Ben lived in the"],
        "generation_prompts": [text],
    }


def test_edit_ask_revert_eval_stats(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--tokens", "2000", "--cache-dir", str(tmp_path / "cache"), "-q", "--json"]
    facts, session = tmp_path / "facts.jsonl", str(tmp_path / "session")
    facts.write_text("\n".join(map(json.dumps, FACTS)), encoding="utf-8")

    argv = ["edit", str(model), str(facts), "-o", session, "--report", str(tmp_path / "page.html")]
    assert run([*argv, *common]) == 0
    edited = the_object(capsys)
    assert edited["efficacy"]["n"] == 2
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "How it was made" in page
    assert all(fact["subject"] in page and fact["target"] in page for fact in FACTS)
    saved = json.loads(next((tmp_path / "session").glob("edits/*/edit.json")).read_text())
    # Random weights hardly let themselves be moved: there the sum must rise, elsewhere every fact.
    gains = [
        after["p_target"] - before["p_target"]
        for before, after in zip(saved["before"], saved["after"], strict=True)
    ]
    assert (min(gains) if model.name in REAL else sum(gains)) > 0

    prompt = "Lily lived in the"
    assert run(["ask", str(model), prompt, "--edits", session, "-q", "--json"]) == 0
    changed = the_object(capsys)["answers"][0]
    checkpoint = tmp_path / "checkpoint"
    revert = ["revert", session, "--model", str(model), "--checkpoint", str(checkpoint)]
    assert run([*revert, "-q", "--json"]) == 0
    the_object(capsys)
    texts = []
    for folder in (model, checkpoint):
        assert run(["ask", str(folder), prompt, "-q", "--json"]) == 0
        texts.append(the_object(capsys)["answers"][0])
    assert texts[0] == texts[1]
    assert changed["prompt"] == prompt

    rows = tmp_path / "records.json"
    rows.write_text(json.dumps([record(fact) for fact in FACTS]), encoding="utf-8")
    for method in ("none", "alphaedit"):
        argv = ["eval", str(model), str(rows), "--method", method, "--batch-size", "1"]
        assert run([*argv, "--edits", "2", *common]) == 0
        result = the_object(capsys)
        assert math.isfinite(result["fluency"]["value"])
        assert result["efficacy"]["n"] == 2

    assert run(["stats", str(model), *common]) == 0
    assert the_object(capsys)["layers"]
