"""A checkpoint is stored as its base is: dtype, shards, index, config, tokenizer, old bits."""

import json
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.tiny import SENTENCES, tiny_model
from transformers import AutoModelForCausalLM

from alphaedit import Editor, Fact
from alphaedit.editor.checkpoint import base_files

OVER = {"layers": (1, 2), "steps": 2, "contexts": 1, "energy": 0.9, "ridge": 1.0}
FACT = Fact("The capital of {} is", "France", "Madrid")


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found.update({key: file.get_tensor(key) for key in file.keys()})
    return found


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("bare", [False, True])
def test_stored_as_the_base(kind: str, bare: bool, text: str, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    model, tokenizer = tiny_model(kind)
    model = model.to(torch.bfloat16)
    # GPT-2's own checkpoint has names without "transformer.".
    stored = model.base_model if bare else model
    stored.save_pretrained(base, max_shard_size="40KB")
    if bare:
        config = json.loads((base / "config.json").read_text())
        config["tie_word_embeddings"] = True
        (base / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(base)
    (base / "NOTES.md").write_text("kept")
    assert len(list(base.glob("*.safetensors"))) > 1

    editor = Editor.from_pretrained(
        str(base), corpus=text, tokens=400, cache_dir=tmp_path / "cache", dtype="float32"
    )
    assert base_files(editor.handle) == base
    editor.edit(FACT, **OVER)
    editor.save_pretrained(out)

    assert {p.name for p in out.iterdir()} == {p.name for p in base.iterdir()}
    for name in ("config.json", "model.safetensors.index.json", "NOTES.md", "tokenizer.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    before, after = tensors(base), tensors(out)
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 2
    assert all(t.dtype == torch.bfloat16 for t in after.values())
    untouched = [
        path.name for path in base.glob("*.safetensors") if not set(changed) & set(names_in(path))
    ]
    assert untouched
    for name in untouched:
        assert digest(out / name) == digest(base / name)

    again = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    wanted = editor.handle.model.state_dict()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=2**-8, atol=1e-30)


def names_in(path: Path) -> list[str]:
    with safe_open(path, "pt") as file:
        return list(file.keys())


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_a_model_without_files(text: str, tmp_path: Path) -> None:
    editor = Editor.from_pretrained(
        *tiny_model("gpt2"), corpus=text, tokens=400, cache_dir=tmp_path / "cache"
    )
    assert base_files(editor.handle) is None
    editor.edit(FACT, **OVER)
    editor.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = editor.handle.model.state_dict()
    assert all(torch.equal(v, wanted[k]) for k, v in again.state_dict().items())


def test_what_else_was_changed_in_memory_is_kept(text: str, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        loaded.transformer.wte.weight += 1
    editor = Editor.from_pretrained(
        loaded, tokenizer, corpus=text, tokens=400, cache_dir=tmp_path / "cache"
    )
    editor.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(again.transformer.wte.weight, loaded.transformer.wte.weight)
