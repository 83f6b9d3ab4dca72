"""A gate: what opens it, what stays shut to the last bit, and what several edits make together."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import EXPERTS, KINDS, SENTENCES, tiny_model
from torch import Tensor

from alphaedit import Editor, Fact
from alphaedit.core.change import HookChange
from alphaedit.core.errors import ConfigError, EditFileError
from alphaedit.linalg.solve import RomeSystem
from alphaedit.methods.in_force import install
from alphaedit.methods.steps.gate import ALIKE, FIRST, Entries, Gate, Look, likeness, numbered, same
from alphaedit.methods.steps.gate_border import HIGHEST, LOWEST, measured
from alphaedit.model.route import Route, request
from alphaedit.stats.drift import HeldOut

D = 6
OVER = {"layers": (0, 1, 2), "look": 0, "gate": 0.97, "steps": 10, "contexts": 0}
FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("The capital of {} is", "Italy", "Vienna and more"),
]


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    return Editor.from_pretrained(
        *tiny_model("llama"), corpus=str(text), tokens=400, cache_dir=tmp_path / "cache"
    )


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def moment(seed: int) -> Tensor:
    keys = drawn(D, 40, seed=seed)
    return keys @ keys.T / 40


def said(editor: Editor, prompts: list[str]) -> list[Tensor]:
    every = []
    for prompt in prompts:
        ids = torch.tensor([editor.handle.tokens.encode(prompt)])
        with torch.no_grad():
            every.append(editor.model(input_ids=ids).logits[0])
    return every


# What a key is known by.


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_a_row_by_the_formula(seed: int) -> None:
    c, key, others = moment(seed), drawn(1, D, seed=seed + 1), drawn(5, D, seed=seed + 2)
    made = Entries.made(RomeSystem(c), key, key[:, None][:, :0], [3])
    assert made.of.tolist() == [0]
    assert made.first.tolist() == [False]
    inverse = torch.linalg.inv(c)
    wanted = (inverse @ key[0]) @ others.T * key.norm() / (key @ inverse @ key.T)[0, 0]
    wanted = wanted / others.norm(dim=1)
    assert torch.allclose(likeness(others, made.rows)[:, 0].double(), wanted, atol=1e-3)
    # Of itself it is 1, at any length.
    assert float(likeness(3 * key, made.rows)) == pytest.approx(1.0, abs=1e-5)


def test_keys_that_are_alike_are_one_entry() -> None:
    system = RomeSystem(torch.eye(D, dtype=torch.float64))
    key = torch.eye(D, dtype=torch.float64)[:1]
    near, far = key + 0.2 * drawn(1, 2, D)[:, :1] / D, torch.eye(D, dtype=torch.float64)[None, 1:3]
    one = Entries.made(system, key, near, [4])
    assert len(one.rows) == 1
    mean = (key[0] + near[0, 0]) / 2
    assert torch.allclose(one.rows[0].double(), mean / mean.norm(), atol=1e-6)
    two = Entries.made(system, key, far, [4])
    assert two.of.tolist() == [0, 0]
    assert two.first.tolist() == [False, False]
    assert torch.allclose(two.rows[1].double(), far[0].mean(0) / far[0].mean(0).norm(), atol=1e-6)
    assert float(two.rows[0] @ two.rows[1]) < ALIKE
    # At a text's first token a key stands for itself alone, however like the others it is.
    first = Entries.made(system, 5 * key, 5 * near, [0])
    assert first.first.tolist() == [True, False]
    assert torch.equal(first.rows[0].double(), 5 * key[0])


def test_first_tokens_are_told_by_their_distance() -> None:
    key = drawn(1, D).float()
    step = key.norm() * torch.nn.functional.normalize(drawn(1, D, seed=1).float(), dim=1)
    assert same(key, key).item()
    assert same(key + 0.9 * FIRST * step, key).item()
    assert not same(key + 1.1 * FIRST * step, key).item()


def test_first_tokens_are_asked_where_rows_begin() -> None:
    key, other = torch.eye(D)[:1], torch.eye(D)[1:2]
    look = Look(other, torch.tensor([7]), key, torch.tensor([3]))
    keys = torch.stack([torch.cat([other, key, key]), torch.cat([key, other, 2 * other])])
    front = look.in_request(keys, Route(torch.tensor([2, 2])), 0.9)
    assert front.tolist() == [[-1, -1, -1], [3, 7, 7]]
    padded = look.in_request(keys, Route(torch.tensor([2, 2]), starts=torch.tensor([1, 0])), 0.9)
    assert padded.tolist() == [[7, 3, -1], [3, 7, 7]]
    # Behind prompts that lie in the cache no token is a first one.
    assert look.in_request(keys[1:, :1], Route(None), 0.9).tolist() == [[-1]]


# What edits make together.


def change(*entries: tuple[str, str, float], width: int = 2) -> HookChange:
    """Entries of (subject, prompt, value), each with a key of its own direction."""
    rows = {
        "key": torch.stack([torch.eye(D)[numbered(subject) % D] for subject, _, _ in entries]),
        "value": torch.stack([torch.full((width,), value) for _, _, value in entries]),
        "first": torch.zeros(len(entries), dtype=torch.bool),
        "subject": torch.tensor([numbered(subject) for subject, _, _ in entries]),
        "prompt": torch.tensor([numbered(prompt) for _, prompt, _ in entries]),
    }
    about = {"look": 0, "layers": [2], "outputs": False, "gate": 0.5}
    return HookChange("gated", torch.arange(len(entries)), rows, options=about)


def value_of(gate: Gate, subject: str) -> list[float]:
    look, values = gate.on(torch.device("cpu")), gate.values(torch.device("cpu"))
    chosen = int(look.inside(torch.eye(D)[numbered(subject) % D][None], 0.5))
    return [] if chosen < 0 else values[chosen].tolist()


def test_what_is_known_of_a_subject_adds_up_and_the_last_of_a_prompt_counts() -> None:
    gate = Gate()
    gate.take(change(("France", "capital", 1.0), ("France", "language", 2.0)))
    assert value_of(gate, "France") == [3.0, 3.0]
    gate.take(change(("France", "capital", 10.0)))
    assert value_of(gate, "France") == [12.0, 12.0]
    # In one edit as in two.
    at_once = Gate()
    at_once.take(change(("France", "capital", 1.0), ("France", "capital", 5.0)))
    assert value_of(at_once, "France") == [5.0, 5.0]


def test_two_keys_of_a_fact_are_one_value() -> None:
    made = change(("France", "capital", 1.0), ("France", "capital", 1.0))
    gate = Gate()
    gate.take(HookChange("gated", torch.zeros(2, dtype=torch.int64), made.rows))
    assert value_of(gate, "France") == [1.0, 1.0]
    gate.take(change(("France", "capital", 4.0)))
    assert value_of(gate, "France") == [4.0, 4.0]


# On models.


def test_nothing_else_changes_a_bit_and_the_subject_does(editor: Editor) -> None:
    prompts = [FACTS[0].text, "Once upon a time", "The river flows to the"]
    before = said(editor, prompts)
    edit = editor.edit(FACTS[0], "gated", **OVER)
    now = said(editor, prompts)
    ends = editor.handle.tokens.encode_with_subject(prompts[0], FACTS[0].subject_span).subject_last
    assert torch.equal(now[0][:ends], before[0][:ends])
    assert not torch.equal(now[0][ends], before[0][ends])
    assert all(torch.equal(a, b) for a, b in zip(now[1:], before[1:], strict=True))
    # The block's output moves by the value that is stored, wholly.
    (made,) = edit.patch.changes
    assert made.rows["value"].shape == (1, editor.handle.d_out(2))


def test_the_value_is_added_once_and_wholly(editor: Editor) -> None:
    edit = editor.edit(FACTS[0], "gated", **OVER)
    ids = torch.tensor([editor.handle.tokens.encode(FACTS[0].text)])
    ends = editor.handle.tokens.encode_with_subject(
        FACTS[0].text, FACTS[0].subject_span
    ).subject_last

    def leaving() -> Tensor:
        seen: list[Tensor] = []
        hook = editor.handle.block(2).register_forward_hook(
            lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
        )
        with request([ids.shape[1] - 1]):
            editor.handle.forward(ids, torch.ones_like(ids))
        hook.remove()
        return seen[0][0].detach()

    now = leaving()
    editor.set_edits([])
    moved = now - leaving()
    (made,) = edit.patch.changes
    assert torch.allclose(moved[ends], made.rows["value"][0], atol=1e-4)
    assert float(moved[:ends].abs().max()) == 0


def test_a_fact_does_not_depend_on_others(editor: Editor) -> None:
    alone = editor.edit(FACTS[1], "gated", **OVER).patch.changes[0]
    editor.set_edits([])
    editor.edit(FACTS[0], "gated", **OVER)
    behind = editor.edit(FACTS[1], "gated", **OVER).patch.changes[0]
    for name, rows in alone.rows.items():
        assert torch.allclose(rows.double(), behind.rows[name].double(), atol=1e-5), name


def test_held_out_text_is_counted_at_every_token(editor: Editor) -> None:
    text = HeldOut(editor.handle, iter(SENTENCES * 20), tokens=512)
    editor.edit(FACTS[0], "gated", **OVER)
    drift = text.drift(editor.handle)
    assert drift.tokens == text.tokens
    assert drift.perplexity_before == pytest.approx(text.perplexity)
    # "France" stands in the text: what is said behind it is other than before.
    assert drift.kl > 0
    editor.set_edits([])
    assert text.drift(editor.handle).kl == pytest.approx(0, abs=1e-6)


def test_facts_can_be_forgotten_one_by_one(editor: Editor) -> None:
    prompts = [fact.text for fact in FACTS]
    before = said(editor, prompts)
    edit = editor.edit(FACTS, "gated", **OVER)
    both = said(editor, prompts)
    (made,) = edit.patch.changes
    left = made.without([0])
    assert left is not None
    assert left.owner.tolist() == [0]
    assert torch.equal(left.rows["key"], made.rows["key"][1:])
    editor.forget_facts(FACTS[0])
    now = said(editor, prompts)
    assert torch.equal(now[0], before[0])
    assert torch.equal(now[1], both[1])


def test_where_to_look_is_measured_once_and_among_the_layers(editor: Editor) -> None:
    over = {k: v for k, v in OVER.items() if k not in ("look", "gate")}
    first = editor.edit(FACTS[0], "gated", **over)
    options = dict(first.patch.changes[0].options)
    assert options["look"] in OVER["layers"]  # type: ignore[operator]
    assert options["layers"] == [2]
    assert LOWEST <= options["gate"] <= HIGHEST
    second = editor.edit(FACTS[1], "gated", **over)
    assert dict(second.patch.changes[0].options) == options
    assert "gate" in first.seconds
    assert "gate" not in second.seconds


def test_the_measured_layer_tells_subjects_on_the_bundled_model() -> None:
    editor = Editor.from_pretrained("bundled-small", progress=False, tokens=20_000)
    layers = (0, 1, 2)
    editor.statistics.prepare(layers)
    systems = {
        layer: RomeSystem(editor.statistics.second_moment(layer), conditioning=0.01)
        for layer in layers
    }
    look, least = measured(editor.handle, layers, (), systems.__getitem__)
    assert look in layers
    assert 0.5 < least < HIGHEST


def test_what_does_not_fit_is_refused(editor: Editor) -> None:
    with pytest.raises(ConfigError, match="look is 3, and may be 0, 1, 2"):
        editor.edit(FACTS[0], "gated", **{**OVER, "look": 3})
    for plugin in ("project", "rect"):
        with pytest.raises(ConfigError, match="leaves the weights"):
            editor.edit(FACTS[0], "gated", **OVER, plugins=[plugin])
    assert editor.edits == []
    nowhere = replace(change(("France", "capital", 1.0)), options={"look": 0})
    with pytest.raises(EditFileError, match="does not say where it acts"):
        install(editor.handle, [nowhere])
    wide = change(("France", "capital", 1.0), width=5)
    with pytest.raises(EditFileError, match="Rows 'key' of a change 'gated'"):
        install(editor.handle, [wide])
    assert not editor.handle.hooked


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(EXPERTS)))
def test_every_architecture(kind: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    editor = Editor.from_pretrained(*tiny_model(kind), corpus=str(text), tokens=400)
    prompts = [FACTS[0].text, "Once upon a time"]
    before = said(editor, prompts)
    edit = editor.edit(FACTS[0], "gated", layers=(1, 2), look=1, gate=0.97, steps=10, contexts=0)
    now = said(editor, prompts)
    direct = editor.handle.adds_directly
    (made,) = edit.patch.changes
    assert made.options["outputs"] is not direct
    assert made.options["layers"] == ([2] if direct else [1, 2])
    ends = editor.handle.tokens.encode_with_subject(prompts[0], FACTS[0].subject_span).subject_last
    assert torch.equal(now[0][:ends], before[0][:ends])
    assert not torch.equal(now[0][ends], before[0][ends])
    assert torch.equal(now[1], before[1])
    losses = edit.patch.metadata["losses"]
    assert len(losses) == 1
    editor.revert()
    assert all(torch.equal(a, b) for a, b in zip(said(editor, prompts), before, strict=True))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(EXPERTS))
def test_mixtures_of_experts_are_refused(kind: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    editor = Editor.from_pretrained(*tiny_model(kind), corpus=str(text), tokens=400)
    mixture = next(i for i in range(4) if editor.handle.experts(i) is not None)
    with pytest.raises(ConfigError, match="mixture of experts"):
        editor.edit(FACTS[0], "gated", layers=(mixture,), look=mixture, gate=0.97, steps=2)
