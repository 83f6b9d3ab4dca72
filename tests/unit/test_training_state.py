"""A training that was stopped goes on with the state that it had."""

from dataclasses import replace
from pathlib import Path

import torch

from alphaedit.world.recipe import RECIPES
from alphaedit.world.train import _keep, _resume, build_model, optimizers


def test_kept_and_resumed(tmp_path: Path) -> None:
    recipe = replace(RECIPES["bundled-small"], layers=2)
    model = build_model(recipe, 100, 0)
    opts = optimizers(model, recipe)
    ids = torch.randint(0, 100, (2, 8), generator=torch.Generator().manual_seed(0))

    def step(model, opts) -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        for opt in opts:
            opt.step()
            opt.zero_grad()

    step(model, opts)
    _keep(tmp_path / "c.safetensors", model, opts, 7)
    step(model, opts)

    again = build_model(recipe, 100, 0)
    fresh = optimizers(again, recipe)
    assert _resume(tmp_path / "c.safetensors", again, fresh) == 7
    step(again, fresh)
    wanted = model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in again.state_dict().items())
