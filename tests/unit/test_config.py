"""Hyperparameters: what replaces what."""

from pathlib import Path

import pytest

from alphaedit.core.errors import ConfigError
from alphaedit.methods.config import overridden
from alphaedit.methods.presets import matching, preset, presets, read_preset


def test_one_of_a_pair_takes_the_place_of_the_other() -> None:
    values = {"layers": (1,), "energy": 0.9, "ridge_share": 0.1}
    assert overridden(values, {"threshold": 0.02}) == {
        "layers": (1,),
        "ridge_share": 0.1,
        "threshold": 0.02,
    }
    assert "ridge_share" not in overridden(values, {"ridge": 5.0})
    assert overridden(values, {"energy": 0.8})["energy"] == 0.8
    assert overridden(values, {"threshold": None}) == {**values, "threshold": None}


def test_presets_for_many_edits_and_transferred_ones_are_used_by_name_alone() -> None:
    by_name = [n for n, e in presets().items() if "planned" in e or "transferred" in e]
    assert by_name
    for name in by_name:
        assert matching(presets()[name]["match"]) is None
        assert preset(name, "alphaedit")["layers"]
    assert matching(presets()["gpt2-xl"]["match"]) == "gpt2-xl"


def test_fields_of_a_preset_have_their_kinds(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    for line, kind in (
        ("transferred: [1]", "text"),
        ("planned: many", "number"),
        ("all: 3", "map"),
    ):
        file.write_text(f"{line}\nmethods: {{alphaedit: {{layers: [1]}}}}\n")
        with pytest.raises(ConfigError, match=f"not a {kind}"):
            read_preset(file)


def test_every_preset_says_where_it_comes_from() -> None:
    for name, entry in presets().items():
        assert entry["source"].split()[0] in {"published", "tuned", "transferred"}
        assert preset(name, "alphaedit")["layers"]
