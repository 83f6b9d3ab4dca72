"""A checkpoint is stored as its base is: dtype, shards, index, config, tokenizer, old bits."""

import json
import os
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.deaths import acting, full, killed, snapshot
from tests.tiny import SENTENCES, save_tiny, tiny_model
from transformers import AutoModelForCausalLM

from alphaedit import Editor, Fact
from alphaedit.core.disk import remove
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.core.marks import MANIFEST
from alphaedit.editor.checkpoint import base_files, save_checkpoint
from alphaedit.editor.export import save_delta, save_lora
from alphaedit.model.handle import ModelHandle

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

    assert {p.name for p in out.iterdir()} == {MANIFEST, *(p.name for p in base.iterdir())}
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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: SIGKILL does not lose what is not on it yet."""

    def fsync(handle: int) -> None:
        return None

    monkeypatch.setattr(os, "fsync", fsync)


MINE = {"notes.md": b"mine", "src/train.py": b"print()", "config.json.bak": b"{}"}


@pytest.fixture
def handles(tmp_path: Path) -> tuple[ModelHandle, ModelHandle]:
    """Two models of one base, which is in two shards; the second is edited."""
    model, tokenizer = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "base", max_shard_size="40KB")
    tokenizer.save_pretrained(tmp_path / "base")
    one, two = (ModelHandle.load(str(tmp_path / "base")) for _ in range(2))
    with torch.no_grad():
        two.edited_module(1).weight += 1
    return one, two


def mine(folder: Path) -> Path:
    for name, data in MINE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def theirs(folder: Path) -> dict[str, bytes]:
    return {k: v for k, v in snapshot(folder).items() if k not in MINE and k[0] != "."}


def test_files_of_others_stay(
    handles: tuple[ModelHandle, ModelHandle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # finding 1
    work = mine(tmp_path / "work")
    for handle in handles:
        save_checkpoint(handle, work)
        assert {name: snapshot(work)[name] for name in MINE} == MINE
    again = AutoModelForCausalLM.from_pretrained(work)
    assert torch.equal(again.transformer.h[1].mlp.c_proj.weight, handles[1].edited_module(1).weight)
    (tmp_path / "notes.md").write_text("kept")
    with pytest.raises(ResourceError, match="it is a file"):
        save_checkpoint(handles[0], tmp_path / "notes.md")
    assert (tmp_path / "notes.md").read_text() == "kept"
    monkeypatch.chdir(mine(tmp_path / "here"))
    save_checkpoint(handles[0], Path("."))
    assert {name: snapshot(tmp_path / "here")[name] for name in MINE} == MINE
    assert (tmp_path / "here" / "config.json").is_file()
    held = {p.name for p in tmp_path.iterdir()}
    assert held == {"base", "work", "notes.md", "here"}


def test_the_models_own_folder(
    handles: tuple[ModelHandle, ModelHandle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # finding 2
    base = tmp_path / "base"
    (tmp_path / "link").symlink_to(base)
    before = snapshot(base)
    monkeypatch.chdir(base)
    for folder in (base, base / "edited", tmp_path / "link", Path(".")):
        with pytest.raises(ConfigError, match="the unedited model was loaded from"):
            save_checkpoint(handles[1], folder)
    editor = Editor.from_pretrained(str(base), tokens=300, cache_dir=tmp_path / "cache")
    for begin in (editor.save, editor.track):
        with pytest.raises(ConfigError, match="the unedited model was loaded from"):
            begin(base / "edits")
    assert snapshot(base) == before


def test_weights_that_would_be_loaded_instead(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("gpt2")
    single, sharded = tmp_path / "single", tmp_path / "sharded"
    for place, size in ((single, "1GB"), (sharded, "40KB")):
        model.save_pretrained(place, max_shard_size=size)
        tokenizer.save_pretrained(place)
    one, two = ModelHandle.load(str(single)), ModelHandle.load(str(sharded))
    foreign = mine(tmp_path / "foreign")
    model.save_pretrained(foreign)
    before = snapshot(foreign)
    with pytest.raises(ResourceError, match=r"holds model\.safetensors, which would be loaded"):
        save_checkpoint(two, foreign)
    assert snapshot(foreign) == before
    ours = mine(tmp_path / "ours")
    for handle in (one, two, one):
        save_checkpoint(handle, ours)
        assert theirs(ours).keys() == {
            MANIFEST,
            *(p.name for p in (single if handle is one else sharded).iterdir()),
        }
    (ours / "model.safetensors").write_bytes(b"changed since")
    with pytest.raises(ResourceError, match=r"holds model\.safetensors"):
        save_checkpoint(two, ours)
    adapter = mine(tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(ResourceError, match=r"holds adapter_config\.json"):
        save_checkpoint(one, adapter)


def test_one_folder_one_kind(text: str, tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path / "base")
    editor = Editor.from_pretrained(
        str(tmp_path / "base"), corpus=text, tokens=400, cache_dir=tmp_path / "cache"
    )
    editor.edit(FACT, **OVER)
    handle, edits = editor.handle, editor.edits
    save_checkpoint(handle, mine(tmp_path / "checkpoint"))
    save_lora(handle, edits, mine(tmp_path / "adapter"))
    save_delta(edits, mine(tmp_path / "delta"))
    before = snapshot(tmp_path)
    for kind in ("checkpoint", "adapter", "delta"):
        folder = tmp_path / kind
        assert json.loads((folder / MANIFEST).read_text())["kind"] == kind
        others = {
            "checkpoint": lambda place: save_checkpoint(handle, place),
            "adapter": lambda place: save_lora(handle, edits, place),
            "delta": lambda place: save_delta(edits, place),
        }
        del others[kind]
        for write in others.values():
            with pytest.raises(ConfigError, match=f"holds a {kind}, and"):
                write(folder)
        assert {p.stat().st_mode & 0o777 for p in folder.glob("*.*")} == {0o644}  # finding 21
    assert snapshot(tmp_path) == before
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "config.json").write_text("{}")
    with pytest.raises(ResourceError, match=r"holds config\.json"):
        save_lora(handle, edits, tmp_path / "plain")
    with pytest.raises(ConfigError, match="loaded from"):
        save_lora(handle, edits, tmp_path / "base")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_killed_at_every_change(handles: tuple[ModelHandle, ModelHandle], tmp_path: Path) -> None:
    one, two = handles
    work = mine(tmp_path / "work")
    save_checkpoint(one, work)
    old = theirs(work)
    save_checkpoint(two, work)
    new = theirs(work)
    assert old.keys() == new.keys()
    refused = 0
    for point in range(1, 400):
        remove(work)
        save_checkpoint(one, mine(work))
        died = killed(lambda: save_checkpoint(two, work), point)
        assert {name: snapshot(work)[name] for name in MINE} == MINE
        if (work / "config.json").exists():
            assert theirs(work) in (old, new)
        else:
            refused += 1
            with pytest.raises((OSError, ValueError), match=r"config\.json"):
                AutoModelForCausalLM.from_pretrained(work)
        if not died:
            break
        save_checkpoint(two, work)
        assert theirs(work) == new
        assert {name: snapshot(work)[name] for name in MINE} == MINE
        assert not [p for p in tmp_path.rglob(".*")]
    assert refused > 10
    assert theirs(work) == new


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_full_disk_at_every_write(
    handles: tuple[ModelHandle, ModelHandle], tmp_path: Path
) -> None:
    one, two = handles
    work = mine(tmp_path / "work")
    failures = 0
    for point in range(1, 400):
        save_checkpoint(one, work)
        before = snapshot(tmp_path)
        with acting(point, full) as count:
            try:
                save_checkpoint(two, work)
            except ResourceError as error:
                failures += "No space left" in str(error)
                assert snapshot(tmp_path) == before
        assert not [p for p in tmp_path.rglob(".*")]
        if count.left > 0:
            break
    assert failures > 20
