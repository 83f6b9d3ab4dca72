"""The benchmarks run, and the page is made of their results."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from benchmarks import (
    gpu,
    growth,
    machine,
    memories,
    memories_page,
    page,
    picture,
    real_page,
    serving,
)
from benchmarks.floors import search_operations
from benchmarks.memories_data import BUNDLED, READER, SMOLLM, DataSet
from tests.tiny import tiny_model
from torch.utils.flop_counter import FlopCounterMode

from alphaedit.core.fact import Fact
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.model.handle import ModelHandle


def test_gpu_benchmark_runs_dry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run"])
    gpu.main()
    found = json.loads((tmp_path / "gpu-quick.json").read_text(encoding="utf-8"))
    assert found["device"] == "cpu"
    assert set(found["phases"]) == {"targets", "keys", "solve"}
    assert 0 < found["phases"]["targets"] < found["seconds"]
    assert 0 < found["search_share_of_matrix_rate"] < 1


@pytest.mark.filterwarnings("ignore::alphaedit.core.errors.AlphaEditWarning")
def test_serving_benchmark_runs_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["serving", "--quick"])
    serving.main()
    found = json.loads((tmp_path / "serving-quick.json").read_text(encoding="utf-8"))
    assert found["same_texts"]
    assert set(found["seconds"]) == {"plain", "served", "streamed"}
    assert all(share["throughput"] > 0 for share in found["share_of_plain"].values())
    assert found["switch"]["switches"] >= 3


def test_gpu_benchmark_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="No GPU is at hand"):
        gpu.main()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_floor_of_the_search_is_below_what_it_does(kind: str) -> None:
    handle = ModelHandle.load(*tiny_model(kind))
    facts = [
        Fact("The mother tongue of {} is", "Oslo", "English"),
        Fact("{} was born in", "Rome", "a city"),
    ]
    hp = Hyperparameters(layers=(1,), steps=4, stop_loss=0.0)
    floor = search_operations(handle, facts, ("It is. ",), hp)
    with FlopCounterMode(display=False) as counter:
        find_targets(handle, facts, 1, ("It is. ",), hp)
    assert 0.3 * counter.get_total_flops() < floor < counter.get_total_flops()


def test_exponents_are_slopes() -> None:
    rows = [{"n": n, "seconds": 3.0 * n**1.5} for n in (1, 10, 100)]
    assert growth.exponent(rows, "n") == pytest.approx(1.5)
    assert growth.exponent([*rows, {"n": 0, "seconds": 9.0}], "n", least=10) == pytest.approx(1.5)


def test_page_is_made_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/performance.md shows is what benchmarks/results says."""
    text = page.PAGE.read_text(encoding="utf-8")
    copy = tmp_path / "performance.md"
    copy.write_text(re.sub(r"(<!-- (?!end)\w+ -->\n).*?(\n<!-- end)", r"\1-\2", text, flags=re.S))
    monkeypatch.setattr(page, "PICTURES", tmp_path / "pictures")
    page.update(copy)
    assert copy.read_text(encoding="utf-8") == text
    made = {p.name for p in (tmp_path / "pictures").iterdir()}
    assert {f"performance/{name}" for name in made} <= set(re.findall(r"\((\S+\.svg)\)", text))


def test_tables_of_real_models_are_those_of_the_results() -> None:
    for place, name, table in (
        ("README.md", "real", real_page.unknown_table()),
        ("docs/tuning.md", "stretches", real_page.stretches_table()),
        ("docs/performance.md", "real-speed", real_page.speed_table()),
        ("docs/performance.md", "real-turns", real_page.turns_table()),
        *real_page.runs(),
    ):
        text = (real_page.ROOT / place).read_text(encoding="utf-8")
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in text, place


def test_the_choice_on_real_models_is_near_the_best_stretch() -> None:
    for model in real_page.TITLES:
        chosen = real_page.result("unknown")[model]
        tried = real_page.result("stretches")[model]
        assert chosen["draws"][0]["edited"]["score"] >= max(row["score"] for row in tried) - 2
        before, after = chosen["mean"]["unedited"], chosen["mean"]["edited"]
        assert after["efficacy"] >= 98
        assert after["generalization"] >= 85
        assert after["specificity"] >= before["specificity"] - 5


def test_the_choice_on_the_bundled_models_is_near_the_best_stretch() -> None:
    found = real_page.result("unknown_bundled")
    for model in ("bundled", "bundled-small"):
        scores = {tuple(row["layers"]): row["score"] for row in found[model]["stretches"]}
        assert scores[tuple(found[model]["chosen"])] >= max(scores.values()) - 2


def test_the_first_picture_is_of_the_results() -> None:
    found = real_page.result("deploy")
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.picture(found)
    drawn = picture.picture(found)
    assert found["gguf-lora"]["bytes"] < 50_000
    assert drawn.count(">English<") == 3
    assert drawn.count(">French<") == 5


def test_memories_are_measured_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    memories.main(["--quick", "--method", "unedited", "memprompt"])
    found = json.loads((tmp_path / "memories-quick.json").read_text(encoding="utf-8"))
    rows = found["bundled"]["world"]["rows"]
    assert rows["unedited"]["figures"]["rewrite"][0] == 0
    assert rows["unedited"]["figures"]["neighbors_kept"][0] == 100
    made = rows["memprompt"]
    assert made["figures"]["fired_edits"][0] == 100
    assert made["figures"]["fired_paraphrases"][0] < 100
    assert 0 < made["bytes_per_edit"] < made["saved_bytes_per_edit"]
    assert made["latency"]["request_time"][0] > 0
    assert found["bundled"]["world"]["about"]["facts"] == memories.QUICK


def test_rows_of_other_facts_are_measured_anew(tmp_path: Path) -> None:
    data = DataSet({"first": 4}, [], list, BUNDLED, requests=0)
    stored = {"about": {"first": 4}, "rows": {"grace": {"batch": 1}}}
    table = memories.Table("bundled", data, stored, tmp_path, quick=False)
    assert table.wanted(None) == [name for name in ("unedited", *BUNDLED) if name != "grace"]
    assert table.wanted(["melo", "grace"]) == ["melo", "grace"]
    assert table.to_json() == stored
    stored["about"] = {"first": 5}
    other = memories.Table("bundled", data, stored, tmp_path, quick=False)
    assert other.wanted(None) == ["unedited", *BUNDLED]


def test_methods_with_an_aim_are_in_the_table() -> None:
    assert set(SMOLLM) < set(BUNDLED)
    known = {**BUNDLED, **READER}
    assert set(memories_page.AIMS) <= {*known, *map(memories.ORACLE.format, known)}


def test_tables_of_memories_are_those_of_the_results() -> None:
    text = memories_page.PAGE.read_text(encoding="utf-8")
    for name, table in memories_page.tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in text, name


def test_an_aim_is_reached_where_each_part_is() -> None:
    row = {"figures": {"rewrite": [98.0], "paraphrase": [70.0], "neighbors_kept": [95.0]}}
    assert memories_page.aimed("grace", row) == "98 / 70 / 95: reached"
    row["figures"]["neighbors_kept"] = [94.9]
    assert memories_page.aimed("grace", row) == "98 / 70 / 95: missed"
    assert memories_page.aimed("ike, oracle", row) == "90 / 85: missed"
