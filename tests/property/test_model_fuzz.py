"""Model folders that are damaged or made by an enemy: told, in time, and left as they were."""

import functools
import json
import os
import random
import resource
import shutil
import socket
import stat
import struct
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.fuzz import assert_told, both, profile, run_cli
from tests.tiny import save_tiny

from alphaedit import Editor
from alphaedit.core.errors import AlphaEditError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.shape import shape_of

KINDS = ("gpt2", "gpt_neo", "llama", "qwen2", "gptj", "gpt_neox", "opt", "bloom", "falcon")
KINDS += ("gemma2", "mixtral", "phi3")
GROWTH = 1_500_000
"""Kilobytes by which no case may make this process grow."""
PROMPT = "The capital of France is"
FACT = {"prompt": "The capital of {} is", "subject": "France", "target": "Rome"}
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    31,
    33,
    64,
    1000,
    10**5,
    10**7,
    10**9,
    2**31,
    2**63,
    10**30,
    -(10**9),
)
FLOATS = (0.0, 0.5, -1.5, 1e-30, 1e30, 1e308, float("nan"), float("inf"), -float("inf"))
TEXTS = ("", "gelu", "banana", "eager", "../../etc/passwd", "\0", "\ud83d", "\x1b[2J", "x" * 3000)
TEXTS += ("float16", "int8", "default", "linear", "/dev/zero", "owner/name", "llama", "None")
FIELDS = (
    "attn_implementation experts_implementation auto_map quantization_config rope_scaling "
    "rope_parameters layer_types torch_dtype dtype num_labels id2label per_layer_config is_decoder "
    "is_encoder_decoder transformers_weights tie_word_embeddings output_attentions use_cache "
    "output_hidden_states return_dict pruned_heads text_config model_type architectures "
    "pad_token_id eos_token_id head_dim sliding_window max_position_embeddings chunk_size "
    "attention_types num_experts moe_layers base_model_tp_plan fusion_config gradient_checkpointing"
).split()
EXTRA = (
    "adapter_config.json model.safetensors.index.json pytorch_model.bin.index.json "
    "pytorch_model.bin added_tokens.json special_tokens_map.json chat_template.jinja vocab.json "
    "merges.txt vocab.txt tokenizer.model custom_generate/generate.py "
    "shard-00001-model-00001-of-00001.safetensors config_sentence.json "
    "preprocessor_config.json processor_config.json consolidated.safetensors"
).split()


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value, and some that JSON does not have."""
    pick = rng.randrange(10 if depth < 3 else 7)
    if pick < 2:
        return rng.choice(NUMBERS)
    if pick == 2:
        return rng.choice(FLOATS)
    if pick == 3:
        return rng.choice((None, True, False))
    if pick < 6:
        return rng.choice(TEXTS)
    if pick == 6:
        return rng.choice(([], {}))
    if pick == 7:
        return [junk(rng, depth + 1) for _ in range(rng.choice((1, 2, 4, 40)))]
    return {rng.choice((*FIELDS, *TEXTS)): junk(rng, depth + 1) for _ in range(rng.randint(1, 3))}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something can be replaced."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for i in range(min(len(value), 20)):
            yield from places(value[i], (*path, i))


def disturbed(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it replaced, removed or added."""
    known = list(places(value))
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        # Short paths as often as long ones: a vocabulary has many.
        length = rng.choice(sorted({len(path) for path in known}))
        path = rng.choice([path for path in known if len(path) == length])
        if not path:
            if rng.random() < 0.3:
                return junk(rng)
            continue
        at = value
        try:
            for step in path[:-1]:
                at = at[step]
            if rng.random() < 0.25:
                del at[path[-1]]
            else:
                at[path[-1]] = junk(rng)
        except (KeyError, IndexError, TypeError):  # went with what was replaced before
            continue
    return value


def held_by(file: Path) -> bytes:
    """What a file holds, if an earlier mutation has left one that can be read."""
    if not file.is_file() or file.stat().st_size > 1 << 24:
        raise OSError("changed already")
    return file.read_bytes()


def config(rng: random.Random, folder: Path) -> None:
    file = folder / "config.json"
    held = json.loads(held_by(file))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = rng.choice((rng.choice(sorted(held)), rng.choice(sorted(held)), rng.choice(FIELDS)))
        old = held.get(name)
        if isinstance(old, int) and rng.random() < 0.5:
            held[name] = rng.choice(
                (old * 2, old // 2, old + 1, old - 1, -old, rng.choice(NUMBERS))
            )
        else:
            held[name] = junk(rng)
    if rng.random() < 0.2:
        held.pop(rng.choice(sorted(held)))
    file.write_text(json.dumps(held))


def texts(rng: random.Random, folder: Path) -> None:
    names = ["config.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json"]
    file = folder / rng.choice([*names, "generation_config.json"])
    file.write_text(json.dumps(disturbed(rng, json.loads(held_by(file)))))


def raw(rng: random.Random, folder: Path) -> None:
    file = folder / rng.choice(sorted(os.listdir(folder)))
    data = bytearray(held_by(file))
    pick = rng.randrange(5)
    if pick == 0:
        del data[int(rng.random() * len(data)) :]
    elif pick == 1:
        for _ in range(rng.choice((1, 10, 1000))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif pick == 2:
        at = rng.randrange(len(data))
        data[at : at + rng.choice((1, 100))] = bytes(rng.choice((0, 1, 5000)))
    elif pick == 3:
        data[: rng.randrange(40)] = rng.randbytes(rng.randrange(40))
    else:
        data += rng.randbytes(rng.choice((1, 1000)))
    file.write_bytes(data)


def kind_of_file(rng: random.Random, folder: Path) -> None:
    file = folder / rng.choice(sorted(os.listdir(folder)))
    file.unlink()
    pick = rng.randrange(6)
    if pick == 1:
        file.mkdir()
    elif pick == 2:
        os.mkfifo(file)
    elif pick == 3:
        others = ("/dev/zero", "/dev/null", "nowhere", file.name, ".", "config.json", "/dev/full")
        file.symlink_to(rng.choice(others))
    elif pick == 4:
        file.touch()
    elif pick == 5:
        with file.open("wb") as sparse:
            sparse.truncate(rng.choice((1, 1 << 20, 1 << 34)))


def header(rng: random.Random, folder: Path) -> None:
    """Mutations of what stands in front of the tensors."""
    file = folder / "model.safetensors"
    data = held_by(file)
    size = struct.unpack("<Q", data[:8])[0]
    held = json.loads(data[8 : 8 + size])
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(sorted(held))
        pick = rng.randrange(5)
        if pick == 0:
            held[rng.choice(("", "x", *TEXTS))] = held.pop(name)
        elif pick == 1:
            held[name] = junk(rng)
        elif isinstance(held[name], dict):
            field = rng.choice(("dtype", "shape", "data_offsets"))
            numbers = [rng.choice(NUMBERS) for _ in range(rng.randrange(4))]
            dtype = rng.choice(("F16", "BF16", "I64", "U8", "BOOL", "F64", "F8_E4M3", "C64"))
            held[name][field] = dtype if field == "dtype" else rng.choice((numbers, junk(rng)))
    new = json.dumps(held).encode("utf-8", "surrogatepass")
    length = len(new) if rng.random() < 0.8 else rng.choice((0, 1, 2**40, 2**63, len(new) // 2))
    file.write_bytes(struct.pack("<Q", length) + new + data[8 + size :])


def weights(rng: random.Random, folder: Path) -> None:
    """Tensors that are whole, and wrong."""
    file = folder / "model.safetensors"
    held_by(file)
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    chosen = list(tensors) if rng.random() < 0.5 else [name]
    pick = rng.randrange(8)
    for one in chosen:
        old = tensors[one]
        if pick < 4:
            tensors[one] = old * (0.0, 1e30, 1e-38, float("inf"))[pick]
        elif pick == 4:
            tensors[one] = old.to(rng.choice((torch.float16, torch.int64, torch.bool)))
        elif pick == 5:
            tensors[one] = old.flatten()
        elif pick == 6:
            tensors[one] = torch.cat([old, old])
        else:
            tensors.pop(one)
    save_file({k: v.contiguous() for k, v in tensors.items()}, file, {"format": "pt"})


def extra(rng: random.Random, folder: Path) -> None:
    """A file that was not there."""
    file = folder / rng.choice(EXTRA)
    if file.exists() or file.is_symlink():
        return
    file.parent.mkdir(exist_ok=True)
    pick = rng.randrange(5)
    if pick == 0:
        file.write_bytes(rng.randbytes(200))
    elif pick == 1:
        os.mkfifo(file)
    elif pick == 2 and "index" in file.name:
        file.write_text(json.dumps({"metadata": {}, "weight_map": {"x": junk(rng), "y": "../a"}}))
    elif pick < 4 and "chat" in file.name:
        loop = "{% for m in messages %}{{ m.content }}{% endfor %}"
        bad = (
            "{{",
            "{{ messages.x.y }}",
            "{% include 'x' %}",
            "{{ 1/0 }}",
            "{{ raise_exception('no') }}",
        )
        file.write_text(rng.choice((loop, loop + "{{ self }}", *bad)))
    elif pick == 2 and "adapter" in file.name:
        base = rng.choice(("owner/name", ".", "/dev/zero", "..", ""))
        adapter = {"peft_type": "LORA", "base_model_name_or_path": base, "r": junk(rng)}
        file.write_text(json.dumps(adapter))
    else:
        file.write_text(json.dumps(junk(rng)))


MUTATIONS = (config, config, config, texts, texts, raw, kind_of_file, header, weights, extra)


def seen(folder: Path) -> dict[str, Any]:
    """All that lies in a folder: kinds, links, hashes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        held: Any = None
        if stat.S_ISREG(about.st_mode) and about.st_size < 1 << 24:
            held = sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(about.st_mode):
            held = os.readlink(path)
        found[str(path.relative_to(folder))] = (stat.S_IFMT(about.st_mode), about.st_size, held)
    return found


def by_handle(folder: Path, rng: random.Random) -> None:
    assert_told(lambda: ModelHandle.load(folder, dtype=rng.choice((None, None, "bfloat16"))))


def by_editor(folder: Path, rng: random.Random) -> None:
    def ask() -> str:
        editor = Editor.from_pretrained(str(folder), progress=False)
        return editor.ask(PROMPT, 3)

    assert_told(ask)


def by_shape(folder: Path, rng: random.Random) -> None:
    assert_told(lambda: shape_of(str(folder)))


def by_ask(folder: Path, rng: random.Random) -> None:
    chat = ["--chat"] * (rng.random() < 0.2)
    run_cli(["ask", str(folder), PROMPT, "--json", *chat], stdin=b"y\ny\n")


def by_plan(folder: Path, rng: random.Random) -> None:
    run_cli(["plan", str(folder), str(folder.parent / "facts.jsonl"), "--json"], stdin=b"y\ny\n")


WAYS: tuple[Callable[[Path, random.Random], None], ...] = (
    by_handle,
    by_editor,
    by_shape,
    by_ask,
    by_plan,
)


@functools.cache
def base(kind: str) -> Path:
    """An undamaged model; copies are made of it."""
    return save_tiny(kind, Path(mkdtemp(prefix="fuzz-")) / kind)


def case(seed: int, place: Path) -> None:
    """One damaged folder, read in one way."""
    rng = random.Random(seed)
    folder = place / "model"
    shutil.copytree(base(rng.choice(KINDS)), folder)
    (place / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        mutate = rng.choice(MUTATIONS)
        done.append(mutate.__name__)
        try:
            mutate(rng, folder)
        except Exception:
            continue  # what it was to change is changed already
    before, most = seen(folder), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    way = rng.choice(WAYS)
    note = f"seed {seed}: {', '.join(done)}, read {way.__name__}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            way(folder, rng)
        except AssertionError as error:
            raise AssertionError(f"{note}: {error}") from error
    assert seen(folder) == before, note
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most
    assert grown < GROWTH, f"{note}: memory grew by {grown:,} kB"


@both(40)
def test_damaged_model_folders(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        asked.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("ALPHAEDIT_CACHE", str(tmp_path / "cache"))

    @profile(count)
    @given(st.integers(0, 2**62))
    def one(seed: int) -> None:
        place = Path(mkdtemp(dir=tmp_path))
        try:
            case(seed, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    one()
    assert not asked


@pytest.mark.parametrize("kind", KINDS)
def test_undamaged_folders_are_read(kind: str, tmp_path: Path) -> None:
    """What the suite damages would be read without it, in all ways."""
    shutil.copytree(base(kind), tmp_path / "model")
    (tmp_path / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    before = seen(tmp_path / "model")
    try:
        ModelHandle.load(tmp_path / "model")
    except AlphaEditError:
        assert kind == "mixtral"  # which cannot be edited
    assert shape_of(str(tmp_path / "model")).layers == 4
    assert seen(tmp_path / "model") == before
