"""Massive activations of a real model: told apart, and what is left protects something."""

import warnings
from pathlib import Path

import pytest
from benchmarks.real_models import SMOLLM2
from tests.real.models import need

from alphaedit import Editor, Fact

pytestmark = pytest.mark.real
LAYER = 11


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    """SmolLM2 with second moments of a part of the package's text."""
    need(SMOLLM2)
    folder: Path = tmp_path_factory.mktemp("massive")
    return Editor.from_pretrained(SMOLLM2.checkpoint, tokens=8192, cache_dir=folder)


def test_one_direction_does_not_void_the_null_space(editor: Editor) -> None:
    statistics = editor.statistics
    assert statistics.spec == "general"
    massive = statistics.massive(LAYER)
    assert massive.energy > 0.9  # of all keys' energy, in a few tokens
    assert 0 < massive.share < 0.02
    assert massive.directions.shape[1] <= 8
    space = statistics.subspace(LAYER, energy=0.9)
    width = editor.handle.d_in(LAYER)
    # All but one dimension were free before sinks were told apart.
    assert width // 8 < space.dim < 7 * width // 8
    moved = space.project(massive.directions)
    assert float(moved.norm(dim=0).max()) < 1e-3


def test_a_subject_at_the_first_token_is_told(editor: Editor) -> None:
    fact = Fact("{} is the capital of", "Paris", "Spain")
    over = {"steps": 3, "contexts": 1, "energy": 0.9, "ridge_share": 0.1, "learning_rate": 0.4}
    over["clamp"] = 0.75  # given, so that nothing is tried first
    with pytest.warns(UserWarning, match="massive activation"):
        editor.edit(fact, layers=(LAYER,), **over)
    editor.revert()
    inside = Fact("The city of {} is the capital of", "Paris", "Spain")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        editor.edit(inside, layers=(LAYER,), **over)
    assert not [w for w in told if "massive activation" in str(w.message)]
    editor.revert()
