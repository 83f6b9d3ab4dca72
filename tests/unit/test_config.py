"""Hyperparameters: what replaces what."""

from alphaedit.methods.config import overridden
from alphaedit.methods.presets import preset, presets


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


def test_every_preset_says_where_it_comes_from() -> None:
    for name, entry in presets().items():
        assert entry["source"].split()[0] in {"published", "tuned", "transferred"}
        assert preset(name, "alphaedit")["layers"]
