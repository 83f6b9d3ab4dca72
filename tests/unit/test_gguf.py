"""GGUF files as models, and edits of them."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tests.tiny import SENTENCES, save_tiny, tiny_model
from tests.tiny_gguf import FAMILIES, save_tiny_gguf

from alphaedit import Editor, Fact
from alphaedit.cli import export_gguf
from alphaedit.cli.app import run
from alphaedit.core.errors import (
    AlphaEditError,
    ConfigError,
    FingerprintError,
    GGUFWarning,
    ModelError,
)
from alphaedit.editor.gguf_export import base_of, read_tensor, save_gguf, save_gguf_lora
from alphaedit.model import gguf, gguf_meaning
from alphaedit.model.handle import ModelHandle
from alphaedit.model.shape import shape_of
from alphaedit.model.source import resolve

FACT = Fact("The capital of {} is", "France", "Oslo")
SMALL: dict[str, Any] = {"layers": (1, 2), "steps": 4, "contexts": 0, "moment_weight": 0.01}
SET = ("layers=1,2", "steps=4", "contexts=0", "moment_weight=0.01")
IDS = torch.tensor([[5, 9, 17, 33, 8, 61]])
WIDE = {"hidden_size": 64, "intermediate_size": 96}
"""Rows of whole blocks of 32, as quantisation needs them."""


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in Q4_1."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q4_1.gguf"
    save_tiny_gguf("llama", path, type="Q4_1", **WIDE)
    return path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def edited(path: Path, folder: Path) -> Editor:
    editor = Editor.from_pretrained(str(path), tokens=300, cache_dir=folder / "moments")
    editor.edit(FACT, "memit", **SMALL)
    return editor


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: Any, tmp_path_factory: Any) -> tuple[str, Path, Any, Any]:
    """A kind, a file of it, and the model and tokenizer that it was made of."""
    path = tmp_path_factory.mktemp(request.param) / "tiny.gguf"
    return request.param, path, *save_tiny_gguf(request.param, path)


def test_a_gguf_file_is_the_model_that_it_was_made_of(
    family: tuple[str, Path, Any, Any], tmp_path: Path
) -> None:
    kind, path, model, tokenizer = family
    handle = ModelHandle.load(path)
    assert torch.allclose(logits(handle.model), logits(model), atol=1e-5)
    if not kind.startswith("gemma"):
        for text in SENTENCES:
            assert handle.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    folder = gguf.converted(path)
    assert ModelHandle.load(folder).fingerprint() == handle.fingerprint()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    handle.model.save_pretrained(tmp_path / "saved")  # transformers refuses what it read itself


def test_an_edit_goes_into_the_file_and_into_an_adapter(
    family: tuple[str, Path, Any, Any], tmp_path: Path
) -> None:
    _, path, model, _ = family
    editor = edited(path, tmp_path)
    wanted = logits(editor.handle.model)
    assert not torch.allclose(wanted, logits(model), atol=1e-3)
    rows = save_gguf(path, editor.edits, tmp_path / "edited.gguf", kind="F32")
    assert [row.name for row in rows] == ["blk.1.ffn_down.weight", "blk.2.ffn_down.weight"]
    assert [row.kept for row in rows] == pytest.approx([1, 1], abs=1e-4)
    assert torch.allclose(
        logits(ModelHandle.load(tmp_path / "edited.gguf").model), wanted, atol=1e-4
    )

    save_gguf_lora(editor.handle, editor.edits, tmp_path / "adapter.gguf", gguf=path)
    reader = GGUFReader(tmp_path / "adapter.gguf")
    said = {key: field.contents() for key, field in reader.fields.items()}
    base = gguf.header_of(path)
    assert said["general.architecture"] == base.architecture
    assert (said["general.type"], said["adapter.type"]) == ("adapter", "lora")
    factors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert len(factors) == 4
    for layer in (1, 2):
        name = f"blk.{layer}.ffn_down.weight"
        down, up = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
        # As llama.cpp computes it: alpha over the rank, the columns of B.
        change = torch.from_numpy(up @ down) * said["adapter.lora.alpha"] / up.shape[1]
        whole = read_tensor(base, base.tensors[name]) + change
        assert torch.allclose(whole, editor.handle.weight(layer), atol=1e-5)


@pytest.fixture(scope="module", params=["Q4_1", "Q8_0", "BF16", "F16"])
def stored_as(request: Any, tmp_path_factory: Any) -> tuple[str, Path, Editor]:
    """A type, a tiny Llama in it, and an editor with an edit of it."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_gguf("llama", folder / "tiny.gguf", type=request.param, **WIDE)
    return request.param, folder / "tiny.gguf", edited(folder / "tiny.gguf", folder)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "same"])
def test_all_but_the_edited_tensors_is_copied_byte_for_byte(
    stored_as: tuple[str, Path, Editor], kind: str, tmp_path: Path
) -> None:
    type, path, editor = stored_as
    out = tmp_path / "edited.gguf"
    rows = {row.name: row for row in save_gguf(path, editor.edits, out, kind=kind)}
    before, after = gguf.header_of(path), gguf.header_of(out)
    assert list(before.tensors) == list(after.tensors)
    assert before.metadata == after.metadata
    old, new = path.read_bytes(), out.read_bytes()
    first = min(tensor.entry for tensor in before.tensors.values())
    assert old[:first] == new[:first]
    assert before.data == after.data
    for name, tensor in before.tensors.items():
        other = after.tensors[name]
        assert other.start % after.alignment == 0
        if name in rows:
            wanted = type if kind == "same" else kind
            assert GGMLQuantizationType(other.type).name == rows[name].type == wanted
            assert rows[name].before == type
            change = read_tensor(after, other) - read_tensor(before, tensor)
            layer = int(name.split(".")[1])
            delta = editor.handle.weight(layer) - read_tensor(before, tensor)
            kept = float((change * delta).sum() / delta.square().sum())
            assert rows[name].kept == pytest.approx(kept, abs=1e-3)
            lost = (read_tensor(after, other) - editor.handle.weight(layer)).norm()
            error = float(lost / editor.handle.weight(layer).norm())
            assert rows[name].error == pytest.approx(error, abs=1e-5)
            assert (error > 1e-5) == (wanted != "F32")
            # What the edit does to its keys outlives even the coarsest grid.
            assert rows[name].kept == pytest.approx(1, abs=0.25 if wanted == "Q4_1" else 0.02)
        else:
            assert (other.type, other.size) == (tensor.type, tensor.size)
            place, its = slice(tensor.start, tensor.start + tensor.size), other.start
            assert old[place] == new[its : its + other.size]
    loaded = {t.name: t for t in GGUFReader(out).tensors}  # llama.cpp's own reader takes it
    assert set(loaded) == set(after.tensors)


def test_a_change_smaller_than_a_step_of_the_grid_is_not_rounded_away() -> None:
    from gguf import dequantize, quantize

    from alphaedit.core.patch import LowRank
    from alphaedit.editor.gguf_export import _rounded

    generator = torch.Generator().manual_seed(0)
    kind = GGMLQuantizationType.Q4_1
    data = quantize(torch.randn(64, 1024, generator=generator).numpy(), kind)
    base = torch.from_numpy(dequantize(data, kind)).double()
    left = torch.randn(64, 2, generator=generator)
    change = LowRank(left * 0.003, torch.randn(2, 1024, generator=generator))
    delta = change.matrix().double()
    assert float(delta.abs().max()) < 0.25 * float((base - base.mean()).abs().max()) / 15
    plain = torch.from_numpy(dequantize(quantize((base + delta).float().numpy(), kind), kind))
    share = (((plain - base) * delta).sum() / delta.square().sum()).item()
    assert share < 0.5
    _, after = _rounded(base + delta, change, kind)
    share = (((after - base) * delta).sum() / delta.square().sum()).item()
    assert share == pytest.approx(1, abs=0.1)
    # Elsewhere it is an error of rounding still.
    assert float((after - base - delta).norm() / base.norm()) < 0.06


def test_nothing_but_the_changed_numbers_changes_where_sizes_stay(tmp_path: Path) -> None:
    path, out = tmp_path / "tiny.gguf", tmp_path / "edited.gguf"
    save_tiny_gguf("llama", path)
    editor = edited(path, tmp_path)
    save_gguf(path, editor.edits, out, kind="same")
    old, new = (np.frombuffer(p.read_bytes(), np.uint8) for p in (path, out))
    assert old.shape == new.shape
    places = np.flatnonzero(old != new)
    stored = [gguf.header_of(path).tensors[f"blk.{i}.ffn_down.weight"] for i in (1, 2)]
    assert len(places)
    assert all(any(t.start <= p < t.start + t.size for t in stored) for p in places)


def test_dequantised_weights_are_those_of_the_file(quantised: Path) -> None:
    handle = ModelHandle.load(quantised)
    header = gguf.header_of(quantised)
    for layer in range(handle.n_layers):
        stored = header.tensors[f"blk.{layer}.ffn_down.weight"]
        assert GGMLQuantizationType(stored.type).name == "Q4_1"
        assert torch.equal(read_tensor(header, stored), handle.weight(layer))


def test_a_file_is_converted_once(
    quantised: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = gguf.converted(quantised, lambda *step: seen.append(step))
    assert folder.is_relative_to(own_cache)
    assert [step[1:] for step in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert str(folder) in seen[0][0]
    monkeypatch.setattr(gguf, "convert", lambda *_, **__: pytest.fail("converted again"))
    assert gguf.converted(quantised) == folder
    assert resolve(str(quantised)) == (str(folder), True)
    copy = shutil.copy(quantised, quantised.with_name("other name.gguf"))
    assert gguf.sha256(Path(copy)) == gguf.sha256(quantised)
    assert gguf.origin(folder) == quantised.resolve() == base_of(str(folder))


def test_the_sizes_of_a_gguf_model_are_told_without_its_weights(
    quantised: Path, own_cache: Path
) -> None:
    shape = shape_of(str(quantised))
    assert (shape.layers, shape.width, shape.inner) == (4, 64, 96)
    assert not list(own_cache.rglob("*.safetensors"))


def test_half_precision_files_stay_half(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    save_tiny_gguf("llama", path, type="F16")
    config = json.loads((gguf.converted(path) / "config.json").read_text())
    assert config["dtype"] == "float16"
    handle = ModelHandle.load(path)
    assert handle.dtype == torch.float32
    stored = gguf.header_of(path).tensors["blk.1.ffn_down.weight"]
    assert torch.equal(handle.weight(1), read_tensor(gguf.header_of(path), stored))


def test_an_interrupted_conversion_leaves_nothing(
    quantised: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_sign", fails)
    with pytest.raises(KeyboardInterrupt):
        gguf.converted(quantised)
    assert [p.name for p in (own_cache / "gguf").iterdir() if not p.name.endswith(".lock")] == []


def broken(path: Path, quantised: Path, change: Any) -> Path:
    data = bytearray(quantised.read_bytes())
    new = change(data)
    data = data if new is None else new
    path.write_bytes(bytes(data))
    return path


def patched(place: int, form: str, value: int) -> Any:
    def change(data: bytearray) -> None:
        struct.pack_into(form, data, place, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1000], "truncated"),
        (lambda data: data[:5000], "truncated"),
        (lambda data: data[:30], "truncated"),
        (lambda data: data[:6], "truncated"),
        (lambda data: b"", "no GGUF file"),
        (lambda data: b"version https://git-lfs", "Git LFS"),
        (patched(4, "<I", 1), "v1"),
        (patched(4, ">I", 3), "big-endian"),
        (patched(8, "<Q", 1 << 60), "truncated"),
        (patched(16, "<Q", 1 << 60), "truncated"),
        (patched(24, "<Q", 1 << 62), "truncated"),
    ],
)
def test_a_file_that_is_not_whole_says_so(
    change: Any, message: str, quantised: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        ModelHandle.load(broken(tmp_path / "bad.gguf", quantised, change))
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": "rwkv7"}, "rwkv7"),
        ({"split.count": 3}, "llama-gguf-split"),
        ({"tokenizer.ggml.model": "unheard-of"}, "tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(
    metadata: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.gguf"
    save_tiny_gguf("llama", path, metadata=metadata)
    with pytest.raises(ModelError, match=message) as caught:
        ModelHandle.load(path)
    assert str(path) in caught.value.message
    assert caught.value.remedy


def test_a_missing_tensor_is_named(tmp_path: Path, quantised: Path) -> None:
    name = b"blk.2.ffn_up.weight"
    path = broken(
        tmp_path / "lacks.gguf", quantised, lambda d: d.replace(name, b"blk.2.ffn_xx.weight")
    )
    with pytest.raises(ModelError, match="up_proj"):
        ModelHandle.load(path)


def test_packages_that_lack_are_named(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None if name == "gguf" else object())
    with pytest.raises(ConfigError, match=r"alphaedit\[gguf\]"):
        ModelHandle.load(quantised)


@pytest.mark.parametrize("name", ["nowhere.gguf", "./nowhere.gguf", "text.txt"])
def test_a_path_with_no_model_says_so(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("no model")
    with pytest.raises(ModelError) as caught:
        ModelHandle.load(f"./{name}" if name == "nowhere.gguf" else name)
    assert "gguf" in str(caught.value.remedy)


def test_what_transformers_leaves_out_is_read(tmp_path: Path) -> None:
    """Numbers are cut into digits, texts begin with BOS, positions are scaled."""
    for i, (metadata, ids) in enumerate(
        [
            ({"tokenizer.ggml.pre": "smollm"}, None),
            ({"tokenizer.ggml.add_bos_token": True}, 0),
            ({"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}, 0),
            ({"tokenizer.ggml.add_bos_token": False}, None),
        ]
    ):
        path = tmp_path / f"{i}.gguf"
        save_tiny_gguf("llama", path, metadata=metadata, bos=i == 3)
        tokenizer = ModelHandle.load(path).tokenizer
        found = tokenizer("Paris")["input_ids"]
        assert (found[0] == tokenizer.bos_token_id) == (ids == 0), metadata
    path = tmp_path / "linear.gguf"
    scaled = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    save_tiny_gguf("llama", path, metadata=scaled)
    wanted, _ = tiny_model(
        "llama", rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    )
    assert torch.allclose(logits(ModelHandle.load(path).model), logits(wanted), atol=1e-5)
    assert not torch.allclose(logits(wanted), logits(tiny_model("llama")[0]), atol=1e-3)


def test_positions_of_llama_3_are_scaled(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }
    path = tmp_path / "tiny.gguf"
    factors = gguf_meaning.llama3_factors(500000.0, 4, rope).astype(np.float32)
    assert factors.max() == 32
    model, _ = save_tiny_gguf(
        "llama", path, tensors={"rope_freqs.weight": factors}, rope_parameters=rope
    )
    config = ModelHandle.load(path).model.config
    assert config.rope_parameters == pytest.approx(rope)
    assert torch.allclose(logits(ModelHandle.load(path).model), logits(model), atol=1e-5)
    other = tmp_path / "other.gguf"
    save_tiny_gguf("llama", other, tensors={"rope_freqs.weight": factors + 1})
    with pytest.warns(GGUFWarning, match="positions"):
        ModelHandle.load(other)


def test_tensors_that_are_not_read_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    bias = np.ones(32, np.float32)
    save_tiny_gguf("llama", path, tensors={"blk.0.attn_q.bias": bias})
    with pytest.warns(GGUFWarning, match=r"blk\.0\.attn_q\.bias"):
        ModelHandle.load(path)


def test_families_by_their_names() -> None:
    pairs = {"mistral": "llama", "gpt_neox": "gptneox", "gemma3_text": "gemma3", "phi": "phi2"}
    pairs |= {"cohere": "command-r", "qwen2_moe": "qwen2moe", "gpt_oss": "gpt-oss"}
    for model_type, family in pairs.items():
        assert gguf_meaning.family_of(model_type) == family
    assert gguf_meaning.family_of("opt") is None


OTHERS = ("gpt_neox", "falcon", "falcon_new", "phi", "gptj", "cohere", "olmo2", "granite")
OTHERS += ("gemma", "opt", "gpt_neo")


@pytest.mark.parametrize("kind", OTHERS)
def test_adapters_for_checkpoints_of_other_families(kind: str, tmp_path: Path) -> None:
    """Of families that llama.cpp knows, also where transformers reads no GGUF of them."""
    editor = Editor.from_pretrained(*tiny_model(kind), tokens=300, cache_dir=tmp_path / "moments")
    editor.edit(FACT, "memit", **SMALL)
    path = tmp_path / "adapter.gguf"
    if kind in ("opt", "gpt_neo"):
        with pytest.raises(ModelError, match=r"llama\.cpp has no") as caught:
            save_gguf_lora(editor.handle, editor.edits, path)
        assert "--format" in str(caught.value.remedy)
        assert not path.exists()
        return
    save_gguf_lora(editor.handle, editor.edits, path)
    factors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    for layer in (1, 2):
        name = f"blk.{layer}.ffn_down.weight"
        change = editor.edits[0].patch.weights[editor.handle.edited_name(layer)].matrix()
        found = factors[f"{name}.lora_b"] @ factors[f"{name}.lora_a"]
        assert np.allclose(found, change.numpy(), atol=1e-5)


def test_ranks_are_cut_and_the_error_told(tmp_path: Path, quantised: Path) -> None:
    editor = edited(quantised, tmp_path)
    for country in ("Spain", "Norway"):
        editor.edit(Fact("The capital of {} is", country, "Rome"), "memit", **SMALL)
    path = tmp_path / "adapter.gguf"
    whole = save_gguf_lora(editor.handle, editor.edits, path)
    assert {row.rank for row in whole} == {3}
    assert max(row.error for row in whole) < 1e-6
    rows = save_gguf_lora(editor.handle, editor.edits, path, max_rank=1)
    factors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    for row, layer in zip(rows, (1, 2), strict=True):
        assert (row.rank, row.given) == (1, 3)
        name = f"blk.{layer}.ffn_down.weight"
        found = torch.from_numpy(factors[f"{name}.lora_b"] @ factors[f"{name}.lora_a"])
        wanted = sum(edit.patch.weights[row.name].matrix() for edit in editor.edits)
        assert isinstance(wanted, torch.Tensor)
        assert row.error == pytest.approx(float((found - wanted).norm() / wanted.norm()), rel=1e-3)
        assert row.error > 1e-3
    half = save_gguf_lora(editor.handle, editor.edits, path, kind="F16")
    assert all(1e-6 < row.error < 1e-2 for row in half)
    assert {t.tensor_type.name for t in GGUFReader(path).tensors} == {"F16"}


def test_what_cannot_be_written_says_so(quantised: Path, tmp_path: Path) -> None:
    editor = edited(quantised, tmp_path)
    out = tmp_path / "out.gguf"
    with pytest.raises(ConfigError, match="Q3_K"):
        save_gguf(quantised, editor.edits, out, kind="Q3_K")
    with pytest.raises(ConfigError, match="base itself"):
        save_gguf(quantised, editor.edits, quantised)
    other = tmp_path / "other.gguf"
    save_tiny_gguf("llama", other)
    with pytest.raises(FingerprintError, match="has shape"):
        save_gguf(other, editor.edits, out)
    packed = bytearray(quantised.read_bytes())
    for tensor in gguf.header_of(quantised).tensors.values():
        if tensor.name.endswith("ffn_down.weight"):
            struct.pack_into("<I", packed, tensor.entry, int(GGMLQuantizationType.Q4_K))
    odd = tmp_path / "k.gguf"
    odd.write_bytes(bytes(packed))
    with pytest.raises(ConfigError, match=r"does not make it.*--type F16"):
        save_gguf(odd, editor.edits, out, kind="same")
    assert not out.exists()


def test_a_write_that_fails_keeps_what_was_there(
    quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alphaedit.editor import gguf_export

    editor = edited(quantised, tmp_path)
    out = tmp_path / "out.gguf"
    out.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_export, "_pour", full)
    with pytest.raises(AlphaEditError, match="No space left"):
        save_gguf(quantised, editor.edits, out)
    assert out.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == ["out.gguf"]


def command(*words: str) -> list[str]:
    return [*words, "-q", "--json"]


@pytest.fixture
def ledger(quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    path = tmp_path / "edits"
    words = ["edit", str(quantised), "--prompt", FACT.prompt, "--subject", FACT.subject]
    words += ["--target", FACT.target, "-o", str(path), "--corpus", str(text), "--tokens", "300"]
    words += ["--method", "memit", *(word for pair in SET for word in ("--set", pair))]
    assert run(command(*words)) in (0, 1)  # 1: edited, and not learned in so few steps
    capsys.readouterr()
    assert (path / "ledger.json").is_file() or any(path.iterdir())
    return path


def test_from_a_gguf_file_to_a_gguf_file_by_commands(
    ledger: Path, quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "served" / "edited.gguf"
    words = command("export", str(ledger), "--format", "gguf", "-o", str(out), "--ollama")
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (out.parent / "Modelfile").read_text().endswith("\nFROM ./edited.gguf\n")
    assert {row["type"] for row in found["tensors"]} == {"F16"}
    assert found["bytes"] == out.stat().st_size
    assert found["facts"]["asked"] == 1
    assert run(words) == 1  # it is there
    assert "--force" in capsys.readouterr().out
    assert run([*words, "--force", "--type", "same"]) == 0
    assert {r["type"] for r in json.loads(capsys.readouterr().out)["tensors"]} == {"Q4_1"}

    adapter = tmp_path / "adapter.gguf"
    assert run(["export", str(ledger), "--format", "gguf-lora", "-o", str(adapter), "-q"]) == 0
    assert "llama-server" in capsys.readouterr().out
    assert adapter.stat().st_size < 10_000
    # The checkpoint that it was converted to knows the file.
    folder = gguf.converted(quantised)
    words = command("export", str(ledger), "--model", str(folder), "--format", "gguf")
    assert run([*words, "-o", str(tmp_path / "again.gguf")]) == 0


def test_commands_say_what_they_cannot_do(
    ledger: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def says(*words: str) -> str:
        assert run(command("export", str(ledger), *words)) == 1
        error = json.loads(capsys.readouterr().out)["error"]
        return f"{error['message']} {error['remedy']}"

    out = ("-o", str(tmp_path / "out"))
    assert "out.gguf" in says("--format", "gguf", *out)
    assert "--type is not for" in says("--type", "F16", *out)
    assert "--ollama is not for" in says("--ollama", *out)
    assert "--max-rank is not for" in says("--max-rank", "3", "--format", "delta", *out)
    plain = save_tiny("llama", tmp_path / "plain", **WIDE)
    said = says("--model", str(plain), "--format", "gguf", "-o", str(tmp_path / "out.gguf"))
    assert "--model BASE.gguf" in said
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("rank", "flag"), [(1, 1), (2, 8), (8, 8), (100, 128), (300, 320), (512, 512)]
)
def test_the_flag_for_vllm_is_told(rank: int, flag: int) -> None:
    (line,) = export_gguf.ranks_line("lora", rank, Path("adapter"))
    assert f"--max-lora-rank {flag} " in line
    (line,) = export_gguf.ranks_line("lora", 513, Path("adapter"))
    assert "--max-rank" in line


def test_max_rank_of_a_peft_adapter(ledger: Path, tmp_path: Path, capsys: Any) -> None:
    words = command("export", str(ledger), "--max-rank", "1", "-o", str(tmp_path / "adapter"))
    assert run(words) == 0
    assert [row["rank"] for row in json.loads(capsys.readouterr().out)["matrices"]] == [1, 1]
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 1


def test_a_checkpoint_of_a_gguf_model_names_no_file(ledger: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    assert run(command("export", str(ledger), "--format", "checkpoint", "-o", str(out))) == 0
    assert not (out / gguf.ORIGIN).exists()
    assert base_of(str(out)) is None
    ModelHandle.load(out)


def test_commands_take_a_gguf_file_as_model(
    quantised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps(FACT.to_dict()) + "\n", encoding="utf-8")
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    model, few = str(quantised), ("--corpus", str(text), "--tokens", "300")
    for words in (
        ["plan", model, str(facts)],
        ["ask", model, FACT.text],
        ["stats", model, *few, "--layers", "1"],
        ["trace", model, str(facts), "--samples", "1"],
        ["init", str(tmp_path / "edits"), "--model", model],
        ["check", model, str(facts)],
    ):
        code = run(command(*words))
        said = json.loads(capsys.readouterr().out)
        assert "error" not in said, (words, said)
        assert code in (0, 1)  # 1: the facts do not hold in a random model
