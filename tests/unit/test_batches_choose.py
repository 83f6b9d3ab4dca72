"""Which preset goes with how many facts."""

from unittest import mock

import pytest
from tests.tiny import tiny_model

from alphaedit.core.fact import Fact
from alphaedit.editor import batches
from alphaedit.editor.session import Editor
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
