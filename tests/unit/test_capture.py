"""Partial passes equal the plain full pass, in values and in gradients."""

from typing import Any

import pytest
import torch
from tests.tiny import CORE, KINDS, LAYERS, plain_keys, tiny_model
from torch import Tensor, nn

from alphaedit.core.errors import ArchitectureError, ConfigError, ModelError
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import TailPass, capture, hidden_at, keys_at

SDPA = ("gpt2", "llama", "qwen2", "gpt_neox", "mistral", "phi", "opt", "falcon")
EAGER = (*CORE, "mistral", "gemma2", "phi", "opt", "bloom", "falcon")
CASES = [(kind, "eager") for kind in EAGER] + [(kind, "sdpa") for kind in SDPA]

# Lengths and starts: prefixes longer and shorter than suffixes, a start at 0, one token left.
SHAPES = [(9, 3), (14, 10), (7, 0), (20, 15), (6, 5)]


def rows_of(shapes: list[tuple[int, int]]) -> tuple[list[list[int]], list[int]]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(3, 250, (n,), generator=generator).tolist() for n, _ in shapes]
    return rows, [start for _, start in shapes]


def load(kind: str, attention: str = "eager", **config: Any) -> ModelHandle:
    return ModelHandle.load(*tiny_model(kind, attention=attention, **config))


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def plain(
    handle: ModelHandle, row: list[int], layer: int, add: Tensor | None = None, at: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Output of block `layer`, of the last block, and logits of one row, by one full pass.

    `add` [h] is added to what leaves `layer` at position `at`.
    """
    seen: dict[str, Tensor] = {}

    def at_layer(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = first(output)
        if add is not None:
            moved = torch.zeros_like(hidden)
            moved[0, at] = 1
            hidden = hidden + moved * add
        seen["layer"] = hidden
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    def at_last(module: nn.Module, args: Any, output: Any) -> None:
        seen["last"] = first(output)

    hooks = [
        handle.layers[layer].register_forward_hook(at_layer),
        handle.layers[-1].register_forward_hook(at_last),
    ]
    try:
        logits = handle.model(input_ids=torch.tensor([row]), use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    return seen["layer"][0], seen["last"][0], logits[0]


def close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("kind", "attention"), CASES)
@pytest.mark.parametrize("layer", [0, LAYERS - 2])
def test_suffix_equals_full_pass(kind: str, attention: str, layer: int) -> None:
    handle = load(kind, attention)
    rows, starts = rows_of(SHAPES)
    tail = TailPass.build(handle, rows, starts, layer)
    out = tail.run(tail.clean)
    assert out.shape == tail.clean.shape == (5, 7, handle.d_out(layer))
    for i, (row, start) in enumerate(zip(rows, starts, strict=True)):
        with torch.no_grad():
            hidden, last, logits = plain(handle, row, layer)
        n = len(row) - start
        close(tail.clean[i, :n], hidden[start:])
        close(out[i, :n], last[start:])
        close(tail.logits(out[i, :n]), logits[start:])


@pytest.mark.parametrize(("kind", "attention"), CASES)
def test_gradient_and_rows(kind: str, attention: str) -> None:
    """A delta at the start moves the same things by the same gradient as in the full model."""
    handle, layer, chosen = load(kind, attention), 1, [3, 0, 2]
    rows, starts = rows_of(SHAPES)
    tail = TailPass.build(handle, rows, starts, layer)
    generator = torch.Generator().manual_seed(0)
    first_delta = torch.randn(len(chosen), handle.d_out(layer), generator=generator)
    weights = torch.randn(len(chosen), 7, handle.d_out(layer), generator=generator)
    picked = torch.tensor(chosen)

    delta = first_delta.clone().requires_grad_()
    clean = tail.clean[picked]
    hidden = torch.cat([clean[:, :1] + delta[:, None], clean[:, 1:]], dim=1)
    out = tail.run(hidden, rows=picked)
    lengths = [len(rows[i]) - starts[i] for i in chosen]
    loss = sum((out[j, :n] * weights[j, :n]).sum() for j, n in enumerate(lengths))
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]

    expected = first_delta.clone().requires_grad_()
    for j, i in enumerate(chosen):
        _, last, _ = plain(handle, rows[i], layer, expected[j], starts[i])
        close(out[j, : lengths[j]].detach(), last[starts[i] :].detach())
        (last[starts[i] :] * weights[j, : lengths[j]]).sum().backward()
    assert delta.grad is not None
    assert expected.grad is not None
    close(delta.grad, expected.grad)


@pytest.mark.parametrize("kind", [*CORE, "bloom", "falcon", "mistral"])
def test_no_prefix(kind: str) -> None:
    handle = load(kind)
    rows, starts = rows_of([(5, 0), (9, 0), (1, 0)])
    tail = TailPass.build(handle, rows, starts, 1)
    out = tail.run(tail.clean)
    part = tail.run(tail.clean[[2, 1]], rows=torch.tensor([2, 1]))
    for i, row in enumerate(rows):
        with torch.no_grad():
            close(out[i, : len(row)], plain(handle, row, 1)[1])
    close(part[1], out[1])


def test_runs_do_not_disturb_one_another() -> None:
    handle = load("gpt_neo")
    tail = TailPass.build(handle, *rows_of(SHAPES), 1)
    once = tail.run(tail.clean)
    subset = [tail.run(tail.clean[rows], rows=rows) for rows in map(torch.tensor, ([1], [4, 2]))]
    close(subset[0], once[[1]])
    close(subset[1], once[[4, 2]])
    assert torch.equal(tail.run(tail.clean), once)
    assert torch.equal(tail.run(tail.clean, rows=torch.arange(5)), once)


def test_last_layer_leaves_nothing_to_run() -> None:
    handle = load("llama")
    tail = TailPass.build(handle, *rows_of(SHAPES), LAYERS - 1)
    assert torch.equal(tail.run(tail.clean), tail.clean)


def test_no_gradient_reaches_the_weights() -> None:
    handle = load("gpt2")
    tail = TailPass.build(handle, *rows_of(SHAPES), 0)
    hidden = tail.clean.clone().requires_grad_()
    tail.run(hidden).sum().backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    assert not tail.clean.requires_grad
    assert all(p.grad is None for p in handle.model.parameters())


def test_bfloat16() -> None:
    model, tokenizer = tiny_model("llama")
    handle = ModelHandle.load(model, tokenizer, dtype="bfloat16")
    tail = TailPass.build(handle, *rows_of(SHAPES), 1)
    assert tail.clean.dtype == tail.run(tail.clean).dtype == torch.bfloat16
    keys = keys_at(handle, [[5, 6, 7]], [1], [0])[0]
    assert keys.dtype == torch.float32


@pytest.mark.parametrize("kind", EAGER)
def test_float64(kind: str) -> None:
    """Masks hold the lowest float64, which no float32 softmax can take: rows stay finite."""
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model.double(), tokenizer)
    rows, starts = rows_of(SHAPES)
    tail = TailPass.build(handle, rows, starts, 1)
    out = tail.run(tail.clean[[0, 3]], rows=torch.tensor([0, 3]))
    with torch.no_grad():
        close(out[1, :5], plain(handle, rows[3], 1)[1][15:])


def test_long_prefix_beside_a_long_suffix() -> None:
    """Together longer than the model reads, each row on its own is not."""
    handle = load("llama")
    rows, starts = rows_of([(120, 110), (120, 5)])
    out = TailPass.build(handle, rows, starts, 1)
    with torch.no_grad():
        close(out.run(out.clean)[0, :10], plain(handle, rows[0], 1)[1][110:])


def test_check_notices_a_model_that_depends_on_more() -> None:
    handle = load("gpt2")
    block = handle.layers[2]

    def depends_on_length(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output * output.shape[1]

    hook = block.register_forward_hook(depends_on_length)
    with pytest.raises(ArchitectureError, match="run in parts differs"):
        TailPass.build(handle, *rows_of(SHAPES), 1)
    hook.remove()
    TailPass.build(handle, *rows_of(SHAPES), 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_tokens", [16384, 12])
def test_capture_equals_full_pass(kind: str, max_tokens: int) -> None:
    handle = load(kind)
    rows, positions = rows_of(SHAPES)
    keys, hidden = capture(
        handle, rows, positions, key_layers=[0, 2], hidden_layers=[1], max_tokens=max_tokens
    )
    assert keys[0].shape == (5, handle.d_in(0))
    inputs: list[tuple[Tensor, ...]] = []
    module = handle.edited_module(2)
    hook = module.register_forward_pre_hook(lambda m, a: inputs.append(a))
    for i, (row, at) in enumerate(zip(rows, positions, strict=True)):
        with torch.no_grad():
            close(hidden[1][i], plain(handle, row, 1)[0][at])
        close(keys[2][i], plain_keys(module, *inputs[i])[at])
        del inputs[i + 1 :]
    hook.remove()
    close(hidden_at(handle, rows, positions, 1), hidden[1])
    close(keys_at(handle, rows, positions, [2])[2], keys[2])


def test_capture_stops_early() -> None:
    handle = load("llama")
    called: list[int] = []
    hooks = [
        block.register_forward_hook(lambda m, a, o, i=i: called.append(i))
        for i, block in enumerate(handle.layers)
    ]
    capture(handle, [[5, 6, 7]], [2], key_layers=[1])
    assert called == [0]
    called.clear()
    capture(handle, [[5, 6, 7]], [2], key_layers=[0], hidden_layers=[1])
    assert called[:2] == [0, 1]
    assert 3 not in called
    for hook in hooks:
        hook.remove()


def test_key_times_matrix_is_the_output() -> None:
    handle = load("gpt2")
    outputs: list[Tensor] = []
    hook = handle.edited_module(1).register_forward_hook(lambda m, a, o: outputs.append(o))
    with torch.no_grad():
        handle.model(input_ids=torch.tensor([[5, 6, 7]]))
    hook.remove()
    key = keys_at(handle, [[5, 6, 7]], [1], [1])[1][0]
    bias = handle.edited_module(1).bias
    assert isinstance(bias, Tensor)
    close(handle.weight(1) @ key + bias, outputs[0][0, 1])


def test_nothing_to_do() -> None:
    handle = load("gpt2")
    assert capture(handle, [], [], key_layers=[0]) == ({}, {})
    assert capture(handle, [[5]], [0]) == ({}, {})


@pytest.mark.parametrize(
    ("rows", "starts", "layer", "error", "message"),
    [
        ([[5, 6]], [2], 0, ConfigError, "outside a row of 2 tokens"),
        ([[5, 6]], [-1], 0, ConfigError, "outside a row"),
        ([], [], 0, ConfigError, "No rows"),
        ([[5, 6]], [1], 9, ConfigError, "Layer 9"),
        ([[5] * 129], [1], 0, ModelError, "129 tokens; the model reads at most 128"),
    ],
)
def test_bad_rows(
    rows: list[list[int]], starts: list[int], layer: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TailPass.build(load("gpt2"), rows, starts, layer)
