"""Texts put before prompts: the unedited model writes them once, for all later processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit import Editor, Fact
from alphaedit.methods import locate_then_edit
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics

SETTINGS: dict[str, Any] = {
    "layers": (1,),
    "steps": 2,
    "learning_rate": 1.0,
    "clamp": 20.0,
    "contexts": 2,
    "energy": 0.5,
    "ridge": 0.01,
}
F = Fact("The capital of {} is", "France", "Berlin")
G = Fact("The capital of {} is", "Spain", "Oslo")


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts the model was asked to write, each time."""
    asked: list[int] = []

    def counting(handle: ModelHandle, count: int, tokens: int, seed: int) -> tuple[str, ...]:
        asked.append(count)
        return generate_contexts(handle, count, tokens, seed)

    monkeypatch.setattr(locate_then_edit, "generate_contexts", counting)
    return asked


def opened(place: Path, seed: int = 0) -> Editor:
    """An editor as a process of its own would open it."""
    text = place / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 10), encoding="utf-8")
    handle = ModelHandle.load(*tiny_model("gpt2"))
    statistics = ModelStatistics(handle, str(text), tokens=400, cache_dir=place / "cache")
    return Editor(handle, statistics, seed=seed, progress=False)


def test_a_later_process_reads_them_and_makes_the_same_edit(
    tmp_path: Path, generated: list[int]
) -> None:
    first, later = opened(tmp_path), opened(tmp_path)
    one = first.edit(F, **SETTINGS)
    other = later.edit(F, **SETTINGS)
    assert generated == [2]
    assert first.state.contexts == later.state.contexts
    for name, delta in one.patch.weights.items():
        assert torch.equal(delta.left, other.patch.weights[name].left)
    # A seed or a number of their own makes others.
    opened(tmp_path, seed=1).edit(F, **SETTINGS)
    opened(tmp_path).edit(F, **{**SETTINGS, "contexts": 3})
    assert generated == [2, 2, 3]


def test_those_of_an_edited_model_are_not_kept(tmp_path: Path, generated: list[int]) -> None:
    editor = opened(tmp_path)
    editor.edit(F, **{**SETTINGS, "contexts": 0})
    editor.edit(G, **SETTINGS)
    later = opened(tmp_path)
    later.edit(G, **SETTINGS)
    assert generated == [2, 2]


def test_a_damaged_file_is_written_anew(tmp_path: Path, generated: list[int]) -> None:
    opened(tmp_path).edit(F, **SETTINGS)
    (file,) = (tmp_path / "cache").glob("contexts-*.json")
    file.write_text(file.read_text().replace('"texts": [', '"texts": [3, '))
    opened(tmp_path).edit(F, **SETTINGS)
    opened(tmp_path).edit(F, **SETTINGS)
    assert generated == [2, 2]
