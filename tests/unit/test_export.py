"""Edits as adapters that PEFT loads, for every family."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.tiny import EXPERTS, KINDS, tiny_model

from alphaedit import Editor, Fact
from alphaedit.cli import complete, export_gguf
from alphaedit.cli import export as command
from alphaedit.cli.app import run
from alphaedit.cli.outputs import FOLDERS
from alphaedit.core.edit import Edit, edit_id
from alphaedit.core.errors import EditFileError
from alphaedit.core.patch import LowRank, Patch
from alphaedit.editor import export
from alphaedit.editor.export import save_delta, save_lora, summed
from alphaedit.jobs import export as job
from alphaedit.methods.state import Learned

peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'alphaedit[peft]'")
FACTS = [
    Fact("The capital of {} is", "France", "Oslo"),
    Fact("{} was born in the city of", "Marie Curie", "Berlin"),
    Fact("The capital of {} is", "Spain", "Paris | Rome"),
]
SMALL: dict[str, Any] = {"layers": (1, 2), "steps": 4, "contexts": 0, "moment_weight": 0.01}
IDS = torch.tensor([[5, 9, 17, 33, 8, 61]])


def edited(kind: str, cache: Path) -> Editor:
    editor = Editor.from_pretrained(*tiny_model(kind), tokens=300, cache_dir=cache)
    editor.edit(FACTS[:2], "memit", **SMALL)
    editor.edit(FACTS[2:], "memit", **SMALL)
    return editor


def more_edits(editor: Editor, count: int) -> list[tuple[Edit, Learned]]:
    """Made-up edits of one fact each, of the matrices that were edited."""
    generator = torch.Generator().manual_seed(0)
    last = editor.edits[-1]
    found = []
    for _ in range(count):
        weights = {}
        for name, change in last.patch.weights.items():
            rows, columns = change.shape
            left = torch.randn(rows, 1, generator=generator)
            right = torch.randn(1, columns, generator=generator)
            size = 0.05 * change.matrix().norm() / (left.norm() * right.norm())
            weights[name] = LowRank(left * size, right)
        patch = Patch(weights)
        new = edit_id(patch, last.facts, last.id)
        found.append((replace(last, id=new, patch=patch), Learned()))
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in EXPERTS])
def test_an_adapter_gives_the_edited_models_outputs(kind: str, tmp_path: Path) -> None:
    editor = edited(kind, tmp_path / "cache")
    editor.set_edits([*zip(editor.edits, editor._learned, strict=True), *more_edits(editor, 98)])
    with torch.no_grad():
        expected = editor.handle.model(input_ids=IDS).logits.softmax(-1)
    report = save_lora(editor.handle, editor.edits, tmp_path / "adapter", base=kind)
    assert all(row.rank <= row.given == 101 for row in report)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    ranks = {t.shape["lora_B" in name] for name, t in tensors.items()}
    assert ranks == {config["r"]} == {config["lora_alpha"]}  # all that llama.cpp and vLLM know
    clean = tiny_model(kind)[0]
    with torch.no_grad():
        before = clean(input_ids=IDS).logits.softmax(-1)
    loaded = peft.PeftModel.from_pretrained(clean, str(tmp_path / "adapter"))
    with torch.no_grad():
        found = loaded(input_ids=IDS).logits.softmax(-1)
        merged = loaded.merge_and_unload()(input_ids=IDS).logits.softmax(-1)
    assert float((found - expected).abs().max()) < 1e-5
    assert float((merged - expected).abs().max()) < 1e-5
    assert float((before - expected).abs().max()) > 1e-5


def test_ranks_can_be_made_smaller_within_a_bound(tmp_path: Path) -> None:
    editor = edited("gpt2", tmp_path / "cache")
    exact, _ = summed(editor.edits, tolerance=0)
    found, report = summed(editor.edits, tolerance=0.3)
    for row in report:
        whole = sum(edit.patch.weights[row.name].matrix() for edit in editor.edits)
        assert isinstance(whole, torch.Tensor)
        error = float((found[row.name].matrix() - whole).norm() / whole.norm())
        assert error == pytest.approx(row.error, abs=1e-5)
        assert row.error <= 0.3
        assert row.size == pytest.approx(float(found[row.name].matrix().norm()), rel=1e-4)
        assert found[row.name].rank <= exact[row.name].rank
    nothing = summed([edit_of_zeros(editor)])[1]
    assert [row.rank for row in nothing] == [0]


def edit_of_zeros(editor: Editor) -> Any:
    from dataclasses import replace

    name = editor.handle.edited_name(1)
    zero = LowRank(torch.zeros(editor.handle.d_out(1), 1), torch.zeros(1, editor.handle.d_in(1)))
    edit = editor.edits[0]
    return replace(edit, patch=replace(edit.patch, weights={name: zero}))


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_edit_of_nothing_is_an_adapter_too(tmp_path: Path) -> None:
    editor = edited("gpt2", tmp_path / "cache")
    save_lora(editor.handle, [edit_of_zeros(editor)], tmp_path / "adapter")
    clean = tiny_model("gpt2")[0]
    with torch.no_grad():
        before = clean(input_ids=IDS).logits
        loaded = peft.PeftModel.from_pretrained(clean, str(tmp_path / "adapter"))
        assert torch.equal(loaded(input_ids=IDS).logits, before)


def test_factors_and_card(tmp_path: Path) -> None:
    editor = edited("llama", tmp_path / "cache")
    save_delta(editor.edits, tmp_path / "delta", base="my/model", tolerance=0)
    tensors = load_file(tmp_path / "delta" / "delta.safetensors")
    about = json.loads((tmp_path / "delta" / "delta.json").read_text())
    assert about["fingerprint"] == editor.base
    name = editor.handle.edited_name(2)
    whole = sum(edit.patch.weights[name].matrix() for edit in editor.edits)
    assert torch.allclose(tensors[f"{name}.left"] @ tensors[f"{name}.right"], whole, atol=1e-6)
    card = (tmp_path / "delta" / "README.md").read_text()
    assert card.startswith("# 3 facts changed in my/model")
    assert "| The capital of France is |" in card
    assert "Paris \\| Rome" in card


def test_nothing_to_export() -> None:
    with pytest.raises(EditFileError, match="no edits"):
        summed([])


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    editor = edited("llama", tmp_path / "cache")
    editor.save(tmp_path / "session")
    model = tmp_path / "model"
    clean, tokenizer = tiny_model("llama")
    clean.save_pretrained(model)
    tokenizer.save_pretrained(model)
    command = ["export", str(tmp_path / "session"), "--model", str(model), "--json", "-q"]
    for form, file in (("lora", "adapter_config.json"), ("delta", "delta.json")):
        out = tmp_path / form
        assert run([*command, "--format", form, "-o", str(out)]) == 0
        assert len(json.loads(capsys.readouterr().out)["matrices"]) == 2
        assert (out / file).is_file()
    assert run([*command, "-o", str(tmp_path / "lora")]) == 1
    assert "exists" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert run([*command, "--format", "checkpoint", "-o", str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    assert "France" in (tmp_path / "whole" / "FACTS.md").read_text()
    assert run([*command, "--format", "gguff", "-o", str(tmp_path / "x")]) == 1
    assert "gguff" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_form_stands_wherever_forms_are_told() -> None:
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text(encoding="utf-8")
    for form in (*export.FORMS, *export_gguf.FORMS):
        assert form in job.FORMS, f"{form} is missing in FORMS of jobs/export.py"
        assert form in complete.FORMATS, f"{form} is missing in FORMATS of cli/complete.py"
        assert f"`{form}`" in page or f"--format {form}`" in page, f"no {form} in docs/outputs.md"
    for form in export.FORMS:
        assert form in command.KINDS, f"{form} is missing in KINDS of cli/export.py"
        assert command.KINDS[form] in FOLDERS, f"no {command.KINDS[form]} in cli/outputs.py"


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapter_on_a_4_bit_base(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    from alphaedit.model.handle import ModelHandle

    editor = edited("llama", tmp_path / "cache")
    save_lora(editor.handle, editor.edits, tmp_path / "adapter", base="llama")
    clean, tokenizer = tiny_model("llama")
    clean.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    small = ModelHandle.load(str(tmp_path / "model"), dtype="4bit").model
    with torch.no_grad():
        before = small(input_ids=IDS).logits
        loaded = peft.PeftModel.from_pretrained(small, str(tmp_path / "adapter"))
        after = loaded(input_ids=IDS).logits
        wanted = editor.handle.model(input_ids=IDS).logits - clean(input_ids=IDS).logits
    assert (
        torch.nn.functional.cosine_similarity(
            (after - before).float().flatten(), wanted.flatten(), dim=0
        )
        > 0.9
    )
