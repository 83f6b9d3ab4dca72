"""A real model in a Q4_1 file: read, edited, exported, and served by llama.cpp."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from benchmarks.real_models import GEMMA, MODELS, SMOLLM2, Model
from tests.real.models import (
    EDITED,
    OTHERS,
    Engine,
    edit_smollm2,
    keep_converted,
    need,
    need_engine,
)

from alphaedit import Editor, Fact
from alphaedit.cli.app import run
from alphaedit.editor.gguf_export import read_tensor, save_gguf, save_gguf_lora
from alphaedit.model import gguf
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, in which SmolLM2 is converted already."""
    folder = tmp_path_factory.mktemp("real-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPHAEDIT_CACHE", str(folder))
        for model in MODELS:
            if model.checkpoint.is_dir() and model.gguf.is_file():
                keep_converted(model, folder)
        yield folder


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ledger of one edit of the GGUF file, made by the command."""
    need(SMOLLM2)
    return edit_smollm2(SMOLLM2.gguf, tmp_path_factory.mktemp("real"))


def export(ledger: Path, form: str, out: Path, *rest: str) -> Path:
    words = ["export", str(ledger), "--format", form, "-o", str(out), "-q", "--json", *rest]
    assert run(words) == 0
    return out


def check_edited(engine: Engine) -> None:
    for prompt in EDITED:
        assert engine.ask(prompt).startswith(" English"), prompt
    for prompt, answer in OTHERS.items():
        assert engine.ask(prompt).startswith(answer), prompt


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_gguf_file_and_its_checkpoint_are_one_model(model: Model) -> None:
    need(model)
    handle = ModelHandle.load(model.gguf)
    assert handle.fingerprint() == ModelHandle.load(model.checkpoint).fingerprint()
    header = gguf.header_of(model.gguf)
    for layer in (0, 7):
        stored = header.tensors[f"blk.{layer}.ffn_down.weight"]
        assert torch.equal(read_tensor(header, stored), handle.weight(layer))
    prompts = ["The Eiffel Tower is located in the city of", EDITED[0]]
    paris, french = generate(handle, prompts, 4)
    assert paris.startswith(" Paris")
    assert french.startswith(" French")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_texts_become_the_tokens_that_llama_cpp_makes(model: Model) -> None:
    need(model)
    need_engine()
    engine = Engine(model.gguf)
    handle = ModelHandle.load(model.gguf)
    texts = [*EDITED, *OTHERS, "In 1917 and 2026 it cost $3.50,", "Zoë lives in São Paulo; 東京 is"]
    for text in texts:
        ids = handle.tokenizer(text)["input_ids"]
        # The same continuation of 12 tokens from the text and from our ids of it.
        assert engine.ask(text, 12) == engine.ask(ids, 12), text
    same = sum(engine.ask(t, 1) == generate(handle, [t], 1)[0] for t in texts)
    assert same >= len(texts) - 1  # the engine rounds activations to 8 bits


def test_one_small_adapter_changes_one_fact_in_a_running_engine(
    ledger: Path, tmp_path: Path
) -> None:
    need_engine()
    base = Engine(SMOLLM2.gguf)
    for prompt in EDITED:
        assert base.ask(prompt).startswith(" French")
    adapter = export(ledger, "gguf-lora", tmp_path / "adapter.gguf")
    assert adapter.stat().st_size < 44_000
    check_edited(Engine(SMOLLM2.gguf, adapter))


@pytest.mark.parametrize("kind", ["F16", "same"])
def test_the_edited_file_gives_the_edited_answers(ledger: Path, kind: str, tmp_path: Path) -> None:
    need_engine()
    out = export(ledger, "gguf", tmp_path / "edited.gguf", "--type", kind)
    check_edited(Engine(out))
    if kind == "same":
        assert out.stat().st_size == SMOLLM2.gguf.stat().st_size


def test_a_quantisation_that_cannot_be_made_says_so(tmp_path: Path, capsys: object) -> None:
    need(GEMMA)
    from alphaedit.core.errors import ConfigError
    from alphaedit.editor.gguf_export import _kind

    header = gguf.header_of(GEMMA.gguf)
    with pytest.raises(ConfigError, match=r"Q[46]_K.*--type F16"):
        _kind("same", header.tensors["blk.7.ffn_down.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_conversion_gives_the_same_checkpoint_again(model: Model, tmp_path: Path) -> None:
    need(model)
    gguf.convert(model.gguf, tmp_path / "again")
    again = ModelHandle.load(tmp_path / "again").fingerprint()
    assert again == ModelHandle.load(model.checkpoint).fingerprint()
    about = json.loads((tmp_path / "again" / gguf.ORIGIN).read_text())
    assert about["sha256"] == model.sha256


@pytest.mark.slow
def test_a_file_of_k_quants_and_norms_behind_the_mlp(tmp_path: Path) -> None:
    """Gemma 3: the edited tensor goes from Q4_K to F16, the rest stays."""
    need(GEMMA)
    need_engine()
    editor = Editor.from_pretrained(str(GEMMA.gguf), corpus="bundled", tokens=3000)
    fact = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")
    settings = {"layers": (6,), "steps": 20, "contexts": 2, "clamp": 0.75, "moment_weight": 15}
    editor.edit(fact, "memit", learning_rate=10.0, **settings)
    adapter, edited = tmp_path / "adapter.gguf", tmp_path / "edited.gguf"
    save_gguf_lora(editor.handle, editor.edits, adapter, gguf=GEMMA.gguf)
    (row,) = save_gguf(GEMMA.gguf, editor.edits, edited)
    assert (row.before, row.type) == ("Q4_K", "F16")
    for engine in (Engine(GEMMA.gguf, adapter), Engine(edited)):
        assert engine.ask(EDITED[0]).startswith(" English")
        assert engine.ask("The Eiffel Tower is located in the city of").startswith(" Paris")
