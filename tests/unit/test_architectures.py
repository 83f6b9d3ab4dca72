"""Every family: what the partial passes read is what the whole model computes, and edits hold."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import EXPERTS, KINDS, LAYERS, plain_keys, tiny_model
from torch import Tensor, nn

from alphaedit import Editor, Fact
from alphaedit.core.errors import ArchitectureError, ConfigError
from alphaedit.core.patch import LowRank
from alphaedit.methods.registry import get_method
from alphaedit.model.generate import generate_ids
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import TailPass, capture
from alphaedit.model.residual_gain import gains, pull_back
from alphaedit.model.scoring import score

FACTS = [
    Fact("The capital of {} is", "France", " Oslo"),
    Fact("{} was born in the city of", "Marie Curie", " Berlin"),
]
ROWS = [[5, 9, 17, 33, 8], [12, 40, 6], [7, 7, 21, 90, 14, 61, 3, 11, 19]]
METHODS = ("alphaedit", "memit", "ft", "ultraedit")
SMALL: dict[str, Any] = {
    "layers": (1,),
    "steps": 12,
    "learning_rate": 0.3,
    "clamp": 3.0,
    "contexts": 0,
    "energy": 0.5,
    "ridge_share": 0.01,
    "moment_weight": 0.01,
}
# Gradient methods take a change of the weights, not of hidden states, by that rate.
RATES = {"ft": 0.01, "ultraedit": 0.05}


@cache
def handle_of(kind: str) -> ModelHandle:
    return ModelHandle.load(*tiny_model(kind))


def first(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def plain(handle: ModelHandle, row: list[int], layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and outgoing hidden states of `layer`, and logits, of one row by a full pass."""
    seen: dict[str, Tensor] = {}
    entering: list[Tensor] = []
    hooks = [
        handle.edited_module(layer).register_forward_pre_hook(
            lambda module, args: entering.extend(args)
        ),
        handle.block(layer).register_forward_hook(
            lambda module, args, out: seen.update(hidden=first(out))
        ),
    ]
    with torch.no_grad():
        logits = handle.model(input_ids=torch.tensor([row])).logits[0]
    for hook in hooks:
        hook.remove()
    keys = plain_keys(handle.edited_module(layer), *entering)
    return keys, seen["hidden"].reshape(len(row), -1), logits


@pytest.mark.parametrize("kind", KINDS)
def test_keys_values_and_logits_are_those_of_the_full_pass(kind: str) -> None:
    handle = handle_of(kind)
    at = [len(row) - 1 for row in ROWS]
    for layer in (0, LAYERS - 1):
        keys, values = capture(handle, ROWS, at, key_layers=[layer], hidden_layers=[layer])
        for i, row in enumerate(ROWS):
            plain_keys, hidden, _ = plain(handle, row, layer)
            assert torch.allclose(keys[layer][i], plain_keys[-1], atol=1e-4)
            assert torch.allclose(values[layer][i], hidden[-1], atol=1e-4)
    starts = [1, 0, 4]
    tail = TailPass.build(handle, ROWS, starts, 1)
    logits = tail.logits(tail.run(tail.clean))
    for i, (row, start) in enumerate(zip(ROWS, starts, strict=True)):
        expected = plain(handle, row, 1)[2][start:]
        assert torch.allclose(logits[i, : len(row) - start], expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_text_are_those_of_plain_passes(kind: str) -> None:
    handle = handle_of(kind)
    pairs = [("The capital of France is", "Oslo"), ("Marie Curie was", "a Danish")]
    for (prompt, target), found in zip(pairs, score(handle, pairs), strict=True):
        ids, answer = handle.tokens.encode_continuation(prompt, target)
        with torch.no_grad():
            logits = handle.model(input_ids=torch.tensor([[*ids, *answer]])).logits[0]
        log_p = logits[len(ids) - 1 : -1].log_softmax(-1)
        expected = log_p.gather(1, torch.tensor(answer)[:, None]).mean()
        assert found.mean_logprob == pytest.approx(float(expected), abs=1e-3)
    written = generate_ids(handle, ROWS, 6)
    for row, new in zip(ROWS, written, strict=True):
        ids = list(row)
        for token in new:
            with torch.no_grad():
                logits = handle.model(input_ids=torch.tensor([ids])).logits[0, -1]
            # Not the argmax itself: two logits may be equal but for rounding.
            assert logits[token] >= logits.max() - 1e-3
            ids.append(token)


@pytest.mark.parametrize("kind", KINDS)
def test_gains_are_the_diagonal_of_the_jacobian(kind: str) -> None:
    handle, layer, row = handle_of(kind), 1, ROWS[0]
    found = gains(handle, [row, ROWS[1]], [3, 2], layer)[0]
    base = plain(handle, row, layer)[1][3].double()
    module = handle.edited_module(layer)
    shape: list[Tensor] = []

    def moved(step: Tensor) -> Tensor:
        def push(module: nn.Module, args: Any, out: Tensor) -> Tensor:
            flat = out.reshape(-1, out.shape[-1]).clone()
            shape.append(flat[3])
            flat[3] += step
            return flat.reshape(out.shape)

        hook = module.register_forward_hook(push)
        hidden = plain(handle, row, layer)[1][3].double()
        hook.remove()
        return hidden

    # Entry by entry, along directions that leave the norm of the output as it is.
    moved(torch.zeros(handle.d_out(layer)))
    out = shape[0]
    error = []
    for i in range(0, handle.d_out(layer), 5):
        step = torch.zeros_like(out)
        step[i] = 1.0
        step -= (step @ out) / (out @ out) * out
        change = (moved(3e-3 * step) - base) / 3e-3
        error.append(float((change - found * step).norm() / (found * step).norm()))
    # OPT with a norm after the sum also subtracts the mean, which a diagonal cannot.
    assert max(error) < (0.6 if kind == "opt" else 2e-2)
    residual = torch.randn(handle.d_out(layer), 1, generator=torch.Generator().manual_seed(0))
    back = pull_back(handle, [row], [3], layer, residual)
    direct = kind not in ("gemma2", "gemma3_text", "olmo2", "granite", "opt", "qwen2_moe")
    assert torch.equal(back, residual) == direct


@pytest.mark.parametrize("kind", KINDS)
def test_a_pulled_back_change_moves_the_residual_stream_as_wanted(kind: str) -> None:
    handle, layer, row = handle_of(kind), 1, ROWS[0][:4]
    keys, before, _ = plain(handle, row, layer)
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(handle.d_out(layer), 1, generator=generator)
    wanted *= 0.02 * before[3].norm() / wanted.norm()
    output = pull_back(handle, [row], [3], layer, wanted)
    along = keys[3] / keys[3].square().sum()
    sites = handle.sites(layer)
    parts = zip(sites, along.split([handle.d_in(site) for site in sites]), strict=True)
    changes = {handle.edited_name(site): LowRank(output, part[None]) for site, part in parts}
    with handle.temporarily(changes):
        moved = plain(handle, row, layer)[1][3] - before[3]
    error = float((moved - wanted[:, 0]).norm() / wanted.norm())
    # A norm takes away what only changes the length of its input: about 1 / sqrt(32) of it.
    assert error < (0.35 if not handle.adds_directly else 1e-3)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", KINDS)
def test_edit_ask_revert_save_load(kind: str, cache_dir: Path, tmp_path: Path) -> None:
    editor = Editor.from_pretrained(*tiny_model(kind), tokens=300, cache_dir=cache_dir)
    clean = {k: v.clone() for k, v in editor.handle.model.state_dict().items()}
    said = editor.ask("The capital of France is", 4)
    for method in METHODS:
        over = {**SMALL, "learning_rate": RATES.get(method, SMALL["learning_rate"])}
        if not getattr(get_method(method), "searches", True):
            over = {k: v for k, v in over.items() if k in ("layers", "steps", "learning_rate")}
        if kind in EXPERTS and method in RATES:
            with pytest.raises(ConfigError, match=f"{method} changes one matrix.*mixture"):
                editor.edit(FACTS, method, **over)
            continue
        edit = editor.edit(FACTS, method, **over)
        gained = [a.p_target - b.p_target for a, b in zip(edit.after, edit.before, strict=True)]
        # Random weights hardly let their answers be moved by one position's hidden state.
        assert sum(gained) > 0 or method != "ft"
        now = editor.handle.model.state_dict()
        changed = {k for k in clean if not torch.equal(clean[k], now[k])}
        assert changed == {editor.handle.edited_name(1)}
        if method == "alphaedit":
            editor.save(tmp_path / "session")
            after = {k: v.clone() for k, v in now.items()}
        editor.revert()
        assert all(torch.equal(clean[k], v) for k, v in editor.handle.model.state_dict().items())
    assert editor.ask("The capital of France is", 4) == said
    fresh = Editor.from_pretrained(*tiny_model(kind), tokens=300, cache_dir=cache_dir)
    fresh.load(tmp_path / "session")
    assert all(torch.equal(after[k], v) for k, v in fresh.handle.model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", *EXPERTS])
def test_half_precision(kind: str, dtype: torch.dtype, cache_dir: Path) -> None:
    model, tokenizer = tiny_model(kind)
    editor = Editor.from_pretrained(model.to(dtype), tokenizer, tokens=300, cache_dir=cache_dir)
    clean = {k: v.clone() for k, v in model.state_dict().items()}
    assert editor.statistics.second_moment(editor.handle.sites(1)[0]).dtype == torch.float32
    first_edit = editor.edit(FACTS[:1], "memit", **SMALL)
    editor.edit(FACTS[1:], "memit", **SMALL)
    for name, master in editor.handle.snapshot(first_edit.patch.weights).items():
        assert master.dtype == torch.float32
        parameter, _, expert = name.removesuffix("]").partition("[")
        held = model.state_dict()[parameter]
        assert torch.equal(master.to(dtype), held[int(expert)] if expert else held)
    assert first_edit.after[0].p_target > first_edit.before[0].p_target
    editor.revert()
    editor.revert()
    assert all(torch.equal(clean[k], v) for k, v in model.state_dict().items())


def test_logits_changed_in_an_unknown_way_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_model("llama")
    plain_forward = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        out = plain_forward(*args, **kwargs)
        out.logits = out.logits.square()
        return out

    monkeypatch.setattr(model, "forward", forward)
    handle = ModelHandle.load(model, tokenizer)
    with pytest.raises(ArchitectureError, match="changes its logits after the head"):
        handle.logits(torch.zeros(1, handle.d_out(0)))
