"""What is skipped, shared, kept or cut into pieces changes no result: float64, random shapes."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from benchmarks.plain import plain_target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_model
from torch import Tensor

from alphaedit.core.errors import ConfigError, ModelError
from alphaedit.core.fact import Fact
from alphaedit.core.prefetch import prefetch
from alphaedit.linalg.solve import System
from alphaedit.linalg.subspace import Subspace
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps import target_value
from alphaedit.methods.steps.keys import BatchKeys, keys_and_values
from alphaedit.methods.steps.target_value import find_targets
from alphaedit.methods.systems import Base, Systems
from alphaedit.model.handle import ModelHandle
from alphaedit.model.memory import affordable, is_out_of_memory, kept_for_gradients
from alphaedit.model.precision import computing_in

SUBJECTS = ["Danielle Darrieux", "Oslo", "Paris Hilton", "the old river", "Rome"]
PROMPTS = ["The mother tongue of {} is", "{} was born in", "In the north, {} lies", "{}"]
TARGETS = ["English", "Rome", "is the capital of Sweden", "a city"]
CONTEXTS = ["The old man said so. ", "Therefore it is. ", "It is. "]
FACTS = st.lists(
    st.builds(Fact, *(st.sampled_from(x) for x in (PROMPTS, SUBJECTS, TARGETS))),
    min_size=1,
    max_size=5,
)
few = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def wide(kind: str) -> ModelHandle:
    model, tokenizer = tiny_model(kind)
    return ModelHandle.load(model.double(), tokenizer)


MODELS = {kind: wide(kind) for kind in ("gpt2", "llama")}


def settings_of(layer: int, steps: int, **more: object) -> Hyperparameters:
    values = {"learning_rate": 0.05, "clamp": 3.0, "stop_loss": 0.0, **more}
    return Hyperparameters(layers=(layer,), steps=steps, **values)  # type: ignore[arg-type]


@few
@given(
    st.sampled_from(sorted(MODELS)),
    FACTS,
    st.integers(0, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 6.0]),
)
def test_search_equals_the_plain_loop(
    kind: str, facts: list[Fact], contexts: int, layer: int, stop: float
) -> None:
    handle = MODELS[kind]
    hp = settings_of(layer, 4, stop_loss=stop)
    found = find_targets(handle, facts, layer, CONTEXTS[:contexts], hp)
    for i, fact in enumerate(facts):
        value, losses = plain_target(handle, fact, layer, CONTEXTS[:contexts], hp)
        # Llama takes its softmax in float32 whatever the model's dtype.
        assert losses == pytest.approx(found.losses[i], rel=1e-5)
        torch.testing.assert_close(found.values[:, i], value, rtol=1e-4, atol=1e-5)


@few
@given(st.sampled_from(sorted(MODELS)), FACTS, st.integers(0, 3), st.integers(0, 2))
def test_layerwise_keys_equals_passes_layer_by_layer(
    kind: str, facts: list[Fact], contexts: int, first: int
) -> None:
    handle, layers = MODELS[kind], range(first, 4)
    saved = handle.snapshot([handle.edited_name(i) for i in layers])
    batch = BatchKeys(handle, facts, CONTEXTS[:contexts], layers)
    try:
        for layer in layers:
            ours = batch.at(layer)
            plain = keys_and_values(handle, facts, CONTEXTS[:contexts], layer, 3)
            for a, b in zip(ours, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            weight = handle.weight(layer)
            handle.set_weight(layer, weight + 0.1 * weight.std() * torch.randn_like(weight))
    finally:
        handle.restore(saved)


def test_a_batch_in_pieces_equals_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [Fact(p, s, t) for p, s, t in zip(PROMPTS * 2, SUBJECTS, TARGETS * 2, strict=False)]
    handle, hp = MODELS["gpt2"], settings_of(1, 6)
    whole = find_targets(handle, facts, 1, CONTEXTS, hp)
    monkeypatch.setattr(target_value, "FIRST_TOKENS", 40)
    pieces = find_targets(handle, facts, 1, CONTEXTS, hp)
    torch.testing.assert_close(pieces.values, whole.values)
    assert [len(a) for a in pieces.losses] == [len(b) for b in whole.losses]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_too_little_memory_halves_the_pass(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes of more than `most` facts fail: the result is the same, in smaller ones."""
    facts = [Fact(p, s, t) for p, s, t in zip(PROMPTS * 2, SUBJECTS, TARGETS * 2, strict=False)]
    handle, hp = MODELS["gpt2"], settings_of(1, 3)
    whole = find_targets(handle, facts, 1, (), hp)
    search, sizes = target_value.search, list[int]()

    def small(groups: object, count: int, *rest: object) -> object:
        sizes.append(count)
        if count > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return search(groups, count, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(target_value, "search", small)
    found = find_targets(handle, facts, 1, (), hp)
    torch.testing.assert_close(found.values, whole.values)
    assert sizes[0] == len(facts)
    assert sum(size for size in sizes if size <= most) == len(facts)


def test_one_fact_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> object:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried")

    monkeypatch.setattr(target_value, "search", never)
    with pytest.raises(ModelError, match="does not fit into memory"):
        find_targets(MODELS["gpt2"], [Fact(PROMPTS[0], "Oslo", "Rome")], 1, (), settings_of(1, 3))


def test_other_errors_are_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> object:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(target_value, "search", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        find_targets(MODELS["gpt2"], [Fact(PROMPTS[0], "Oslo", "Rome")], 1, (), settings_of(1, 3))


def test_kept_bytes_are_those_of_the_activations() -> None:
    layer = torch.nn.Linear(64, 128)
    x = torch.randn(10, 64, requires_grad=True)
    with kept_for_gradients(layer.parameters()) as kept:
        layer(x).tanh().exp()
    # tanh keeps its result, exp its own; the linear layer its weight, which is there anyway.
    assert kept.bytes in (2 * 10 * 128 * 4, 2 * 10 * 128 * 4 + x.nbytes)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shapes"))
    few_tokens = affordable(torch.device("cpu"), 100, 1 << 40)
    assert 1 <= few_tokens < affordable(torch.device("cpu"), 100, 1 << 20)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(6, 20),
    st.lists(st.integers(1, 6), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
def test_kept_systems_equal_new_ones(
    d: int, batches: list[int], weighed: bool, projected: bool, forget: int
) -> None:
    """Batch after batch, also after a step back: the same change as by a system made anew."""
    g = torch.Generator().manual_seed(d)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    moment = draw(d, 2 * d)
    space = Subspace(d, torch.linalg.qr(draw(d, d // 2))[0], complement=True) if projected else None
    base = Base(0.7, space, moment @ moment.T / d if weighed else None, 2.0 if weighed else 0.0)
    systems, state = Systems(), SequentialState()
    history = [state]
    for number, size in enumerate(batches):
        if number == forget:
            state = history[0]
        keys, residual = draw(d, size), draw(3, size)
        past = state.past_keys.get(0)
        kept = systems.of(0, base, past, state.batches).solve(keys, residual).matrix()
        new = System(
            ridge=base.ridge,
            subspace=base.subspace,
            second_moment=base.second_moment,
            moment_weight=base.moment_weight,
            past_keys=past,
        )
        torch.testing.assert_close(kept, new.solve(keys, residual).matrix(), rtol=1e-8, atol=1e-9)
        # Bits do not depend on what was kept.
        again = Systems().of(0, base, past, state.batches).solve(keys, residual).matrix()
        assert torch.equal(kept, again)
        state = state.absorb({0: keys})
        history.append(state)


def test_another_base_is_not_taken_for_the_kept_one() -> None:
    g = torch.Generator().manual_seed(0)
    past, keys = torch.randn(8, 4, generator=g), torch.randn(8, 2, generator=g)
    residual = torch.randn(3, 2, generator=g)
    systems = Systems()

    def solved(ridge: float, past: Tensor) -> Tensor:
        return systems.of(0, Base(ridge), past).solve(keys, residual).matrix()

    first = solved(1.0, past)
    for ridge, other in ((2.0, past), (1.0, past[:, :2]), (1.0, past.flip(1)), (1.0, -past)):
        expected = System(ridge=ridge, past_keys=other).solve(keys, residual).matrix()
        torch.testing.assert_close(solved(ridge, other), expected)
        torch.testing.assert_close(solved(1.0, past), first)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neo", "llama", "bloom", "gpt_neox"])
def test_search_in_bfloat16(kind: str) -> None:
    """Layers behind the edited one round, the others and the weights stay as they are."""
    model, tokenizer = tiny_model(kind)
    handle = ModelHandle.load(model, tokenizer)
    before = {k: v.clone() for k, v in handle.model.state_dict().items()}
    facts = [Fact(p, s, t) for p, s, t in zip(PROMPTS, SUBJECTS, TARGETS, strict=False)]
    hp = settings_of(1, 5)
    exact = find_targets(handle, facts, 1, CONTEXTS, hp)
    half = find_targets(
        handle, facts, 1, CONTEXTS, hp.model_copy(update={"search_dtype": "bfloat16"})
    )
    assert torch.equal(half.clean, exact.clean)
    assert half.values.dtype == torch.float32
    moved = (exact.values - exact.clean).norm()
    assert 0 < (half.values - exact.values).norm() < 0.2 * moved
    assert all(torch.equal(v, before[k]) for k, v in handle.model.state_dict().items())
    assert {p.dtype for p in handle.model.parameters()} == {torch.float32}
    assert all(len(row) == 5 and math.isfinite(row[-1]) for row in half.losses)


def test_half_precision_leaves_after_an_error() -> None:
    model, tokenizer = tiny_model("gpt2")
    handle = ModelHandle.load(model, tokenizer)
    handle.model.set_attn_implementation("sdpa")

    def fail() -> None:
        with computing_in(handle, "bfloat16", after=1):
            assert handle.head.weight.dtype == torch.bfloat16
            assert handle.embed.weight.dtype == torch.float32
            assert handle.layers[1].mlp.c_proj.weight.dtype == torch.float32
            assert handle.model.config._attn_implementation == "eager"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert {p.dtype for p in handle.model.parameters()} == {torch.float32}
    assert handle.model.config._attn_implementation == "sdpa"
    assert handle.head.weight is handle.embed.weight


def test_ahead_keeps_order_and_passes_errors_on() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise ConfigError("No more.", remedy="None.")

    assert list(prefetch(range(1000), most=3)) == list(range(1000))
    assert list(itertools.islice(prefetch(itertools.count()), 10)) == list(range(10))
    found: list[int] = []
    with pytest.raises(ConfigError, match="No more"):
        found.extend(prefetch(broken()))
    assert found == [0, 1, 2, 3, 4]
