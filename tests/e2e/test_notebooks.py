"""The notebooks run from top to bottom, and show what they are stored with."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from alphaedit.core.errors import AlphaEditWarning

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUNNER = runpy.run_path(str(FOLDER / "run.py"))


def stored(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def texts(notebook: dict[str, Any]) -> list[str]:
    """What each code cell prints."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [
        "".join(line for out in cell["outputs"] for line in out.get("text", [])) for cell in cells
    ]


def test_first_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    with pytest.warns(AlphaEditWarning, match="edited anew by alphaedit-weighted"):
        notebook, names = RUNNER["run"](FOLDER / "first_edit.ipynb")
    assert names["edit"].fails == ()
    assert names["same"]
    assert len(names["changed"]) == 3
    assert names["edit"].patch.weights == {}
    asked = dict(zip(names["prompts"], names["edited"], strict=True))
    assert [asked[p] for p in names["questions"]["in other words"]] == [" English."] * 2
    assert names["edited"][2:5] == names["before"][2:5]
    printed = texts(notebook)
    assert " rank 1\n" in printed[-1]
    # The first prints times.
    assert printed[3:] == texts(stored(FOLDER / "first_edit.ipynb"))[3:]


def test_compare_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    notebook, names = RUNNER["run"](FOLDER / "compare_methods.ipynb")
    rates = names["rates"]
    assert rates["alphaedit"]["efficacy"].value == 100
    assert rates["alphaedit"]["specificity"].value > rates["ft"]["specificity"].value + 10
    assert texts(notebook) == texts(stored(FOLDER / "compare_methods.ipynb"))
    drawn = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"][-1]
    assert drawn["outputs"][0]["data"]["image/png"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs(path: Path) -> None:
    cells = [cell for cell in stored(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    assert "/tmp" not in path.read_text(encoding="utf-8")
    assert path.stat().st_size < 100_000


def test_an_error_is_not_swallowed(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    cell = {"cell_type": "code", "source": ["1 + 1\n", "missing"]}
    path.write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(NameError, match="missing"):
        RUNNER["run"](path)
    cell["source"] = ["print(3)\n", "4"]
    path.write_text(json.dumps({"cells": [cell]}))
    (ran,) = RUNNER["run"](path)[0]["cells"]
    assert [out.get("text") or out["data"]["text/plain"] for out in ran["outputs"]] == [
        ["3\n"],
        ["4"],
    ]
