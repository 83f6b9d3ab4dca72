"""AlphaEdit with MEMIT's weight, its facts by the layers that reach them."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from tests.plain import family
from tests.tiny import EXPERTS, tiny_model
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.core.patch import LowRank
from alphaedit.editor.session import Editor
from alphaedit.linalg.subspace import null_space
from alphaedit.locate import weight
from alphaedit.locate.preset import _of_preset
from alphaedit.locate.weight import (
    FACTOR,
    GIVEN_UP,
    LIGHT,
    LOST,
    MOST,
    PHASE,
    TrialEdits,
    _heaviest,
    weight_inside,
)
from alphaedit.locate.well_known import probes
from alphaedit.methods import locate_then_edit
from alphaedit.methods.presets import preset
from alphaedit.methods.registry import get_method
from alphaedit.methods.steps.keys import prompts_in_context
from alphaedit.methods.steps.target_value import Targets
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import capture

FACTS = [
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
    Fact("{} was born in the city of", "Paris Hilton", "Rome"),
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("{} lives in", "Marie Curie", "Oslo"),
]
LAYERS = (0, 1, 2)
SETTINGS: dict[str, Any] = {
    "layers": LAYERS,
    "steps": 4,
    "contexts": 2,
    "energy": 0.6,
    "moment_weight": 5.0,
    "clamp": 2.0,
}


def made(kind: str = "llama") -> Editor:
    model, tokenizer = tiny_model(kind)
    return Editor.from_pretrained(model, tokenizer, tokens=2000, corpus="general", progress=False)


def plain_key(handle: ModelHandle, fact: Fact, contexts: tuple[str, ...], layer: int) -> Tensor:
    """A fact's key: half of it the bare prompt's, each from a pass of its own."""
    ids, lasts = prompts_in_context(handle, [fact], contexts)
    bare, *inside = [
        capture(handle, [row], [last], key_layers=[layer])[0][layer][0].double()
        for row, last in zip(ids, lasts, strict=True)
    ]
    return (bare + torch.stack(inside).mean(dim=0)) / 2


def plain_batch(
    editor: Editor,
    facts: Sequence[Fact],
    values: Tensor,
    past: dict[int, Tensor],
    shares: str,
) -> dict[int, Tensor]:
    """Each layer's change as the formulas have it, dense; `past` gets the keys."""
    handle, known, contexts = editor.handle, editor.statistics, editor.state.contexts
    assert contexts is not None

    def measured(layer: int) -> tuple[Tensor, Tensor, Tensor]:
        c = known.second_moment(layer).double()
        c = c + 1e-4 * c.diagonal().mean() * torch.eye(len(c))
        space = null_space(known.spectrum(layer), energy=SETTINGS["energy"])
        n = torch.linalg.qr(space.null_basis().double()).Q
        keys = [plain_key(handle, fact, contexts, layer) for fact in facts]
        return torch.stack(keys, dim=1), c, n

    weight, reach, changes = SETTINGS["moment_weight"], [], {}
    for layer in LAYERS:
        keys, c, n = measured(layer)
        inside = n.T @ (weight * c + past[layer] @ past[layer].T) @ n
        found = (keys.T @ n @ torch.linalg.inv(inside) @ n.T @ keys).diagonal()
        reach.append(found / found.mean())
    new = {}
    with ExitStack() as applied:
        for index, layer in enumerate(LAYERS):
            keys, c, n = measured(layer)
            ids, lasts = prompts_in_context(handle, facts, ())
            hidden = capture(handle, ids, lasts, hidden_layers=LAYERS[-1:])[1][LAYERS[-1]].T
            share = reach[index] / torch.stack(reach[index:]).sum(dim=0)
            if shares == "even":
                share = torch.full_like(share, 1 / (len(LAYERS) - index))
            wanted, every = (values - hidden.double()) * share, torch.eye(n.shape[1]).double()
            inside = family(n.T @ keys, wanted, every, n.T @ past[layer], n.T @ c @ n, weight, 0.0)
            delta = inside @ n.T
            change = LowRank(delta, torch.eye(len(c)).double())
            applied.enter_context(handle.temporarily({handle.edited_name(layer): change}))
            changes[layer], new[layer] = delta, keys
    for layer, keys in new.items():
        past[layer] = torch.cat([past[layer], keys], dim=1)
    return changes


@pytest.mark.parametrize("shares", ["even", "reach"])
def test_two_batches_as_the_formulas_are_written(shares: str) -> None:
    editor = made()
    handle = editor.handle
    given = {**SETTINGS, "layer_shares": shares}
    past = {layer: torch.zeros(handle.d_in(0), 0).double() for layer in LAYERS}
    for seed, facts in enumerate((FACTS[:2], FACTS[2:])):
        generator = torch.Generator().manual_seed(seed)
        values = 3 * torch.randn(handle.d_out(0), len(facts), generator=generator)
        found = Targets(values, torch.zeros_like(values), [[0.0] for _ in facts])
        before = {n: w.detach().clone() for n, w in handle.model.named_parameters()}
        with mock.patch.object(locate_then_edit, "find_targets", return_value=found):
            edit = editor.edit(facts, "alphaedit-weighted", **given)
        after = {n: w.detach().clone() for n, w in handle.model.named_parameters()}
        load(handle, before)
        expected = plain_batch(editor, facts, values.double(), past, shares)
        load(handle, after)
        for layer in LAYERS:
            change = edit.patch.weights[handle.edited_name(layer)]
            assert change.rank == len(facts)
            torch.testing.assert_close(
                change.matrix().double(), expected[layer], rtol=1e-3, atol=1e-4
            )


def load(handle: ModelHandle, weights: dict[str, Tensor]) -> None:
    """Put weights in place."""
    with torch.no_grad():
        for name, weight in handle.model.named_parameters():
            weight.copy_(weights[name])


def test_one_fact_is_spread_evenly() -> None:
    editor = made()
    changes = []
    for shares in ("even", "reach"):
        edit = editor.edit(FACTS[:1], "alphaedit-weighted", **SETTINGS, layer_shares=shares)
        changes.append({name: delta.matrix() for name, delta in edit.patch.weights.items()})
        editor.revert()
    for name, even in changes[0].items():
        torch.testing.assert_close(changes[1][name], even, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", EXPERTS)
def test_mixtures_of_experts(kind: str) -> None:
    editor = made(kind)
    clean = {n: w.detach().clone() for n, w in editor.handle.model.named_parameters()}
    edit = editor.edit(
        FACTS, "alphaedit-weighted", **{**SETTINGS, "steps": 12, "moment_weight": 0.1}
    )
    assert all(change.rank <= len(FACTS) for change in edit.patch.weights.values())
    before, after = (sum(a.p_target for a in side) for side in (edit.before, edit.after))
    assert after > before
    editor.revert()
    assert all(torch.equal(w, clean[n]) for n, w in editor.handle.model.named_parameters())


def test_a_preset_without_it_gives_the_weight_of_memit_with_history() -> None:
    method = get_method("alphaedit-weighted")
    values = _of_preset("gemma-3-270m", method, {}, 18)
    history = preset("gemma-3-270m", "memit-history", shared=False)
    assert values["moment_weight"] == history["moment_weight"]
    assert values["energy"] == preset("gemma-3-270m", "alphaedit", shared=False)["energy"]


def test_the_measured_weight_gives_up_as_much_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_model("llama")
    editor = Editor.from_pretrained(
        model, tokenizer, tokens=2000, corpus="general", cache_dir=tmp_path, progress=False
    )
    handle, known = editor.handle, editor.statistics
    values = {"layers": (0, 1), "energy": 0.6}
    found = weight_inside(handle, known, values, {}, 0)["moment_weight"]
    lost = []
    for layer in values["layers"]:
        keys = [plain_key_alone(handle, probe.fact, layer) for probe in probes(handle, seed=0)]
        c = known.second_moment(layer).double()
        c = c + 1e-4 * c.diagonal().mean() * torch.eye(len(c))
        n = null_space(known.spectrum(layer), energy=0.6).null_basis().double()
        inside = torch.linalg.inv(found * n.T @ c @ n)
        lost.append(1 / torch.stack([k @ n @ inside @ n.T @ k for k in keys]).mean())
    assert float(torch.stack(lost).mean()) == pytest.approx(GIVEN_UP, rel=0.06)  # two digits
    monkeypatch.setattr(weight, "_given_up", None)
    assert weight_inside(handle, known, values, {}, 0) == {"moment_weight": found}
    assert weight_inside(handle, known, values, {"moment_weight": 3.0}, 0) == {}
    assert weight_inside(handle, known, {"energy": 0.6}, {}, 0) == {}


def plain_key_alone(handle: ModelHandle, fact: Fact, layer: int) -> Tensor:
    """The key of a fact's bare prompt."""
    ids, lasts = prompts_in_context(handle, [fact], ())
    return capture(handle, ids, lasts, key_layers=[layer])[0][layer][0].double()


@pytest.mark.parametrize("knee", [15.0, 80.0, 2400.0])
def test_the_weight_is_the_heaviest_at_which_trials_lose_little(knee: float) -> None:
    asked: list[float] = []

    class Fake:
        def reaches(self, tried: float) -> float:
            asked.append(tried)
            return 0.4 if tried <= knee else 0.37

    at_one = 0.002
    found = _heaviest(Fake(), at_one)  # type: ignore[arg-type]
    assert found is not None
    assert found <= knee < found * FACTOR**0.5 * 1.01
    assert len(asked) <= MOST
    assert asked[0] == pytest.approx(LIGHT / at_one)


def test_trials_that_say_nothing_tell_nothing_of_the_weight() -> None:
    class Fake:
        def reaches(self, tried: float) -> float:
            return 0.01

    assert _heaviest(Fake(), 0.002) is None  # type: ignore[arg-type]


def test_at_the_measured_weight_a_trained_model_reaches_paraphrases() -> None:
    editor = Editor.from_pretrained("bundled-small", progress=False)
    values = {"layers": (0, 1, 2), "energy": 0.83, "clamp": 1.5, "learning_rate": 0.38, "steps": 20}
    told: list[tuple[str, int, int]] = []
    known = editor.statistics.rough()
    known.prepare((0, 1, 2))

    def say(phase: str, done: int, total: int) -> None:
        told.append((phase, done, total))

    found = weight_inside(editor.handle, known, values, {}, 0, say)["moment_weight"]
    trial = TrialEdits(editor.handle, known, {**values, "layers": (0, 1, 2)}, 0)
    free, at, beyond = (trial.reaches(w) for w in (found / 100, found, 2 * found))
    assert at >= (1 - LOST) * free - 1e-3 > beyond
    assert told[-1] == (PHASE, MOST, MOST)
