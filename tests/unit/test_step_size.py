"""Changes made as small, or as large, as a fact's target asks for."""

from pathlib import Path

import pytest
import torch
from tests.learned import untrained
from tests.tiny import tiny_model

from alphaedit import Editor, Fact
from alphaedit.methods.learned.network import Factors
from alphaedit.methods.learned.step_size import (
    HALVINGS,
    REACH,
    scaled,
    sizes_until,
    with_sizes_free,
)
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import edit_tokens, for_each_row, logits_of, losses_of
from alphaedit.model.handle import ModelHandle

FACTS = [
    Fact("The capital of {} is", "France", "Oslo"),
    Fact("The capital of {} is", "Spain", "Paris"),
    Fact("{} worked in the field of", "Marie Curie", "music and art"),
]
STEP = REACH ** (2 / 2**HALVINGS)
"""Ratio of two sizes that are told apart."""


@pytest.fixture(scope="module")
def handle() -> ModelHandle:
    return ModelHandle(*tiny_model("gpt2"))


def bare_steps(handle: ModelHandle) -> dict[int, Factors]:
    """A step against the gradient for each fact, small enough that its loss falls all the way."""
    made = {}
    for layer, tokens in edit_tokens(handle, FACTS, (1,), where="answer").items():
        left = tokens.gradients.new_zeros(len(FACTS), tokens.gradients.shape[1], len(tokens.edit))
        for number, edit in enumerate(tokens.edit):
            left[edit, :, number] = -0.02 * tokens.gradients[number]
        made[layer] = Factors(left, tokens.inputs.expand(len(FACTS), -1, -1).clone())
    return made


@torch.no_grad()
def losses(handle: ModelHandle, changes: dict[int, Factors]) -> torch.Tensor:
    read = Continuations.of(handle, FACTS)
    pairs = {layer: (change.left, change.right) for layer, change in changes.items()}
    with for_each_row(handle, pairs, torch.arange(len(FACTS))):
        return losses_of(logits_of(handle, read), read)


def test_the_smallest_that_is_enough(handle: ModelHandle) -> None:
    steps = bare_steps(handle)
    wanted = torch.tensor([0.5, 1.0, 2.5])
    for number, loss in enumerate(losses(handle, scaled(steps, wanted)).tolist()):
        found = sizes_until(handle, FACTS, steps, loss)
        assert found[number] / wanted[number] == pytest.approx(1, abs=STEP - 1 + 1e-3)
        reached = losses(handle, scaled(steps, found))
        within = (found > 1 / REACH * STEP) & (found < REACH / STEP)
        assert within[number]
        assert bool((reached[within] <= loss + 1e-4).all())
        assert bool((losses(handle, scaled(steps, found / STEP))[within] > loss - 1e-4).all())


def test_ends_of_the_range(handle: ModelHandle) -> None:
    steps = bare_steps(handle)
    assert sizes_until(handle, FACTS, steps, 1e-9).tolist() == pytest.approx([REACH] * len(FACTS))
    least = sizes_until(handle, FACTS, steps, 100.0)
    assert least.tolist() == pytest.approx([STEP / REACH] * len(FACTS))


def test_one_change_for_all_facts_has_one_size(handle: ModelHandle) -> None:
    """Their mean loss decides."""
    steps = bare_steps(handle)
    joined = {layer: Factors(*(part[None] for part in c.joined())) for layer, c in steps.items()}
    assert all(len(change.left) == 1 for change in joined.values())
    double = scaled(joined, torch.tensor([2.0]))
    alike = {
        layer: Factors(c.left.expand(len(FACTS), -1, -1), c.right.expand(len(FACTS), -1, -1))
        for layer, c in double.items()
    }
    found = sizes_until(handle, FACTS, joined, float(losses(handle, alike).mean()))
    assert found.tolist() == pytest.approx([2.0], rel=STEP - 1 + 1e-3)


def test_gradients_see_that_sizes_move() -> None:
    """Of a loss at other prompts, after changes whose own losses stay where they are."""
    model, tokenizer = tiny_model("gpt2")
    exact = ModelHandle(model.double(), tokenizer)
    steps = bare_steps(exact)
    until = 0.9 * float(losses(exact, scaled(steps, torch.zeros(3))).min())
    for _ in range(4):  # until all reach it at about the size 1
        steps = scaled(steps, sizes_until(exact, FACTS, steps, until))
    asked = [("The capital of Norway is", "Paris"), ("Oslo is", "the capital"), ("I think", "so")]
    other = Continuations.of_pairs(exact, asked)

    def outer(changes: dict[int, Factors]) -> torch.Tensor:
        pairs = {layer: (change.left, change.right) for layer, change in changes.items()}
        with for_each_row(exact, pairs, torch.arange(3)):
            return losses_of(logits_of(exact, other), other).sum()

    def sizes(changes: dict[int, Factors]) -> torch.Tensor:
        return sizes_until(exact, FACTS, changes, until, halvings=45)

    found = sizes(steps)
    assert bool(((found > 0.3) & (found < 3.9)).all())
    sized = scaled(steps, found)
    for change in sized.values():
        change.left.requires_grad_()
        change.right.requires_grad_()
    outer(sized).backward()
    raw = {layer: (change.left.grad, change.right.grad) for layer, change in sized.items()}
    free = with_sizes_free(exact, FACTS, steps, found, raw)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for side in (0, 1):
        change = (steps[1].left, steps[1].right)[side].detach()
        way = torch.randn(change.shape, generator=generator, dtype=torch.float64)
        way *= change.abs().mean() * (change != 0)
        values = []
        for step in (1e-4, -1e-4):
            parts = [steps[1].left, steps[1].right]
            parts[side] = parts[side] + step * way
            near = {1: Factors(*parts)}
            with torch.no_grad():
                values.append(float(outer(scaled(near, sizes(near)))))
        numeric = (values[0] - values[1]) / 2e-4
        assert float((free[1][side] * way).sum()) == pytest.approx(numeric, rel=1e-3), side
        assert float((raw[1][side] * way).sum()) != pytest.approx(numeric, rel=0.05)


@pytest.mark.parametrize("name", ["mend", "malmen"])
def test_an_edit_with_its_size(name: str, tmp_path: Path) -> None:
    editor = Editor.from_pretrained(*tiny_model("gpt2"), progress=False)
    place = untrained(editor.handle, name, FACTS, tmp_path / "editor", rate=1e-3)
    weight = editor.handle.edited_name(1)

    def changed(**settings: float) -> torch.Tensor:
        edit = editor.edit(FACTS[:1], name, editor=str(place), **settings)
        editor.set_edits([])
        found: torch.Tensor = edit.patch.weights[weight].matrix()
        return found

    whole = changed()
    assert torch.allclose(changed(until=1e-9), REACH * whole, rtol=1e-4, atol=1e-7)
    assert torch.allclose(changed(until=100.0), STEP / REACH * whole, rtol=1e-4, atol=1e-7)
    assert torch.allclose(changed(until=1e-9, scale=0.5), REACH * whole / 2, rtol=1e-4, atol=1e-7)
