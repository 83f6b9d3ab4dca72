"""Model folders of others: nothing of theirs is run, and what is wrong with them is told."""

import ast
import builtins
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.fuzz import in_time, run_cli
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

import alphaedit
from alphaedit.core.errors import ConfigError, ModelError, ResourceError
from alphaedit.model.chat import templated
from alphaedit.model.devices import check_device, devices
from alphaedit.model.handle import ModelHandle
from alphaedit.model.shape import shape_of

FACT = '{"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}\n'
CODE = """
from pathlib import Path
from transformers import {base}
{more}
Path({marker!r}).write_text("{name} was run")
class {name}({base}):
    {body}
"""


def changed(folder: Path, **fields: Any) -> Path:
    """The folder, with other fields in its config."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


def with_code(folder: Path, marker: Path) -> Path:
    """A model whose config and model are Python files, which write `marker` when they are run."""
    save_tiny("gpt2", folder)
    own = "from .configuration_odd import OddConfig"
    for file, name, base, more, body in (
        ("configuration_odd", "OddConfig", "GPT2Config", "", 'model_type = "odd"'),
        ("modeling_odd", "OddLMHeadModel", "GPT2LMHeadModel", own, "config_class = OddConfig"),
    ):
        code = CODE.format(base=base, marker=str(marker), name=name, more=more, body=body)
        (folder / f"{file}.py").write_text(code)
    names = {
        "AutoConfig": "configuration_odd.OddConfig",
        "AutoModelForCausalLM": "modeling_odd.OddLMHeadModel",
    }
    return changed(folder, model_type="odd", auto_map=names)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that were asked; each is answered by yes."""
    asked: list[str] = []

    def yes(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr(builtins, "input", yes)
    return asked


def test_code_of_a_model_is_not_run(tmp_path: Path, answered: list[str]) -> None:  # finding 12
    folder, marker = with_code(tmp_path / "model", tmp_path / "marker"), tmp_path / "marker"
    for call in (ModelHandle.load, shape_of):
        with pytest.raises(ModelError, match=r"not run.*all the rights.*--trust-remote-code"):
            call(str(folder))
    assert not answered
    assert not marker.exists()


def test_code_of_a_model_is_run_when_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above would notice code that is run."""
    folder, marker = with_code(tmp_path / "model", tmp_path / "marker"), tmp_path / "marker"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    assert shape_of(str(folder), trust_remote_code=True).layers == 4
    assert "was run" in marker.read_text()
    marker.unlink()
    monkeypatch.undo()


@pytest.mark.parametrize(
    "command",
    [
        ["ask", "MODEL", "The capital of France is"],
        ["edit", "MODEL", "FACTS"],
        ["edit", "MODEL", "FACTS", "-o", "OUT"],
        ["plan", "MODEL", "FACTS"],
        ["stats", "MODEL"],
        ["check", "MODEL", "FACTS"],
        ["trace", "MODEL", "FACTS"],
        ["tune", "MODEL", "FACTS", "-o", "OUT.yaml"],
        ["eval", "MODEL", "world", "--edits", "1"],
        ["ability", "MODEL"],
        ["init", "OUT", "--model", "MODEL"],
        ["experiment", "main-table", "--model", "MODEL", "-o", "OUT"],
    ],
    ids=lambda command: " ".join(command[:2]) + ("-o" if "OUT" in command else ""),
)
def test_no_command_runs_code_of_a_model(
    command: list[str], tmp_path: Path, answered: list[str]
) -> None:  # finding 12
    marker, facts = tmp_path / "marker", tmp_path / "facts.jsonl"
    folder = with_code(tmp_path / "model", marker)
    facts.write_text(FACT)
    names = {"MODEL": str(folder), "FACTS": str(facts)}
    argv = [names.get(arg, arg.replace("OUT", str(tmp_path / "out"))) for arg in command]
    code, out, err = run_cli([*argv, "--json"], stdin=b"y\ny\ny\n")
    assert code == 1, err
    assert "--trust-remote-code" in out + err
    assert not answered
    assert not marker.exists()


@pytest.mark.parametrize("field", ["attn_implementation", "experts_implementation"])
def test_kernels_of_others_are_not_fetched(field: str, tmp_path: Path) -> None:  # finding 12
    folder = changed(save_tiny("gpt2", tmp_path), **{field: "somebody/kernel"})
    with pytest.raises(ModelError, match=rf"{field}: 'somebody/kernel'.*--trust-remote-code"):
        ModelHandle.load(folder)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:  # finding 12, D
    folder, marker = save_tiny("gpt2", tmp_path / "model"), tmp_path / "marker"
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(marker),)

    torch.save({"transformer.wte.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickle file that was refused.*safetensors") as caught:
        ModelHandle.load(folder)
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match=r"refused.*safetensors|cannot be read"):
        ModelHandle.load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["bundeld", "Bundled", "bundled_small", "bundle"])
def test_nearly_the_name_of_a_bundled_model(name: str) -> None:  # finding D
    with pytest.raises(ModelError, match=r"Did you mean 'bundled"):
        ModelHandle.load(name)


@pytest.mark.parametrize("name", ["", " ", "a\0b", "~nobody-of-this-name/x", "x" * 5000, "a\nb"])
def test_names_that_are_none(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError):
        ModelHandle.load(name)


def test_weights_of_another_shape(tmp_path: Path) -> None:  # finding D
    changed(save_tiny("llama", tmp_path), intermediate_size=40)
    with pytest.raises(
        ModelError, match=r"mlp\.down_proj\S* has shape \(32, 48\).*\(32, 40\), and"
    ):
        ModelHandle.load(tmp_path)


def test_weights_that_are_zero(tmp_path: Path) -> None:  # finding D
    model, tokenizer = tiny_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with pytest.raises(ModelError, match=r"every token alike.*weights are zero.*undamaged"):
        ModelHandle.load(model, tokenizer)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_weights_too_large_to_compute_with(kind: str) -> None:  # finding D
    model, tokenizer = tiny_model(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    message = {
        "gpt2": r"computes NaN or infinity, first in transformer\.h\.\d\S+, though.*float32",
        "llama": r"every token alike.*too large to compute with",  # its norms make zeros
    }
    with pytest.raises(ModelError, match=message[kind]):
        ModelHandle.load(model, tokenizer)


def test_tokenizer_of_another_model(tmp_path: Path) -> None:  # finding 17
    tiny_model("gpt2", vocab_size=300)[0].save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"has 400 tokens.*embeddings for 300.*belongs"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta", "cpu:cpu", "", "xla", 1.5])
def test_devices_that_are_not_here(device: Any) -> None:  # finding 17
    with pytest.raises(ConfigError, match=r"no device .* here\. Devices: cpu"):
        check_device(device)
    # Before anything is loaded: there is no such model either.
    with pytest.raises(ConfigError, match="no device"):
        ModelHandle.load("/no/such/model", device=device)


def test_devices_that_are_here() -> None:
    assert devices()[0] == "cpu"
    for device in (None, "auto", torch.device("cpu"), *devices()):
        check_device(device)


@pytest.mark.parametrize("dtype", ["int8", "banana", "float8_e5m2", "nn", 5])
def test_dtypes_that_models_do_not_compute_in(dtype: Any) -> None:
    with pytest.raises(ConfigError, match="Unknown dtype"):
        ModelHandle.load("/no/such/model", dtype=dtype)


@pytest.mark.parametrize(
    "fields",
    [
        {"n_layer": 10**9},
        {"num_hidden_layers": 10**6},
        {"num_labels": 10**9},
        {"num_labels": 10**7},
        {"n_layer": 2000},  # more than the files hold
        {"n_embd": 10**6, "n_head": 1},
        {"n_embd": 10**9, "n_head": 1},
        {"vocab_size": 10**9},
        {"n_positions": 10**9},
        {"n_inner": 10**12},
    ],
    ids=str,
)
def test_configs_that_ask_for_too_much(fields: dict[str, int], tmp_path: Path) -> None:
    folder = changed(save_tiny("gpt2", tmp_path), **fields)
    before = psutil.Process().memory_info().rss
    with in_time(30), pytest.raises(ModelError, match=r"config .*(asks for|cannot be read)"):
        ModelHandle.load(folder)
    assert psutil.Process().memory_info().rss - before < 5e8


def test_models_that_memory_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = free = 5_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(psutil, "swap_memory", Memory)
    save_tiny("gpt2", tmp_path)
    with pytest.raises(ResourceError, match=r"does not fit into memory: its weights take"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "generation_config.json"])
def test_pipes_and_devices_are_not_read(name: str, tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with in_time(30), pytest.raises(ModelError, match=rf"{name} is neither a file nor a directory"):
        ModelHandle.load(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with in_time(30), pytest.raises(ModelError, match=rf"{name} is neither a file nor a directory"):
        ModelHandle.load(tmp_path)


def test_texts_without_end_are_not_read(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    os.truncate(tmp_path / "tokenizer.json", 1 << 40)
    with in_time(30), pytest.raises(ModelError, match=r"tokenizer\.json has 1,099,511,627,776 byt"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("shard", ["../other.safetensors", "/etc/passwd", 5, "a\0b"])
def test_weights_lie_in_the_directory(shard: Any, tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    weights = tmp_path / "model.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), shard)}
    weights.unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="not in its directory"):
        ModelHandle.load(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    changed(tmp_path, transformers_weights=shard)
    with pytest.raises(ModelError, match="not in its directory"):
        ModelHandle.load(tmp_path)


def test_pipes_in_place_of_shards_are_not_read(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    weights = tmp_path / "model.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(weights), "deep/part")}
    weights.unlink()
    (tmp_path / "deep").mkdir()
    os.mkfifo(tmp_path / "deep" / "part")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with in_time(30), pytest.raises(ModelError, match="part is neither a file nor a directory"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("template", ["{{", "{{ messages.x.y }}", "{{ 1/0 }}", "{{ 5 }}"])
def test_broken_chat_templates_are_told(template: str, tmp_path: Path) -> None:
    folder = save_tiny("gpt2", tmp_path)
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = ModelHandle.load(folder).tokenizer
    with pytest.raises(ModelError, match=r"chat template .*Leave chat mode out"):
        templated(tokenizer, "Who wrote Faust?")


def test_sharded_weights_are_read(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    plain = ModelHandle.load(tmp_path).fingerprint()
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + (i > 5)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == file}
        save_file(part, tmp_path / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert ModelHandle.load(tmp_path).fingerprint() == plain


def test_files_that_cannot_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise MemoryError("Cannot allocate memory (os error 12)")

    monkeypatch.setattr("alphaedit.model.source.safe_open", full)
    with pytest.raises(ResourceError, match="does not fit into memory: Cannot allocate"):
        ModelHandle.load(save_tiny("llama", tmp_path))


def test_pointers_of_git_lfs(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 8000\n")
    with pytest.raises(ModelError, match=r"model\.safetensors is a pointer .*git lfs pull"):
        ModelHandle.load(tmp_path)
    assert shape_of(str(tmp_path)).layers == 4  # plans need no weights
    weights.unlink()


def test_shards_of_a_distributed_checkpoint_that_are_damaged(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    (tmp_path / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"x" * 200)
    with pytest.raises(ModelError, match=r"cannot be read: .*header"):
        ModelHandle.load(tmp_path)
    run_cli(["ask", str(tmp_path), "x"])  # nor is a traceback printed


def test_errors_of_libraries_are_told_beyond_a_colon(tmp_path: Path) -> None:
    changed(save_tiny("llama", tmp_path), vocab_size="many")
    with pytest.raises(ModelError, match=r"field 'vocab_size': .*many"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "3", '"x"', "null", "[" * 5000, '{"model_type": 5}', "{}"])
def test_configs_that_are_none(text: str, tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    (tmp_path / "config.json").write_text(text)
    for call in (ModelHandle.load, shape_of):
        with pytest.raises(ModelError, match="config"):
            call(str(tmp_path))


def test_every_call_that_reads_a_model_says_whether_its_code_is_trusted() -> None:  # finding 12
    """Where it is not said, transformers asks on standard input."""
    calls, silent = 0, []
    for path in sorted((Path(alphaedit.__file__).parent).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and re.match(
                r"Auto\w+\.from_(pretrained|config)$", ast.unparse(node.func)
            ):
                calls += 1
                if "trust_remote_code" not in {word.arg for word in node.keywords}:
                    silent.append(f"{path.name}:{node.lineno}")
    assert calls >= 4
    assert silent == []
