"""Which preset goes with how many facts."""

from unittest import mock

import pytest
from tests.tiny import tiny_model

from alphaedit.core.fact import Fact
from alphaedit.editor import batches
from alphaedit.editor.session import Editor
from alphaedit.locate.preset import in_a_row
from alphaedit.methods import presets
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.statistics import ModelStatistics


@pytest.mark.parametrize("given", [None, "measured"])
def test_facts_in_batches_choose_a_preset_by_their_whole_number(given: str | None) -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    editor = Editor(handle, ModelStatistics(handle), progress=False)
    facts = [Fact("{} lives in", f"Person {i}", "Rome") for i in range(6)]
    with (
        mock.patch.object(batches, "matching", return_value="many") as matching,
        mock.patch.object(editor, "edit") as edit,
    ):
        list(editor.edit_in_batches(batches.split(facts, 2), "memit", preset=given))
    assert [call.kwargs["preset"] for call in edit.call_args_list] == [given or "many"] * 3
    if given is None:
        matching.assert_called_once_with(editor.handle, method="memit", edits=6)


MANY = {
    "many": {
        "source": "tuned for this test",
        "planned": 8,
        "from_edits": 4,
        "match": {"model_type": "llama"},
        "all": {"layers": [2], "steps": 2, "clamp": 1.0, "learning_rate": 0.3},
        "methods": {"memit": {"moment_weight": 7}},
    }
}


def test_facts_in_force_count_and_what_was_measured_stays() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    facts = [Fact("{} lives in", f"Person {i}", "Rome") for i in range(7)]

    def layers(*sizes: int) -> list[list[int]]:
        editor = Editor(handle, ModelStatistics(handle, tokens=2000), progress=False)
        at = [sum(sizes[:i]) for i in range(len(sizes))]
        with mock.patch.object(presets, "presets", return_value=MANY):
            found = [
                list(
                    editor.edit(facts[i : i + size], "memit", contexts=0).hyperparameters["layers"]
                )
                for i, size in zip(at, sizes, strict=True)
            ]
        editor.set_edits([])
        return found

    # Four at once, and what comes after them, by the preset.
    assert layers(4, 1) == [[2], [2]]
    first, then = layers(2, 4)
    assert first != [2]
    assert then == first


def test_facts_by_other_methods_do_not_count() -> None:
    edits = [mock.Mock(method="memit", facts=[1, 2], measured={})]
    assert in_a_row(edits, "memit", 3) == 5
    assert in_a_row(edits, "alphaedit", 3) == 3
    assert (
        in_a_row([*edits, mock.Mock(method="memit", facts=[1], measured={"a": 1})], "memit", 3) == 0
    )
