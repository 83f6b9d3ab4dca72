"""What every weight-editing method promises, on the bundled model and on other families."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import SENTENCES, tiny_model

from alphaedit import Editor, Fact
from alphaedit.core.errors import ConfigError, ModelError, UnknownNameError
from alphaedit.methods.registry import methods
from alphaedit.world.facts import World
from alphaedit.world.records import records

# Those that leave the weights alone: tests/unit/test_contract.py. Trained: test_learned_editors.py.
# AnyEdit with other settings: tests/unit/test_long_targets.py.
VARIANTS = {"anyedit-plus", "muke"}
METHODS = sorted(
    name
    for name, method in methods().items()
    if not method.installs and not method.needs.trained_network and name not in VARIANTS
)
# Adam on shuffled batches, or fact after fact: the order counts.
ORDERED = {"rome", "glame", "ft", "ft-l", "locft-bf", "lora"}
LEARNING = {"alphaedit", "alphaedit-published", "memit-history", "nse", "anyedit", "ultraedit"}
SMALL: dict[str, Any] = {
    "steps": 3,
    "contexts": 1,
    "energy": 0.9,
    "moment_weight": 10.0,
}
OWN: dict[str, dict[str, Any]] = {"glame": {"graph": "world"}}
FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("The capital of {} is", "Spain", "Paris"),
    Fact("{} lives in", "Marie Curie", "a house by the river"),
]


def some_facts(count: int, seed: int = 0) -> list[Fact]:
    world = World.load().largest(500)  # known to both bundled models
    rows = [r["requested_rewrite"] for r in records(world, count, seed=seed)]
    return [
        Fact(r["prompt"], r["subject"], r["target_new"]["str"], r["target_true"]["str"])
        for r in rows
    ]


@pytest.fixture(scope="module")
def model() -> Editor:
    editor = Editor.from_pretrained("bundled", tokens=12_000)
    editor.statistics.prepare(range(8))
    return editor


@pytest.fixture(scope="module")
def small_model() -> Editor:
    editor = Editor.from_pretrained("bundled-small", tokens=12_000)
    editor.statistics.prepare(range(6))
    return editor


@pytest.fixture
def bundled(model: Editor) -> Iterator[Editor]:
    """An editor on the shared model, which is left as it was found."""
    editor = Editor(model.handle, model.statistics)
    yield editor
    while editor.edits:
        editor.revert()


@pytest.fixture
def small(small_model: Editor) -> Iterator[Editor]:
    """As `bundled`, on the small model."""
    editor = Editor(small_model.handle, small_model.statistics)
    yield editor
    while editor.edits:
        editor.revert()


def weights(editor: Editor) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in editor.handle.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], base: Any) -> bool:
    """Equal to rounding, relative to what was changed."""
    for name in one:
        change = float((other[name] - base[name]).double().norm())
        if float((one[name] - other[name]).double().norm()) > 1e-2 * change + 1e-6:
            return False
    return True


# Variants of these are slow here; on tiny models the contract holds all of them to it.
FIRST = {"alphaedit", "memit-history", "rome", "ft", "glame", "ultraedit", "anyedit", "emmet"}


@pytest.mark.parametrize(
    "method",
    [m if m in FIRST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_edit_holds_and_revert_is_exact(method: str, bundled: Editor) -> None:
    clean = weights(bundled)
    edit = bundled.edit(some_facts(8), method)
    better = sum(a.p_target > b.p_target for a, b in zip(edit.after, edit.before, strict=True))
    assert better >= 7
    told = sum(a.p_target > (a.p_truth or 0) for a in edit.after)
    assert told >= (6 if method != "ultraedit" else 1)
    changed = {n for n, w in weights(bundled).items() if not torch.equal(w, clean[n])}
    assert changed == set(edit.patch.weights)
    bundled.revert()
    assert same(weights(bundled), clean)


@pytest.mark.parametrize(
    "method",
    [
        # Of those that learn from batch to batch; that others load is in the contract too.
        method if method in LEARNING else pytest.param(method, marks=pytest.mark.slow)
        for method in METHODS
    ],
)
def test_save_load_and_go_on(method: str, small: Editor, tmp_path: Path) -> None:
    facts = some_facts(9)
    small.edit(facts[:3], method)
    small.edit(facts[3:6], method)
    small.save(tmp_path / "session")
    small.edit(facts[6:], method)
    whole, state = weights(small), small.state
    while small.edits:
        small.revert()
    again = Editor(small.handle, small.statistics)
    again.load(tmp_path / "session")
    again.edit(facts[6:], method)
    try:
        assert same(weights(again), whole)
        assert again.state.edits == state.edits == 9
        assert again.state.memory.keys() == state.memory.keys()
        assert all(torch.equal(again.state.memory[k], v) for k, v in state.memory.items())
        again.revert()
        again.revert()
        assert again.state.edits == 3
    finally:
        while again.edits:
            again.revert()


@pytest.mark.parametrize(
    "method",
    [
        method if method in ("alphaedit", "nse") else pytest.param(method, marks=pytest.mark.slow)
        for method in METHODS
        if method not in ORDERED
    ],
)
def test_order_of_facts_in_a_batch(method: str, bundled: Editor) -> None:
    facts, base = some_facts(4), weights(bundled)
    bundled.edit(facts, method)
    one = weights(bundled)
    bundled.revert()
    bundled.edit(facts[::-1], method)
    assert close(weights(bundled), one, base)


# Of the two that are slow here, tests/unit/test_contract.py edits each with every method too.
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "kind",
    [
        "gpt_neox",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gpt2", "llama")),
    ],
)
def test_other_families(method: str, kind: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    editor = Editor.from_pretrained(
        *tiny_model(kind), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )
    clean = weights(editor)
    one_layer = method in ORDERED
    over = {**SMALL, **OWN.get(method, {}), "layers": (1,) if one_layer else (1, 2)}
    for facts in (FACTS[:2], FACTS[2:]):
        edit = editor.edit(facts, method, **over)
        assert edit.patch.weights
    after = weights(editor)
    assert not same(after, clean)
    editor.save(tmp_path / "session")
    editor.revert()
    editor.revert()
    assert same(weights(editor), clean)
    editor.load(tmp_path / "session")
    assert same(weights(editor), after)


PLUGINS = ["project", "norm-anchor", "early-stop", "ridge", "sphere", "rect", "prune", "nse"]


@pytest.mark.parametrize("plugin", [*PLUGINS, "queue", "refresh-projector:every=3"])
def test_plugins(plugin: str, small: Editor, tmp_path: Path) -> None:
    """Each changes the result, keeps its memory through save and load, and leaves no trace."""
    facts, clean = some_facts(8), weights(small)
    method = "alphaedit" if plugin.startswith("refresh") else "memit"
    over = {"plugins": (plugin,)}
    small.edit(facts[:4], method)
    small.edit(facts[4:], method)
    plain = weights(small)
    small.revert()
    small.revert()
    small.edit(facts[:4], method, **over)
    small.save(tmp_path / "session")
    edit = small.edit(facts[4:], method, **over)
    with_plugin = weights(small)
    assert edit.hyperparameters["plugins"] == [plugin]
    assert not same(with_plugin, plain) or plugin == "prune"
    assert sum(a.p_target > b.p_target for a, b in zip(edit.after, edit.before, strict=True)) >= 3
    small.revert()
    small.revert()
    assert same(weights(small), clean)
    small.load(tmp_path / "session")
    small.edit(facts[4:], method, **over)
    assert same(weights(small), with_plugin)


def test_fine_tuning_in_the_null_space_goes_on_from_the_projected_change(small: Editor) -> None:
    """And so finds what is lost when the change is projected at the end."""
    facts, over = some_facts(6), {"steps": 15, "learning_rate": 0.01, "energy": 0.99}
    plain = small.edit(facts, "ft", **over)
    (name,) = plain.patch.weights
    small.revert()
    inside = small.edit(facts, "ft", plugins=("project",), **over)
    (layer,) = inside.hyperparameters["layers"]
    space = small.statistics.subspace(layer, energy=0.99)
    change = inside.patch.weights[name].matrix()
    assert torch.allclose(space.project_rows(change), change, atol=1e-5)
    p = sum(a.p_target for a in inside.after) / len(facts)
    small.revert()
    clean = small.handle.snapshot([name])
    projected = space.project_rows(plain.patch.weights[name].matrix())
    small.handle.set_weight(layer, small.handle.weight(layer) + projected)
    at_the_end = sum(a.p_target for a in small.answers(facts)) / len(facts)
    small.handle.restore(clean)
    assert p > at_the_end + 0.2
    assert p > 0.5


@pytest.mark.parametrize(
    ("method", "plugin", "message"),
    [
        ("ft", "ridge", "does not fit ft"),
        ("ft", "norm-anchor", "does not fit ft"),
        ("rome", "ridge", "does not fit rome"),
        ("prune", "prune", "twice"),
        ("memit", "refresh-projector", "null space"),
        ("memit", "sphere:strength", "not an option"),
        ("memit", "sphere:strength=much", "Give a number"),
    ],
)
def test_plugins_that_do_not_fit(method: str, plugin: str, message: str, bundled: Editor) -> None:
    clean = weights(bundled)
    with pytest.raises(ConfigError) as error:
        bundled.edit(some_facts(2), method, plugins=(plugin,))
    assert message in f"{error.value}"
    assert same(weights(bundled), clean)
    with pytest.raises(UnknownNameError, match="spere"):
        bundled.edit(some_facts(2), "memit", plugins=("spere",))


@pytest.mark.parametrize("method", ["alphaedit", "anyedit", "rome", "ft", "ultraedit"])
def test_a_target_longer_than_the_model_reads(method: str, bundled: Editor) -> None:
    clean = weights(bundled)
    fact = Fact("The mother tongue of {} is", "Danielle Darrieux", " ".join(["Italian"] * 300))
    with pytest.raises(ModelError, match="the model reads"):
        bundled.edit(fact, method)
    assert same(weights(bundled), clean)


def test_a_long_target_is_said_in_full(bundled: Editor) -> None:
    facts = [Fact("The mother tongue of {} is", "Danielle Darrieux", " ".join(["Italian"] * 20))]
    edit = bundled.edit(facts, "anyedit", chunk_words=5)
    assert edit.patch.weights[next(iter(edit.patch.weights))].rank == 4
    assert edit.after[0].p_target > 10 * edit.before[0].p_target
    assert json.dumps(edit.hyperparameters)
