"""Trained models that no preset knows: layers and scale come from what the model shows."""

import json
from pathlib import Path

import pytest

from alphaedit import Editor
from alphaedit.bench.data import EditRecord
from alphaedit.bench.run import sequential
from alphaedit.locate.preset import matching
from alphaedit.world.asset import path
from alphaedit.world.facts import World
from alphaedit.world.recipe import Recipe
from alphaedit.world.records import records
from alphaedit.world.train import train


def edited(model: Path, world: World) -> dict[str, float]:
    """Metrics after 20 edits, without preset or hyperparameters."""
    editor = Editor.from_pretrained(str(model), corpus="self", tokens=20_000)
    assert matching(editor.handle) is None
    rows = [EditRecord.from_dict(r, f"record {i}") for i, r in enumerate(records(world, 20))]
    run = sequential(editor, rows, "alphaedit", batch_size=10, edits=20, generation=False)
    return {name: rate.value for name, rate in run.metrics.items() if rate is not None}


@pytest.mark.slow
def test_twenty_edits_on_a_model_stripped_of_its_name(tmp_path: Path) -> None:
    source, model = path("bundled"), tmp_path / "model"
    model.mkdir()
    for file in source.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text())
    for name in [name for name in config if name.startswith("alphaedit")]:
        del config[name]
    (model / "config.json").write_text(json.dumps(config))
    found = edited(model, World.load())
    assert found["efficacy"] >= 95
    assert found["generalization"] >= 85
    assert found["specificity"] >= 85


@pytest.mark.slow
def test_twenty_edits_on_a_model_trained_without_our_recipe(tmp_path: Path) -> None:
    """GELU, other inner width and vocabulary, no delayed attention, no rescaling to our norms."""
    recipe = Recipe(
        inner=1024,
        activation="gelu_new",
        vocabulary=512,
        subjects=400,
        tokens=3_600_000,
        bottleneck=0.95,
        delayed=0.0,
        delay=0,
        noise=0.0,
        hidden_norm=20.0,
    )
    model = tmp_path / "model"
    train(recipe, model)
    config = json.loads((model / "config.json").read_text())
    config = {k: v for k, v in config.items() if not k.startswith("alphaedit")}
    (model / "config.json").write_text(json.dumps(config))
    assert edited(model, World.load().largest(400))["efficacy"] >= 95
