"""Hyperparameters: what replaces what."""

from pathlib import Path

import pytest
from tests.tiny import tiny_model

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import silent
from alphaedit.locate.preset import MEASURED, choose
from alphaedit.methods.config import overridden
from alphaedit.methods.presets import matching, preset, presets, read_preset
from alphaedit.methods.registry import get_method
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics


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
        assert matching(presets()[name]["match"], method="memit", edits=10) is None
        assert preset(name, "alphaedit")["layers"]
    assert matching(presets()["gpt2-xl"]["match"]) == "gpt2-xl"


def test_a_preset_for_many_edits_is_used_for_so_many_by_the_methods_that_it_names() -> None:
    many = {n: e for n, e in presets().items() if "from_edits" in e}
    assert many
    for name, entry in many.items():
        assert entry["from_edits"] <= entry["planned"]
        for method, edits, wanted in (
            ("alphaedit-weighted", entry["from_edits"], name),
            ("alphaedit-weighted", entry["from_edits"] - 1, None),
            ("ft", entry["from_edits"], None),
        ):
            assert matching(entry["match"], method=method, edits=edits) == wanted


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


def test_what_is_always_so_of_a_method_is_stronger_than_what_a_model_shows() -> None:
    model, tokenizer = tiny_model("llama")
    handle = ModelHandle.load(model, tokenizer)
    known = {"layers": (1,), "turns": 2}

    def turns(method: str, **over: int) -> int:
        hp, _ = choose(
            handle,
            ModelStatistics(handle),
            get_method(method),
            preset_name=MEASURED,
            edits=0,
            over=over,
            known=known,
            seed=0,
            progress=silent,
        )
        return int(hp.model_dump()["turns"])

    assert turns("alphaedit") == 2
    assert turns("alphaedit-published") == 1
    assert turns("alphaedit-published", turns=3) == 3
