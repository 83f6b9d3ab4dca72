"""Models are loaded, read and written through their handle."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import CORE, INNER, LAYERS, WIDTH, save_tiny, tiny_model, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

from alphaedit.core.errors import (
    ConfigError,
    FingerprintError,
    ModelError,
    NonFiniteError,
    ResourceError,
)
from alphaedit.core.patch import LowRank
from alphaedit.model import load
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import keys_at

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ROWS, AT = [[5, 9, 30, 40], [7, 8]], [2, 1]


def handle_of(kind: str = "gpt2", **options: Any) -> ModelHandle:
    return ModelHandle.load(*tiny_model(kind, **options))


def change(scale: float = 0.1, rank: int = 2, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    left = scale * torch.randn(WIDTH, rank, generator=generator)
    return LowRank(left, torch.randn(rank, INNER, generator=generator))


def logits(handle: ModelHandle) -> Tensor:
    ids = torch.tensor([[5, 9, 30, 40]])
    return handle.forward(ids, torch.ones_like(ids))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("kind", CORE)
def test_load_from_a_directory(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny(kind, tmp_path)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    handle = ModelHandle.load(str(tmp_path))
    expected, _ = tiny_model(kind)
    assert same(weights(handle.model), weights(expected))
    assert handle.tokens.encode("The capital") == handle_of(kind).tokens.encode("The capital")
    assert handle.n_layers == LAYERS
    assert (handle.d_in(1), handle.d_out(1)) == (INNER, WIDTH)
    assert handle.max_positions == 128
    assert handle.device.type == "cpu"
    assert not handle.model.training
    assert not any(p.requires_grad for p in handle.model.parameters())


def test_loaded_models_and_handles() -> None:
    model, tokenizer = tiny_model("gpt2")
    handle = ModelHandle.load(model, tokenizer)
    assert handle.model is model
    assert ModelHandle.load(handle) is handle
    assert torch.equal(
        handle.logits(torch.ones(2, 3, WIDTH)),
        handle.head(handle.final_norm(torch.ones(2, 3, WIDTH))),
    )
    assert handle.embed is model.get_input_embeddings()
    with pytest.raises(ModelError, match="needs its tokenizer"):
        ModelHandle.load(model)


@pytest.mark.parametrize("name", ["TinyStories-656K", "stories260K"])
def test_real_models(name: str) -> None:
    folder = DATA / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    handle = ModelHandle.load(folder)
    ids = handle.tokens.encode("Once upon a time, there was a little girl named")
    keys = keys_at(handle, [ids], [len(ids) - 1], [0, handle.n_layers - 1])
    assert keys[0].shape == (1, handle.d_in(0))


def test_dtypes(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    assert ModelHandle.load(tmp_path).dtype == torch.float32
    half = ModelHandle.load(tmp_path, dtype="bfloat16")
    assert (half.dtype, half.wide, half.weight(0).dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    double = ModelHandle.load(tmp_path, dtype=torch.float64, device="cpu")
    assert (double.wide, double.weight(0).dtype) == (torch.float64, torch.float64)
    half.model.save_pretrained(tmp_path)
    assert ModelHandle.load(tmp_path).dtype == torch.float32  # on a CPU, whatever is stored
    with pytest.raises(ConfigError, match="Unknown dtype 'int8'"):
        ModelHandle.load(tmp_path, dtype="int8")


@pytest.mark.parametrize("missing", ["/no/such/model", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_missing_path(missing: str) -> None:
    with pytest.raises(ModelError, match=r"no model at .*Give a model directory"):
        ModelHandle.load(missing)


def test_missing_path_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no model at models/missing"):
        ModelHandle.load("models/missing")


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("offline\nand more")

    monkeypatch.setattr(load.PreTrainedConfig, "get_config_dict", refuse)
    with pytest.raises(ModelError, match=r"config of owner/name cannot be read: offline Give"):
        ModelHandle.load("owner/name")


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a file"):
        ModelHandle.load(tmp_path / "model.safetensors")


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json.*save_pretrained"):
        ModelHandle.load(tmp_path)


def test_broken_config(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config of .* cannot be read"):
        ModelHandle.load(tmp_path)


def test_unknown_architecture(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt99"}))
    with pytest.raises(ModelError, match="gpt99"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_tokenizer(kind: str, tmp_path: Path) -> None:
    tiny_model(kind)[0].save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer.*tokenizer\.json"):
        ModelHandle.load(tmp_path)
    assert ModelHandle.load(tmp_path, tiny_tokenizer()).n_layers == LAYERS


def test_no_weights(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        ModelHandle.load(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    save_tiny("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ModelError, match="cannot be read"):
        ModelHandle.load(tmp_path)


def test_missing_tensors_are_not_made_up(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 tensors.*layers\.1\.mlp\.down_proj"):
        ModelHandle.load(tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights(bad: float, tmp_path: Path) -> None:
    model, tokenizer = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[2].attn.c_attn.weight[3, 4] = bad
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for source in (tmp_path, model):
        with pytest.raises(NonFiniteError, match=r"h\.2\.attn\.c_attn\.weight.*undamaged"):
            ModelHandle.load(source, tokenizer)


def test_encoder_decoder(tmp_path: Path) -> None:
    config = T5Config(vocab_size=60, d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=8)
    model: PreTrainedModel = T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    for source in (tmp_path, model):
        with pytest.raises(ModelError, match=r"encoder-decoder.*decoder-only"):
            ModelHandle.load(source, tiny_tokenizer())


def test_masked_model(tmp_path: Path) -> None:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(vocab_size=400, intermediate_size=INNER, **sizes)
        BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"not causal.*decoder-only"):
        ModelHandle.load(tmp_path, tiny_tokenizer())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 99 bytes"),
    ],
)
def test_too_little_memory(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("gpt2", tmp_path)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ResourceError, match=r"does not fit into memory.*smaller model"):
        ModelHandle.load(tmp_path)


def test_bundled_names_are_looked_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from alphaedit.world import asset

    save_tiny("gpt2", tmp_path)
    monkeypatch.setattr(asset, "path", lambda name: tmp_path)
    assert ModelHandle.load("bundled").n_layers == LAYERS


def test_only_ids_and_mask_come_from_the_tokenizer() -> None:
    handle, given = handle_of("gpt2"), list[dict[str, Any]]()
    hook = handle.model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs), with_kwargs=True
    )
    keys_at(handle, [handle.tokens.encode("The capital of France is")], [2], [0])
    logits(handle)
    hook.remove()
    for kwargs in given:
        assert kwargs.keys() <= {"input_ids", "attention_mask", "use_cache", "position_ids"}


@pytest.mark.parametrize("kind", CORE)
def test_delta_adds_to_the_matrix(kind: str) -> None:
    handle, delta = handle_of(kind), change()
    name = handle.edited_name(1)
    before, untouched = handle.weight(1), weights(handle.model)
    handle.add_delta({name: delta})
    torch.testing.assert_close(handle.weight(1), before + delta.matrix())
    after = weights(handle.model)
    assert {n for n in after if not torch.equal(after[n], untouched[n])} == {name}


@pytest.mark.parametrize("kind", CORE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_temporary_changes_leave_no_trace(kind: str, dtype: torch.dtype) -> None:
    handle = ModelHandle.load(*tiny_model(kind), dtype=dtype)
    before, plain = weights(handle.model), logits(handle)
    names = [handle.edited_name(layer) for layer in (0, 2)]
    with handle.temporarily({names[0]: change()}), handle.temporarily({names[1]: change(seed=1)}):
        assert not torch.equal(logits(handle), plain)
    assert same(weights(handle.model), before)
    with pytest.raises(ValueError, match="mine"), handle.temporarily({names[0]: change()}):
        raise ValueError("mine")
    assert same(weights(handle.model), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_snapshots(dtype: torch.dtype) -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"), dtype=dtype)
    name = handle.edited_name(1)
    original, first = handle.snapshot([name]), handle.weight(1)
    handle.add_delta({name: change()})
    edited, second = handle.snapshot([name]), handle.weight(1)
    handle.add_delta({name: change(seed=1)})
    handle.restore(edited)
    assert torch.equal(handle.weight(1), second)
    handle.restore(original)
    assert torch.equal(handle.weight(1), first)
    handle.restore(edited)
    assert torch.equal(handle.weight(1), second)


def test_many_small_changes_are_not_lost_in_half_precision() -> None:
    handle = ModelHandle.load(*tiny_model("gpt2"), dtype=torch.bfloat16)
    name, delta = handle.edited_name(1), change(scale=1e-5)
    before = handle.weight(1)
    for _ in range(300):
        handle.add_delta({name: delta})
    expected = before + 300 * delta.matrix()
    torch.testing.assert_close(handle.weight(1), expected, rtol=0, atol=2e-5)
    stored = handle.model.get_parameter(name).T
    assert torch.equal(stored, handle.weight(1).to(torch.bfloat16))


def test_weights_written_by_others_count() -> None:
    handle = ModelHandle.load(*tiny_model("llama"), dtype=torch.bfloat16)
    name = handle.edited_name(1)
    handle.add_delta({name: change(scale=1e-5)})
    handle.model.get_parameter(name).data.fill_(0.5)
    assert torch.equal(handle.weight(1), torch.full((WIDTH, INNER), 0.5))
    assert torch.equal(handle.snapshot([name])[name].float(), torch.full((WIDTH, INNER), 0.5))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_set_weight(kind: str) -> None:
    handle = handle_of(kind)
    matrix = change(rank=5).matrix()
    handle.set_weight(2, matrix)
    assert torch.equal(handle.weight(2), matrix)
    with pytest.raises(ConfigError, match=r"\(48, 32\).*\(32, 48\)"):
        handle.set_weight(2, matrix.T)
    with pytest.raises(NonFiniteError, match="would hold NaN"):
        handle.set_weight(2, matrix / 0)
    assert torch.equal(handle.weight(2), matrix)


def test_weight_is_a_copy() -> None:
    handle = handle_of("llama")
    before = weights(handle.model)
    handle.weight(0).zero_()
    assert same(weights(handle.model), before)


@pytest.mark.parametrize(
    ("name", "delta", "error", "message"),
    [
        ("transformer.h.9.mlp.c_proj.weight", change(), FingerprintError, "no matrix"),
        ("transformer.h.1.mlp.c_proj.bias", change(), FingerprintError, "no matrix"),
        ("transformer.h.1.ln_1.weight", change(), FingerprintError, "has shape"),
        ("transformer.h.1.mlp.c_fc.weight", change(), FingerprintError, "has shape"),
        ("transformer.h.1.mlp.c_proj.weight", change(5e37, 8), NonFiniteError, "would hold"),
    ],
)
def test_refused_changes_change_nothing(
    name: str, delta: LowRank, error: type[Exception], message: str
) -> None:
    handle = handle_of("gpt2")
    before = weights(handle.model)
    with pytest.raises(error, match=message):
        handle.add_delta({handle.edited_name(0): change(), name: delta})
    assert same(weights(handle.model), before)


def test_layers_out_of_range() -> None:
    handle = handle_of("gpt2")
    for call in (handle.block, handle.edited_name, handle.weight, handle.d_in):
        with pytest.raises(ConfigError, match=r"Layer 4 .*0 to 3"):
            call(4)
        with pytest.raises(ConfigError, match="Layer -1"):
            call(-1)


def as_linear(model: PreTrainedModel) -> PreTrainedModel:
    """The same function, with every Conv1D of the MLPs replaced by an nn.Linear."""
    for block in model.transformer.h:
        for name in ("c_fc", "c_proj"):
            old = getattr(block.mlp, name)
            assert isinstance(old, Conv1D)
            new = nn.Linear(*old.weight.shape)
            new.weight.data, new.bias.data = old.weight.data.T.contiguous(), old.bias.data
            setattr(block.mlp, name, new)
    return model


def test_conv1d_and_linear_agree() -> None:
    conv = handle_of("gpt2")
    linear = ModelHandle.load(as_linear(tiny_model("gpt2")[0]), conv.tokenizer)
    keys = [keys_at(handle, ROWS, AT, [0, 2]) for handle in (conv, linear)]
    for layer in (0, 2):
        torch.testing.assert_close(keys[0][layer], keys[1][layer])
        assert torch.equal(conv.weight(layer), linear.weight(layer))
    for handle in (conv, linear):
        handle.add_delta({handle.edited_name(1): change()})
    torch.testing.assert_close(conv.weight(1), linear.weight(1))
    torch.testing.assert_close(logits(conv), logits(linear), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_fingerprint(kind: str, tmp_path: Path) -> None:
    handle = handle_of(kind)
    whole, part = handle.fingerprint(), handle.fingerprint(1)
    assert whole != part
    assert len(whole) == 64
    again = ModelHandle.load(save_tiny(kind, tmp_path))
    assert (again.fingerprint(), again.fingerprint(1)) == (whole, part)
    assert handle_of(kind, seed=1).fingerprint() != whole
    assert ModelHandle.load(*tiny_model(kind), dtype="bfloat16").fingerprint(1) != part

    with handle.temporarily({handle.edited_name(2): change()}):
        assert handle.fingerprint() != whole
        assert handle.fingerprint(1) == part
        assert handle.fingerprint(2) != again.fingerprint(2)
    assert handle.fingerprint() == whole
    with handle.temporarily({handle.edited_name(1): change()}):
        assert handle.fingerprint(1) != part


@pytest.mark.parametrize(
    ("path", "counts"),
    [("transformer.wpe", True), ("transformer.wte", True), ("transformer.ln_f", False)],
)
def test_fingerprint_of_a_layer_covers_what_it_depends_on(path: str, counts: bool) -> None:
    handle = handle_of("gpt2")
    before = handle.fingerprint(1)
    with torch.no_grad():
        handle.model.get_submodule(path).weight.mul_(2)
    assert (handle.fingerprint(1) != before) == counts


def test_spread_over_the_devices_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By accelerate; here that is the CPU alone, with the same weights and dtype."""
    save_tiny("llama", tmp_path)
    plain = ModelHandle.load(str(tmp_path))
    given: list[Any] = []
    whole = load.AutoModelForCausalLM.from_pretrained

    def spy(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs.get("device_map"))
        return whole(*args, **kwargs)

    monkeypatch.setattr(load.AutoModelForCausalLM, "from_pretrained", spy)
    spread = ModelHandle.load(str(tmp_path), device="auto")
    assert given == ["auto"]
    assert spread.dtype == plain.dtype
    assert spread.fingerprint() == plain.fingerprint()
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs accelerate"):
        ModelHandle.load(str(tmp_path), device="auto")
