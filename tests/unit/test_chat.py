"""Facts asked in a conversation."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import save_tiny, tiny_model
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from alphaedit import Editor, Fact
from alphaedit.cli.app import run
from alphaedit.core.errors import ModelError, SubjectError
from alphaedit.model.chat import in_chat, templated
from alphaedit.model.handle import ModelHandle

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA2 = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content | trim }} [/INST]{% endfor %}"
FACT = Fact(
    "What is the capital of {}?",
    "France",
    "Oslo",
    paraphrases=("France is ruled from?",),
    neighborhood=("What is the capital of Spain?",),
)


def chatty(template: str, kind: str = "llama") -> tuple[Any, PreTrainedTokenizerFast]:
    """A tiny model, and a tokenizer of its own that knows the template's special tokens."""
    model, shared = tiny_model(kind)
    core = type(shared.backend_tokenizer).from_str(shared.backend_tokenizer.to_str())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|im_start|>"), AddedToken("<|im_end|>")]}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(len(tokenizer))
    tokenizer.chat_template = template
    return model, tokenizer


@pytest.mark.parametrize("template", [CHATML, LLAMA2])
def test_the_subject_is_found_inside_the_conversation(template: str) -> None:
    handle = ModelHandle.load(*chatty(template))
    fact = in_chat(handle.tokenizer, FACT)
    text = handle.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert fact.text == text.removeprefix("<s>")
    encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
    bos = handle.tokenizer.bos_token_id
    assert encoded.ids.count(bos) == 1
    assert encoded.ids[0] == bos
    said = handle.tokens.decode(encoded.ids[encoded.subject_first : encoded.subject_last + 1])
    assert said.strip() == "France"
    assert "France is ruled from?" in fact.paraphrases[0]
    assert fact.paraphrases[0] == templated(handle.tokenizer, "France is ruled from?")
    prompt, target = handle.tokens.encode_continuation(fact.text, fact.target)
    assert handle.tokens.decode(target).strip() == "Oslo"
    assert prompt == encoded.ids


def test_a_subject_without_a_slot_is_placed_before_the_template_can_repeat_it() -> None:
    handle = ModelHandle.load(*chatty("France: " + CHATML))
    fact = in_chat(handle.tokenizer, Fact("Who rules France?", "France", "Oslo"))
    start, _ = fact.subject_span
    assert fact.text[:start].endswith("Who rules ")
    with pytest.raises(SubjectError):
        in_chat(handle.tokenizer, Fact("Who rules Spain?", "France", "Oslo"))


def test_without_a_template() -> None:
    handle = ModelHandle.load(*tiny_model("llama"))
    with pytest.raises(ModelError, match="no chat template"):
        templated(handle.tokenizer, "Hello")
    broken = chatty("{{ messages[0].role }}")[1]
    with pytest.raises(ModelError, match="changes what the user says"):
        templated(broken, "Hello")


def test_edit_and_ask(tmp_path: Path) -> None:
    editor = Editor.from_pretrained(*chatty(CHATML), tokens=300, cache_dir=tmp_path / "cache")
    over = {"layers": (1,), "steps": 5}
    edit = editor.edit(FACT, "memit", chat=True, **over)
    assert edit.facts[0].text == templated(
        editor.handle.tokenizer, "What is the capital of France?"
    )
    assert edit.hyperparameters["contexts"] == 0
    assert editor.ask("What is the capital of France?", 3, chat=True) == editor.ask(
        edit.facts[0].text, 3
    )


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = chatty(CHATML)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = tmp_path / "facts.jsonl"
    facts.write_text(json.dumps(FACT.to_dict()))
    common = ["--chat", "--json", "-q"]
    edit = ["edit", str(folder), str(facts), "--tokens", "300", "--set", "layers=1", "--method"]
    edit += ["memit", "--set", "steps=3", "-o", str(tmp_path / "out"), "--no-generation"]
    assert run([*edit, "--cache-dir", str(tmp_path / "cache"), *common]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"][0]["prompt"].startswith("<|im_start|>user")
    assert found["generalization"]["n"] == 1
    question = "What is the capital of France?"
    assert run(["ask", str(folder), question, "--edits", str(tmp_path / "out"), *common]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["prompt"] == question
    plain = str(save_tiny("llama", tmp_path / "plain"))
    assert run(["ask", plain, question, *common]) == 1
    assert "no chat template" in json.loads(capsys.readouterr().out)["error"]["message"]
