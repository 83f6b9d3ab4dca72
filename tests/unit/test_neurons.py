"""Neurons that give a value above a border and nothing below it, and models that get them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import EXPERTS, INNER, KINDS, SENTENCES, save_tiny, tiny_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from alphaedit import Editor, Fact
from alphaedit.core.errors import (
    AlphaEditError,
    AlphaEditWarning,
    ArchitectureError,
    ConfigError,
    EditFileError,
)
from alphaedit.core.neurons import Neurons
from alphaedit.editor.checkpoint import save_checkpoint
from alphaedit.editor.in_weights import in_weights
from alphaedit.linalg.neurons import steps
from alphaedit.methods.steps.gate_neurons import known_by_layer, sum_of
from alphaedit.model.wider import MULTIPLE, Wider, entrance

D, OUT = 5, 3
ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "gelu": F.gelu}
NOT_UNDERSTOOD = {"phi3"}
"""Its two matrices are one."""
NO_WIDTH = {"bloom": "says no width", "qwen2_moe": "is not the width"}
"""Four times the residual stream, always; the experts' own."""


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def scored(scores: list[float], *, fixed: bool, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A row, a row whose products are 1 if `fixed`, and inputs with these scores, [n, D]."""
    row, constant = torch.zeros(2, D, dtype=torch.float64)
    row[0] = constant[1] = 1
    inputs = drawn(len(scores), D, seed=seed)
    inputs[:, 0] = torch.tensor(scores)
    inputs[:, 1] = 1 if fixed else inputs[:, 1]
    return row, constant, inputs


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.booleans(),
    st.booleans(),
    st.floats(-1, 1),
    st.floats(0.01, 0.5),
    st.integers(0, 1000),
)
def test_nothing_below_the_border_and_the_value_above(
    kind: str, gated: bool, biased: bool, begins: float, rise: float, seed: int
) -> None:
    below, above = [begins - 2 * rise, begins - 9.0], [begins + 3 * rise, begins + 9.0]
    row, constant, inputs = scored([*below, *above], fixed=not biased, seed=seed)
    value = drawn(1, OUT, seed=seed + 1)
    made = steps(
        row[None],
        value,
        torch.tensor([begins], dtype=torch.float64),
        torch.tensor([begins + rise], dtype=torch.float64),
        constant=None if biased else constant,
        gated=gated,
    )
    assert len(made) == 2
    assert len(made.beside) == (2 if gated else 0)
    if not biased:
        assert not made.bias.any()
    got = made(inputs, ACTIVATIONS[kind])
    exact = 1e-9 if kind == "relu" else 1e-3
    assert float(got[:2].abs().max()) <= exact * float(value.abs().max())
    assert torch.allclose(got[2:], value.expand(2, -1), rtol=exact, atol=exact)


def test_between_the_borders_it_rises() -> None:
    row, constant, inputs = scored([0.5, 0.55, 0.6], fixed=True, seed=0)
    ends = torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    made = steps(
        row[None], torch.ones(1, 1, dtype=torch.float64), *ends, constant=constant, gated=False
    )
    assert torch.allclose(made(inputs, F.relu)[:, 0], torch.tensor([0, 0.5, 1]).double())


def test_joined_neurons_add_up() -> None:
    parts = [
        Neurons(*(drawn(*shape, seed=seed) for shape in ((4, D), (4,), (4, D), (4,), (OUT, 4))))
        for seed in (0, 1)
    ]
    x = drawn(7, D, seed=2)
    both = parts[0].joined(parts[1])
    assert len(both) == 8
    assert torch.allclose(both(x, F.silu), parts[0](x, F.silu) + parts[1](x, F.silu))
    assert not torch.equal(both.rounded(torch.bfloat16).enter, both.enter)
    assert both.rounded(torch.bfloat16).enter.dtype == torch.float64


# Models that get them.


def random_neurons(editor: Editor, layer: int, *, gated: bool, biased: bool) -> Neurons:
    d = editor.handle.d_out(layer)
    beside = drawn(5, d, seed=3) if gated else drawn(0, d)
    bias = drawn(5, seed=4) if biased else torch.zeros(5).double()
    both = drawn(5, seed=5) if gated and biased else torch.zeros(5 if gated else 0).double()
    return Neurons(drawn(5, d, seed=1), bias, beside, both, drawn(d, 5, seed=2))


@torch.no_grad()
def logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    found: Tensor = model(input_ids=ids).logits
    return found.double()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(EXPERTS)))
def test_the_file_says_what_was_measured(kind: str, tmp_path: Path) -> None:
    editor = Editor.from_pretrained(save_tiny(kind, tmp_path / "base"), progress=False)
    handle, layer = editor.handle, 2
    if kind in NOT_UNDERSTOOD:
        with pytest.raises(ArchitectureError, match="was not understood"):
            entrance(handle, layer)
        return
    found = entrance(handle, layer)
    neurons = random_neurons(editor, layer, gated=found.beside is not None, biased=found.biased)
    if kind in NO_WIDTH:
        with pytest.raises(ConfigError, match=NO_WIDTH[kind]):
            Wider.of(handle, {layer: neurons})
        return
    wider = Wider.of(handle, {layer: neurons})
    assert (wider.by, wider.width) == (MULTIPLE, handle.d_in(0) + MULTIPLE)
    ids = torch.tensor([handle.tokens.encode(SENTENCES[0])])
    before = logits(handle.model, ids)
    with wider.in_place(handle):
        measured = logits(handle.model, ids)
    assert torch.equal(logits(handle.model, ids), before)
    assert not torch.allclose(measured, before, atol=1e-2)
    # Written on the base's files, and anew where there are none.
    save_checkpoint(handle, tmp_path / "wider", wider=wider)
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "wider").eval()
    assert torch.allclose(logits(read, ids), measured, atol=1e-3)
    assert torch.allclose(logits(wider.model(handle).eval(), ids), measured, atol=1e-3)
    assert (
        sum(p.numel() for p in read.parameters()) - handle.model.num_parameters()
        == (wider.about(handle)["more_parameters"])
    )


def test_quantised_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    editor = Editor.from_pretrained(*tiny_model("llama"), progress=False)
    neurons = random_neurons(editor, 2, gated=True, biased=False)
    monkeypatch.setattr(editor.model, "is_quantized", True, raising=False)
    with pytest.raises(ConfigError, match="quantised"):
        Wider.of(editor.handle, {2: neurons})


@pytest.mark.parametrize("kind", sorted(EXPERTS)[:1])
def test_mixtures_are_refused(kind: str) -> None:
    editor = Editor.from_pretrained(*tiny_model(kind), progress=False)
    mixture = next(i for i in range(4) if editor.handle.experts(i) is not None)
    with pytest.raises(ConfigError, match="mixture of experts"):
        entrance(editor.handle, mixture)


# Gates in weights.

OVER = {"layers": (1, 2), "look": 1, "gate": 0.97, "steps": 10, "contexts": 0}
FACTS = [
    Fact("The capital of {} is", "France", "Madrid"),
    Fact("People in {} speak", "France", "German"),
    Fact("The capital of {} is", "france", "Oslo"),
    Fact("The capital of {} is", "Italy", "Vienna"),
]


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    base = save_tiny("llama", tmp_path / "base")
    return Editor.from_pretrained(base, corpus=str(text), tokens=400, progress=False)


@pytest.mark.filterwarnings("ignore")
def test_of_the_same_prompt_the_last_counts_and_others_add_up(editor: Editor) -> None:
    edits = [editor.edit(fact, "gated", **OVER) for fact in FACTS]
    changes = [(change, edit.facts) for edit in edits for change in edit.patch.changes]
    known = known_by_layer(changes)
    assert list(known) == [2]
    france, italy = known[2]
    values = [change.rows["value"][0] for change, _ in changes]
    # "The capital of france is" is another text than that of France.
    whole = values[0].double() + values[1].double() + values[2].double()
    assert torch.allclose(sum_of(france), whole)
    assert torch.allclose(sum_of(italy), values[3].double())
    again = editor.edit(Fact("The capital of {} is", "Italy", "Oslo"), "gated", **OVER)
    known = known_by_layer([*changes, (again.patch.changes[0], again.facts)])
    assert torch.equal(sum_of(known[2][1]), again.patch.changes[0].rows["value"][0].double())


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_has_them_and_hooks_stay_in_force(editor: Editor, tmp_path: Path) -> None:
    editor.edit(FACTS[0], "gated", **OVER)
    ids = torch.tensor([editor.handle.tokens.encode(FACTS[0].text)])
    before = logits(editor.model, ids)
    editor.save_pretrained(tmp_path / "saved")
    editor.export(tmp_path / "exported", "checkpoint")
    assert torch.equal(logits(editor.model, ids), before)
    files = [tmp_path / name / "model.safetensors" for name in ("saved", "exported")]
    assert files[0].read_bytes() == files[1].read_bytes()
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert read.config.intermediate_size == INNER + MULTIPLE
    assert read.model.layers[2].mlp.gate_proj.weight[INNER : INNER + 2].abs().sum() > 0
    assert not read.model.layers[1].mlp.gate_proj.weight[INNER:].any()


@pytest.mark.filterwarnings("ignore")
def test_what_no_weights_can_be_is_refused(editor: Editor, tmp_path: Path) -> None:
    editor.edit(FACTS[0], "gated", **OVER)
    editor.edit(FACTS[3], "grace", layers=(1,))
    with pytest.raises(EditFileError, match=r"by grace .* no adapter or checkpoint"):
        editor.save_pretrained(tmp_path / "saved")
    with pytest.raises(AlphaEditError, match="by grace does not only change weights"):
        editor.export(tmp_path / "lora", "lora")
    assert not (tmp_path / "saved").exists()


def test_behind_a_norm_neurons_cannot_add(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(SENTENCES * 8), encoding="utf-8")
    editor = Editor.from_pretrained(
        *tiny_model("gemma3_text"), corpus=str(text), tokens=400, progress=False
    )
    edit = editor.edit(FACTS[0], "gated", **OVER)
    with pytest.raises(ConfigError, match="norm or factor"):
        in_weights(editor.handle, editor.statistics.corpus, [edit])
    # What is asked for is written all the same, by a change of its matrices.
    with pytest.warns(AlphaEditWarning, match="edited anew by alphaedit-weighted"):
        editor.save_pretrained(tmp_path / "saved")
