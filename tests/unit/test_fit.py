"""Rows that hooks hold are learned on cut passes; losses equal those of plain full passes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.tiny import tiny_model
from torch import Tensor
from torch.nn import functional as F

from alphaedit import Fact
from alphaedit.core.errors import ConfigError, NonFiniteError
from alphaedit.methods.steps.fit import Clean, RestPasses, Training, fit, prepare
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_input, on_output

FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} is a city in", "Oslo", "Spain"),
    Fact("The capital of {} is", "Italy", "Vienna and more"),
]
CONTEXTS = ("The old man said so. ", "It is. ")
FAMILIES = ("gpt2", "llama", "gptj", "gemma2", "granite")


def wide(kind: str) -> ModelHandle:
    model, tokenizer = tiny_model(kind)
    return ModelHandle.load(model.double(), tokenizer)


def moves(handle: ModelHandle, layer: int) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """A matrix beside the output projection, and what it adds to what leaves it."""
    generator = torch.Generator().manual_seed(1)
    size = (handle.d_out(layer), handle.d_in(layer))
    matrix = (0.3 * torch.randn(size, generator=generator, dtype=torch.float64)).requires_grad_()
    return matrix, lambda entering, leaving: leaving + entering @ matrix.T


def plain_losses(
    handle: ModelHandle, layer: int, contexts: tuple[str, ...], start: str, add: Any
) -> Tensor:
    """The mean token loss of each fact, one whole pass for each row."""
    module, found = handle.edited_module(layer), []
    for fact in FACTS:
        rows = []
        for context in ("", *contexts):
            prompt, target = handle.tokens.encode_continuation(context + fact.text, fact.target)
            ids = torch.tensor([[*prompt, *target]])
            first = 0 if start == "all" else len(prompt) - 1
            keys: list[Tensor] = []

            def put(leaving: Tensor, keys: list[Tensor] = keys, first: int = first) -> Tensor:
                entering = keys[-1].reshape(*leaving.shape[:-1], -1)
                new = add(entering, leaving)
                at = torch.arange(leaving.shape[-2]) >= first
                return torch.where(at[:, None], new, leaving)

            with on_input(module, keys.append), on_output(module, put):
                logits = handle.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            rows.append(F.cross_entropy(logits, torch.tensor(target)))
        found.append(torch.stack(rows).mean())
    return torch.stack(found)


def ours(passes: RestPasses, add: Any) -> Tensor:
    parts = list(passes.losses(lambda clean: add(clean.entering, clean.leaving)))
    return torch.stack(parts).sum(0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", ["end", "all"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_losses_and_gradients_are_those_of_whole_passes(kind: str, start: Any) -> None:
    handle = wide(kind)
    for layer in (0, 1, handle.n_layers - 1):
        matrix, add = moves(handle, layer)
        passes = prepare(handle, FACTS, layer, contexts=CONTEXTS, start=start)
        mine = ours(passes, add)
        plain = plain_losses(handle, layer, CONTEXTS, start, add)
        torch.testing.assert_close(mine, plain, rtol=1e-7, atol=1e-7)
        (gradient,) = torch.autograd.grad(plain.mean(), [matrix])
        (own,) = torch.autograd.grad(mine.mean(), [matrix])
        torch.testing.assert_close(own, gradient, rtol=1e-5, atol=1e-7)
        assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_rows_in_several_passes_give_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = wide(kind)
    _, add = moves(handle, 1)
    together = ours(prepare(handle, FACTS, 1, contexts=CONTEXTS), add)
    monkeypatch.setattr("alphaedit.methods.steps.rest_pass.pass_tokens", lambda handle: 4)
    passes = prepare(handle, FACTS, 1, contexts=CONTEXTS)
    assert len(passes.chunks) > 1
    assert sum(len(clean.fact) for clean in passes.clean) == len(FACTS) * (len(CONTEXTS) + 1)
    torch.testing.assert_close(ours(passes, add), together, rtol=1e-7, atol=1e-7)


def test_what_leaves_a_block_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    # The family's norms and attention go to float32 by these, whatever the model's dtype.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(F, "softmax", lambda x, dim=-1, dtype=None: torch.softmax(x, dim))
    handle = wide("gemma2")
    moved = torch.randn(handle.d_out(1), generator=torch.Generator().manual_seed(2)).double()
    passes = prepare(handle, FACTS, 1, at="block")
    mine = torch.stack(list(passes.losses(lambda clean: clean.hidden + moved))).sum(0)
    for fact, loss in zip(FACTS, mine, strict=True):
        prompt, target = handle.tokens.encode_continuation(fact.text, fact.target)
        at = torch.arange(len(prompt) + len(target))[:, None] >= len(prompt) - 1
        with on_output(handle.block(1), partial(torch.add, moved * at)):
            logits = handle.model(input_ids=torch.tensor([[*prompt, *target]])).logits[0]
        plain = F.cross_entropy(logits[len(prompt) - 1 : -1], torch.tensor(target))
        torch.testing.assert_close(loss, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_facts_are_learned_and_the_same_each_time(optimizer: Any) -> None:
    model, tokenizer = tiny_model("llama")
    handle = ModelHandle.load(model, tokenizer)
    rate = 0.05 if optimizer == "adam" else 0.3
    training = Training(200, rate, optimizer, momentum=0.5, clip=5.0, stop_loss=1.2)
    found = []
    for _ in range(2):
        matrix = torch.zeros(handle.d_out(1), handle.d_in(1), requires_grad=True)

        def change(clean: Clean, matrix: Tensor = matrix) -> Tensor:
            return clean.leaving + clean.entering @ matrix.T

        done = fit(prepare(handle, FACTS, 1), [matrix], change, training)
        assert max(done.losses) <= 1.2
        assert 0 < done.steps < training.steps
        found.append((done, matrix.detach()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_steps_extra_terms_limits_and_rates() -> None:
    handle = wide("gpt2")
    passes = prepare(handle, FACTS, 1)
    row = torch.zeros(handle.d_out(1), dtype=torch.float64, requires_grad=True)
    seen: list[int] = []

    def change(clean: Clean) -> Tensor:
        return clean.leaving + 0 * row

    def restrain() -> None:
        row.clamp_(max=0.8)
        seen.append(len(seen))

    # The gradient of the extra term is -1: each step of SGD goes up by the rate.
    training = Training(4, 0.25, "sgd", halve_every=2)
    done = fit(passes, [row], change, training, extra=lambda: 100 - row.sum(), restrain=restrain)
    assert (done.steps, seen) == (4, [0, 1, 2, 3])
    torch.testing.assert_close(row.detach(), torch.full_like(row, 0.25 * 2 + 0.125 * 2))
    assert done.extra == pytest.approx(100 - 0.75 * len(row))
    fit(
        passes,
        [row],
        change,
        Training(9, 1.0, "sgd"),
        extra=lambda: 100 - row.sum(),
        restrain=restrain,
    )
    torch.testing.assert_close(row.detach(), torch.full_like(row, 0.8))


def test_what_cannot_be_is_refused() -> None:
    handle = wide("gpt2")
    with pytest.raises(ConfigError, match="No facts"):
        prepare(handle, [], 1)
    with pytest.raises(ConfigError, match="out of range"):
        prepare(handle, FACTS, 99)
    with pytest.raises(ConfigError, match="mixture of experts"):
        prepare(ModelHandle.load(*tiny_model("mixtral")), FACTS, 1)
    row = torch.zeros(handle.d_out(1), dtype=torch.float64, requires_grad=True)
    with pytest.raises(NonFiniteError, match="loss is nan"):
        fit(
            prepare(handle, FACTS, 1),
            [row],
            lambda clean: clean.leaving + row / 0,
            Training(1, 1.0),
        )
