"""What edits where no method is named, and what becomes of it in forms that hold weights alone."""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tiny import EXPERTS, SENTENCES, tiny_model
from tests.tiny_gguf import save_tiny_gguf
from torch import Tensor
from transformers import AutoModelForCausalLM

from alphaedit import Editor, Fact
from alphaedit.core.defaults import GATED, METHOD, WEIGHTS
from alphaedit.core.errors import (
    AlphaEditWarning,
    ConfigError,
    EditFileError,
    UnknownNameError,
)
from alphaedit.editor import standard
from alphaedit.editor.as_weights import as_weights
from alphaedit.editor.in_weights import takes_neurons
from alphaedit.methods import AlphaEdit
from alphaedit.model.gguf import convert
from alphaedit.model.handle import ModelHandle
from alphaedit.model.unsaved import NAME, tell_when_saved

FACTS = [
    Fact("The capital of {} is", "France", "Oslo"),
    Fact("The capital of {} is", "Spain", "Rome"),
]
SEARCH: dict[str, Any] = {
    "layers": (1, 2),
    "steps": 4,
    "learning_rate": 0.1,
    "clamp": 0.75,
    "contexts": 0,
}
GATE = {**SEARCH, "look": 1, "gate": 0.97}
IDS = torch.tensor([[5, 9, 17, 33, 8, 61]])


def opened(kind: str, folder: Path) -> Editor:
    text = folder / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        *tiny_model(kind), corpus=str(text), tokens=400, cache_dir=folder / "cache"
    )


def logits(model: Any, prompts: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [model(input_ids=ids).logits for ids in prompts]


def prompts(editor: Editor) -> list[Tensor]:
    return [torch.tensor([editor.handle.tokens.encode(fact.text)]) for fact in FACTS] + [IDS]


# Which method it is.


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "bloom"])
def test_a_gate_where_nothing_speaks_against_it(kind: str, tmp_path: Path) -> None:
    editor = opened(kind, tmp_path)
    assert standard.method_for(METHOD, editor.handle).name == GATED
    assert editor.edit(FACTS, **GATE).method == GATED
    # A run goes on as it was begun.
    assert standard.method_for(METHOD, editor.handle, editor.edits).name == GATED


@pytest.mark.parametrize("kind", EXPERTS)
def test_weights_of_experts(kind: str) -> None:
    assert (
        standard.method_for(METHOD, Editor.from_pretrained(*tiny_model(kind)).handle).name
        == WEIGHTS
    )


@pytest.mark.parametrize(
    "over",
    [{"plugins": ("sphere",)}, {"project": True}, {"ridge_share": 0.1}, {"kl_budget": 0.1}],
)
def test_weights_where_settings_are_of_them(over: dict[str, Any], tmp_path: Path) -> None:
    editor = opened("llama", tmp_path)
    assert standard.method_for(METHOD, editor.handle, over=over).name == WEIGHTS
    none = dict.fromkeys(over) | {"plugins": ()}
    assert standard.method_for(METHOD, editor.handle, over=none).name == GATED


def test_weights_after_weights(tmp_path: Path) -> None:
    editor = opened("llama", tmp_path)
    editor.edit(FACTS[:1], WEIGHTS, **SEARCH)
    assert editor.edit(FACTS[1:], **SEARCH).method == WEIGHTS


def test_weights_of_a_gguf_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "tiny.gguf"
    save_tiny_gguf("llama", file)
    assert standard.method_for(METHOD, ModelHandle.load(str(file))).name == WEIGHTS
    # A checkpoint that somebody made of it is one like any other.
    convert(file, tmp_path / "model")
    assert standard.method_for(METHOD, ModelHandle.load(str(tmp_path / "model"))).name == GATED


def test_weights_of_split_models() -> None:
    split: Any = SimpleNamespace(sharded=True)
    assert standard.method_for(METHOD, split).name == WEIGHTS


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    handle = opened("llama", tmp_path).handle
    assert standard.method_for("memit", handle).name == "memit"
    assert standard.method_for(AlphaEdit(ridge=5.0), handle).given == {"ridge": 5.0}


# As weights.


def test_an_adapter_has_the_facts_by_weights_and_the_editor_is_as_before(tmp_path: Path) -> None:
    peft = pytest.importorskip(
        "peft", reason="peft is not installed: pip install 'alphaedit[peft]'"
    )
    editor = opened("llama", tmp_path)
    for fact in FACTS:
        editor.edit(fact, **GATE)
    editor.save(tmp_path / "ledger")
    asked = prompts(editor)
    ids, by_gate = [edit.id for edit in editor.edits], logits(editor.model, asked)
    with pytest.warns(AlphaEditWarning, match="2 facts were edited anew by alphaedit-weighted"):
        editor.export(tmp_path / "adapter")
    assert [edit.id for edit in editor.edits] == ids
    assert all(map(torch.equal, logits(editor.model, asked), by_gate))
    other = opened("llama", tmp_path)
    other.edit(FACTS, WEIGHTS, **SEARCH)
    adapted = peft.PeftModel.from_pretrained(tiny_model("llama")[0], tmp_path / "adapter")
    pairs = zip(logits(adapted, asked), logits(other.model, asked), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_nothing_is_edited_anew_for_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model("llama")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    editor = Editor.from_pretrained(str(tmp_path / "base"), tokens=400, cache_dir=tmp_path / "c")
    editor.edit(FACTS[0], **GATE)

    def never(*given: object, **options: object) -> None:
        raise AssertionError("edited anew")

    monkeypatch.setattr(editor, "edit", never)
    with pytest.raises(UnknownNameError, match="lorra"):
        editor.export(tmp_path / "adapter", "lorra")
    with pytest.raises(ConfigError, match="directory that the unedited model was loaded from"):
        editor.export(tmp_path / "base")


def test_what_changes_weights_stays_beside_it(tmp_path: Path) -> None:
    editor = opened("llama", tmp_path)
    editor.edit(FACTS[0], WEIGHTS, **SEARCH)
    first = editor.edits[0].id
    editor.edit(FACTS[1], GATED, **GATE)
    editor.track(tmp_path / "ledger")
    with as_weights(editor) as anew:
        assert anew is not None
        assert anew.facts == 1
        assert [edit.method for edit in editor.edits] == [WEIGHTS, WEIGHTS]
        assert editor.edits[0].id == first
    assert [edit.method for edit in editor.edits] == [WEIGHTS, GATED]
    assert editor.ledger is not None
    assert len(editor.ledger.history.entries) == 2


def test_of_two_facts_about_one_prompt_the_later(tmp_path: Path) -> None:
    editor = opened("llama", tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in ("Oslo", "Rome"):
            editor.edit(Fact("The capital of {} is", "France", target), **GATE)
    with as_weights(editor):
        assert [fact.target for edit in editor.edits for fact in edit.facts] == ["Rome"]


def test_what_no_weights_can_be_is_refused_as_before(tmp_path: Path) -> None:
    editor = opened("llama", tmp_path)
    editor.edit(FACTS[0], "grace", layers=(2,), steps=2)
    with as_weights(editor) as anew:
        assert anew is None
    with pytest.raises(EditFileError, match="does not only change weights"):
        editor.export(tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["gemma2", "bloom"])
def test_a_checkpoint_without_neurons(kind: str, tmp_path: Path) -> None:
    editor = opened(kind, tmp_path)
    editor.edit(FACTS, **GATE)
    assert not takes_neurons(editor.handle)
    with pytest.warns(AlphaEditWarning, match="edited anew"):
        editor.save_pretrained(tmp_path / "out")
    other = opened(kind, tmp_path)
    other.edit(FACTS, WEIGHTS, **SEARCH)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    asked = prompts(editor)
    pairs = zip(logits(loaded, asked), logits(other.model, asked), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


# A model that is saved without its editor.


def test_a_model_that_is_saved_by_itself_says_what_is_lost(tmp_path: Path) -> None:
    editor = opened("llama", tmp_path)
    editor.edit(FACTS[0], **GATE)
    with pytest.warns(AlphaEditWarning, match="has none of them"):
        editor.model.save_pretrained(tmp_path / "lost")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "lost").eval()
    states, given = loaded.state_dict(), tiny_model("llama")[0].state_dict()
    assert all(torch.equal(states[name], value) for name, value in given.items())
    editor.revert()
    assert NAME not in vars(editor.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AlphaEditWarning)
        editor.model.save_pretrained(tmp_path / "plain")


def test_a_copy_of_it_saves_itself(tmp_path: Path) -> None:
    model, _ = tiny_model("llama")
    undo = tell_when_saved(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).zero_()
    with pytest.warns(AlphaEditWarning):
        other.save_pretrained(tmp_path)
    assert not bool(next(AutoModelForCausalLM.from_pretrained(tmp_path).parameters()).any())
    undo()
    undo()
