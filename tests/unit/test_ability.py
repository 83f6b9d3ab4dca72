"""General ability: F1 by hand, published records, the bundled models' tasks, the harness."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sklearn.metrics import f1_score
from tests.tiny import tiny_model

from alphaedit.bench import ability
from alphaedit.bench.ability import NO_LABEL, Question, Task, judge, published_tasks, run_task
from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError, DataError, UnknownNameError
from alphaedit.model.handle import ModelHandle

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "glue_eval"
ROWS: dict[str, dict[str, Any]] = {
    "sst2": {"sentence": "a fine film ", "label": 1},
    "mrpc": {"sentence1": "A b.", "sentence2": "B a.", "label": 0},
    "cola": {"sentence": "He go.", "label": 0},
    "rte": {"sentence1": "A b.", "sentence2": "B.", "label": 0},
    "nli": {"sentence1": "A b.", "sentence2": "B.", "label": "not_entailment"},
    "mmlu": {"question": "1 + 1?", "choices": ["1", "2", "3", "4"], "answer": 1},
}
RIGHT = {"sst2": "positive", "mrpc": "no", "cola": "no", "rte": "yes", "nli": "no", "mmlu": "B"}


def write(folder: Path, name: str, count: int = 12, **change: Any) -> Path:
    rows = [{**ROWS[name], "number": i} for i in range(count)]
    rows[-1] |= change
    (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def test_f1_by_hand() -> None:
    right, read = ["yes", "yes", "yes", "no"], ["yes", "no", NO_LABEL, "no"]
    found = judge(("yes", "no"), right, read)
    # yes: precision 1, recall 1/3, F1 1/2; no: precision 1/2, recall 1, F1 2/3; weights 3 and 1.
    assert found.f1.value == pytest.approx(100 * (3 * 0.5 + 2 / 3) / 4)
    assert found.accuracy == 50
    assert found.unread == 1
    assert found.f1.value == pytest.approx(
        100 * f1_score(right, read, labels=["yes", "no"], average="weighted", zero_division=0)
    )
    assert found.f1.low <= found.f1.value <= found.f1.high


@pytest.mark.parametrize("name", ROWS)
def test_published_records_in_words(name: str, tmp_path: Path) -> None:
    (task,) = published_tasks(write(tmp_path, name), [name], count=5, shots=2)
    assert len(task.questions) == 5
    assert {q.label for q in task.questions} == {RIGHT[name]}
    prompt = task.questions[0].prompt
    assert prompt.count("Answer:") == 3
    assert prompt.endswith("Answer:")
    assert prompt.count(f"Answer: {RIGHT[name]}") == 2
    again = published_tasks(tmp_path, [name], count=5, shots=2)[0]
    assert again == task


@pytest.mark.parametrize("name", ROWS)
def test_real_files(name: str) -> None:
    if not DATA.is_dir():
        pytest.skip("the real task files are not beside the project (../shared/data/glue_eval)")
    (task,) = published_tasks(DATA, [name], count=100)
    assert len(task.questions) == 100
    assert {q.label for q in task.questions} == set(task.labels)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sst2", {"label": 7}, "record 11"),
        ("mrpc", {"sentence2": None, "label": None}, "record 11"),
        ("mmlu", {"choices": ["a"]}, "record 11"),
        ("cola", {"sentence": None, "label": []}, "record 11"),
    ],
)
def test_broken_records_are_named(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        published_tasks(write(tmp_path, name, **change), [name], count=12, shots=0)


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*sst2\.json"):
        published_tasks(tmp_path, ["sst2"])
    with pytest.raises(DataError, match="more than 4 records"):
        published_tasks(write(tmp_path, "sst2", count=3), ["sst2"])
    (tmp_path / "rte.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        published_tasks(tmp_path, ["rte"])
    with pytest.raises(UnknownNameError, match="rtee"):
        published_tasks(tmp_path, ["rtee"])


def test_answers_are_read_as_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    said = [" Yes, it is", " no.", " nobody knows", ' "yes"']
    monkeypatch.setattr(ability, "generate", lambda *args, **options: said)
    task = Task("t", ("yes", "no"), tuple(Question("?", a) for a in ("yes", "no", "no", "no")))
    found = run_task(handle, task)
    assert found.unread == 1
    assert found.accuracy == 50


def test_the_bundled_models_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ability", "bundled-small", "--count", "20", "--json", "-q"]
    assert run([*command, "--tasks", "category,questions"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]
    assert set(found) == {"category", "questions"}
    assert found["questions"]["f1"]["value"] > 90
    assert run([*command, "--tasks", "kategory"]) == 1
    assert "kategory" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run([*command, "--tasks", "truth", "--harness", "x"]) == 1
    assert "tasks of its own" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_other_models_need_data() -> None:
    with pytest.raises(ConfigError, match="not a bundled one"):
        ability.world_tasks(ModelHandle.load(*tiny_model("gpt2")))


def test_the_harness(monkeypatch: pytest.MonkeyPatch) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    asked: dict[str, Any] = {}

    def simple_evaluate(**options: Any) -> dict[str, Any]:
        asked.update(options)
        if "nothing" in options["tasks"]:
            raise KeyError("nothing")
        scores = {"acc,none": 0.25, "acc_stderr,none": 0.1, "alias": "arc"}
        return {"results": {"arc_easy": scores}}

    package, models, inner = (ModuleType(n) for n in ("lm_eval", "lm_eval.models", "x"))
    package.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    inner.HFLM = lambda **options: SimpleNamespace(**options)  # type: ignore[attr-defined]
    for name, module in (
        ("lm_eval", package),
        ("lm_eval.models", models),
        ("lm_eval.models.huggingface", inner),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    assert ability.harness_scores(handle, ["arc_easy"], limit=3) == {"arc_easy": {"acc": 0.25}}
    assert asked["model"].pretrained is handle.model
    assert asked["limit"] == 3
    with pytest.raises(ConfigError, match="cannot run nothing"):
        ability.harness_scores(handle, ["nothing"])
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError) as caught:
        ability.harness_scores(handle, ["arc_easy"])
    assert "alphaedit[eval]" in str(caught.value.remedy)
