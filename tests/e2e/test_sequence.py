"""Edits in sequence on the bundled model: exact undo, save and load, 10 + 10 = 20."""

from pathlib import Path

import pytest
import torch

from alphaedit import Editor, Fact
from alphaedit.core.errors import EditFileError, FingerprintError
from alphaedit.world.facts import World
from alphaedit.world.records import records

METHODS = ["alphaedit", "memit", "memit-history", "rome"]


def some_facts(count: int, seed: int = 0) -> list[Fact]:
    rows = [r["requested_rewrite"] for r in records(World.load(), count, seed=seed)]
    return [
        Fact(r["prompt"], r["subject"], r["target_new"]["str"], r["target_true"]["str"])
        for r in rows
    ]


def weights(editor: Editor) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in editor.handle.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("method", METHODS)
def test_edit_holds_and_revert_is_exact(method: str) -> None:
    editor = Editor.from_pretrained("bundled")
    clean = weights(editor)
    facts = some_facts(4)
    edit = editor.edit(facts, method)
    told = sum(a.p_target > (a.p_truth or 0) for a in edit.after)
    assert told >= 3
    assert sum(a.p_target > (a.p_truth or 0) for a in edit.before) == 0
    changed = {n for n, w in weights(editor).items() if not torch.equal(w, clean[n])}
    assert changed == set(edit.patch.weights)
    editor.revert()
    assert same(weights(editor), clean)


@pytest.mark.parametrize("method", ["alphaedit", "memit-history"])
def test_save_load_and_go_on_equals_one_run(method: str, tmp_path: Path) -> None:
    facts = some_facts(20)
    whole = Editor.from_pretrained("bundled")
    whole.edit(facts[:10], method)
    whole.edit(facts[10:], method)

    first = Editor.from_pretrained("bundled")
    first.edit(facts[:10], method)
    first.save(tmp_path / "session")
    second = Editor.from_pretrained("bundled")
    second.load(tmp_path / "session")
    second.edit(facts[10:], method)

    assert same(weights(whole), weights(second))
    assert [e.id for e in whole.edits] == [e.id for e in second.edits]


def test_session_of_another_model_is_refused(tmp_path: Path) -> None:
    editor = Editor.from_pretrained("bundled-small")
    editor.edit(some_facts(1)[:1], "memit")
    editor.save(tmp_path / "s")
    other = Editor.from_pretrained("bundled")
    clean = weights(other)
    with pytest.raises(FingerprintError, match="fingerprint"):
        other.load(tmp_path / "s")
    assert same(weights(other), clean)


def test_checkpoint_loads_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    editor = Editor.from_pretrained("bundled")
    fact = some_facts(1)[0]
    editor.edit(fact)
    editor.save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer(fact.text, return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=3, do_sample=False)
    assert tokenizer.decode(out[0, ids.shape[1] :]).strip().startswith(fact.target)


def test_nothing_to_revert() -> None:
    with pytest.raises(EditFileError, match="no edit"):
        Editor.from_pretrained("bundled-small").revert()
