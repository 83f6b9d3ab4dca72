"""A gate from the shell: edited, asked in other words, in weights, forgotten fact by fact."""

import json
from pathlib import Path
from typing import Any

import pytest

from alphaedit.cli.app import run
from alphaedit.world.facts import World
from alphaedit.world.records import records

MODEL = "bundled-small"
COUNT = 3


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return records(World.load().largest(500), COUNT, seed=5)


@pytest.fixture(scope="module")
def ledger(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gated")
    facts = folder / "facts.json"
    facts.write_text(json.dumps(rows), encoding="utf-8")
    assert run(["edit", MODEL, str(facts), "-m", "gated", "-o", str(folder / "led"), "-q"]) == 0
    return folder / "led"


def answers(
    capsys: pytest.CaptureFixture[str],
    prompts: list[str],
    ledger: Path | None,
    model: str = MODEL,
) -> list[str]:
    capsys.readouterr()
    edits = ["--edits", str(ledger)] if ledger else []
    assert run(["ask", model, *prompts, *edits, "--json", "-q"]) == 0
    return [answer["answer"] for answer in json.loads(capsys.readouterr().out)["answers"]]


def test_facts_hold_in_other_words_and_neighbors_stay(
    rows: list[dict[str, Any]], ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [row["paraphrase_prompts"][0] for row in rows]
    targets = [row["requested_rewrite"]["target_new"]["str"] for row in rows]
    told = answers(capsys, asked, ledger)
    right = [
        answer.strip().startswith(target) for answer, target in zip(told, targets, strict=True)
    ]
    assert sum(right) >= COUNT - 1
    near = [prompt for row in rows for prompt in row["neighborhood_prompts"][:2]]
    assert answers(capsys, near, ledger) == answers(capsys, near, None)


def test_a_checkpoint_says_the_facts_and_its_neighbors_stay(
    rows: list[dict[str, Any]], ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "edited"
    export = ["export", str(ledger), "-o", str(out), "--format", "checkpoint", "-q"]
    assert run([*export, "--json"]) == 0
    about = json.loads(capsys.readouterr().out)["neurons"]
    assert sum(about["blocks"].values()) == 2 * COUNT
    facts = about["facts"]
    assert facts["asked"] == COUNT
    assert facts["hold_as_written"] >= COUNT - 1
    assert "new neurons" in (out / "FACTS.md").read_text(encoding="utf-8")
    told = answers(
        capsys,
        [
            row["requested_rewrite"]["prompt"].format(row["requested_rewrite"]["subject"])
            for row in rows
        ],
        None,
        str(out),
    )
    targets = [row["requested_rewrite"]["target_new"]["str"] for row in rows]
    holds = [
        answer.strip().startswith(target) for answer, target in zip(told, targets, strict=True)
    ]
    assert sum(holds) == facts["hold_as_written"]
    near = [prompt for row in rows for prompt in row["neighborhood_prompts"][:2]]
    before = answers(capsys, near, None)
    same = sum(a == b for a, b in zip(answers(capsys, near, None, str(out)), before, strict=True))
    assert same >= len(near) - 1
    assert run([*export, "--force"]) == 0
    assert "facts hold" in capsys.readouterr().out


def test_an_adapter_has_the_facts_by_weights(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(ledger), "-o", str(tmp_path / "adapter"), "-q"]) == 0
    assert f"{COUNT} facts were edited anew by alphaedit-weighted" in capsys.readouterr().out
    assert run(["export", str(ledger), "-o", str(tmp_path / "other"), "-q", "--json"]) == 0
    anew = json.loads(capsys.readouterr().out)["anew"]
    assert anew["facts"] == COUNT
    assert anew["hold"] >= COUNT - 1
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


def test_one_is_forgotten_and_the_others_stay(
    rows: list[dict[str, Any]], ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [
        row["requested_rewrite"]["prompt"].format(row["requested_rewrite"]["subject"])
        for row in rows
    ]
    before, edited = answers(capsys, prompts, None), answers(capsys, prompts, ledger)
    subject = rows[0]["requested_rewrite"]["subject"]
    assert all(a != b for a, b in zip(before, edited, strict=True))
    assert run(["forget", str(ledger), "--subject", subject, "-q"]) == 0
    assert answers(capsys, prompts, ledger) == [before[0], *edited[1:]]
