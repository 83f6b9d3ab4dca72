"""Methods and plug-ins of other packages, by entry point: the example in examples/."""

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import SENTENCES, tiny_model

from alphaedit import Editor, Fact
from alphaedit.core.errors import AlphaEditError
from alphaedit.methods import plugin, registry
from alphaedit.stats.statistics import ModelStatistics

EXAMPLE = Path(__file__).parents[2] / "examples" / "one-file-method"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the example package were installed."""
    monkeypatch.syspath_prepend(str(EXAMPLE / "src"))
    points = {
        registry.ENTRY_POINTS: EntryPoint("half-memit", "half_memit:METHOD", "alphaedit.methods"),
        plugin.ENTRY_POINTS: EntryPoint("half", "half_memit:Half", "alphaedit.plugins"),
    }
    for module in (registry, plugin):
        monkeypatch.setattr(module, "entry_points", lambda group: [points[group]])
    yield
    sys.modules.pop("half_memit", None)


def test_the_example_is_declared() -> None:
    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    assert f'entry-points."{registry.ENTRY_POINTS}"' in text
    assert f'entry-points."{plugin.ENTRY_POINTS}"' in text


@pytest.mark.usefixtures("example")
def test_the_example_edits(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    editor = Editor.from_pretrained(
        *tiny_model("gpt2"), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )
    over = {"layers": (1,), "steps": 2, "contexts": 1, "moment_weight": 10.0}
    fact = Fact("The capital of {} is", "France", "Madrid")
    whole = editor.edit(fact, "memit", **over)
    editor.revert()
    half = editor.edit(fact, "half-memit", **over)
    (name,) = whole.patch.weights
    ratio = half.patch.weights[name].matrix().norm() / whole.patch.weights[name].matrix().norm()
    assert float(ratio) == pytest.approx(0.5, rel=1e-5)
    editor.revert()
    # A setting of its own, in its one file.
    quarter = editor.edit(fact, "half-memit", scale=0.5, **over)
    ratio = quarter.patch.weights[name].matrix().norm() / half.patch.weights[name].matrix().norm()
    assert float(ratio) == pytest.approx(0.5, rel=1e-5)
    assert quarter.hyperparameters["scale"] == 0.5
    editor.revert()
    with pytest.raises(AlphaEditError, match=r"half-memit.*'scal'.*scale"):
        editor.edit(fact, "half-memit", scal=0.5, **over)


PAGE = Path(__file__).parents[2] / "docs" / "writing-a-method.md"


def test_the_closed_form_of_the_page_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("statistics were prepared, which the method does not need")

    monkeypatch.setattr(ModelStatistics, "prepare", refused)
    text = PAGE.read_text(encoding="utf-8")
    text = text[text.index("### A closed form from the start") :]
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block
    names: dict[str, Any] = {"__name__": "own_ridge"}
    exec(compile(block[1], str(PAGE), "exec"), names)
    editor = Editor.from_pretrained(*tiny_model("gpt2"))
    # With layers and clamp given there are no trial edits, which have statistics of their own.
    method = names["METHOD"](layers=(1,), clamp=0.75, steps=20, contexts=1)
    fact = Fact("The capital of {} is", "France", "Madrid")
    weak = editor.edit(fact, method, strength=100.0)
    editor.revert()
    edit = editor.edit(fact, method)
    (name,) = edit.patch.weights
    assert edit.patch.weights[name].matrix().norm() > weak.patch.weights[name].matrix().norm()
    assert edit.after[0].p_target > edit.before[0].p_target
    editor.revert()
    with pytest.raises(AlphaEditError, match="edits one layer"):
        editor.edit(fact, method, layers=(1, 2))
