"""A bound on KL in place of a weight: the lightest weight that stays within it is found."""

import math

import pytest

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.editor.session import Editor
from alphaedit.methods.locate_then_edit import SCALE
from alphaedit.methods.steps.budget import (
    COARSE_HALVINGS,
    HALVINGS,
    LEAST,
    MOST,
    STRIDE,
    heaviest,
    within,
)
from alphaedit.model.scoring import score

FACTS = [
    Fact("The mother tongue of {} is", "Danielle Darrieux", "English"),
    Fact("The mother tongue of {} is", "Victor Hugo", "Russian"),
]


@pytest.mark.parametrize("start", [0.1, LEAST, 3.0, 70.0, MOST])
@pytest.mark.parametrize("needed", [0.01, LEAST, 1.5, 3.0, 1000.0])
def test_the_lightest_weight_within_the_budget(start: float, needed: float) -> None:
    asked: list[float] = []

    def solve(factor: float) -> tuple[str, float]:
        asked.append(factor)
        return f"at {factor}", 0.1 * needed / factor

    change, factor, spent = within(solve, 0.1, start)
    assert (change, spent) == (f"at {factor}", 0.1 * needed / factor)
    assert spent <= 0.1
    # As light as it can be told: one step lighter is past the budget.
    assert factor <= max(LEAST, needed * STRIDE ** (0.5**HALVINGS) * (1 + 1e-9))
    assert factor in asked
    assert len(asked) <= 3 + HALVINGS + abs(math.log(max(start, 1) / max(needed, 1), STRIDE))


def test_any_weight_may_do() -> None:
    assert within(lambda factor: (factor, 0.0), 0.1)[1] == LEAST


def test_no_weight_does() -> None:
    with pytest.raises(ConfigError, match=r"No weight .* 0\.3 nats") as caught:
        within(lambda factor: (factor, 0.5), 0.3)
    assert "kl_budget" in str(caught.value.remedy)


def test_what_is_no_number_is_past_the_budget() -> None:
    with pytest.raises(ConfigError):
        within(lambda factor: (factor, math.nan), 0.3)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor.from_pretrained("bundled-small", seed=0, progress=False)


def test_edits_stay_within_it(editor: Editor) -> None:
    measured = editor._kl()
    editor.edit(FACTS, "alphaedit", steps=20)
    usual = measured()
    editor.revert()
    scales, left = [], []
    for budget in (usual / 2, usual * 2):
        edit = editor.edit(FACTS, "alphaedit", steps=20, kl_budget=budget)
        left.append(measured())
        assert edit.hyperparameters["kl_budget"] == budget
        assert edit.learned is not None
        scales.append(float(edit.learned.memory[SCALE]))
        editor.revert()
    assert usual / 8 < left[0] <= usual / 2
    assert left[1] == pytest.approx(usual, rel=1e-4)
    assert scales[0] > scales[1] == LEAST


@pytest.mark.parametrize("method", ["rome", "ft"])
def test_methods_without_a_system_refuse_it(editor: Editor, method: str) -> None:
    with pytest.raises(ConfigError, match=f"{method} solves no linear system") as caught:
        editor.edit(FACTS, method, kl_budget=0.01)
    assert "--guard rollback:max_kl=0.01" in str(caught.value.remedy)
    assert not editor.edits


def test_a_budget_that_is_spent(editor: Editor) -> None:
    measured = editor._kl()
    editor.edit(FACTS, "memit-history", steps=20)
    spent = measured()
    weights = {name: w.clone() for name, w in editor.handle.model.state_dict().items()}
    with pytest.raises(ConfigError, match="No weight of the system"):
        editor.edit(
            [Fact("The mother tongue of {} is", "Jean Gabin", "German")],
            "memit-history",
            steps=20,
            kl_budget=spent / 2,
        )
    assert all(w.equal(weights[name]) for name, w in editor.handle.model.state_dict().items())
    assert len(editor.edits) == 1
    editor.revert()


@pytest.mark.parametrize("start", [0.1, LEAST, 3.0, 70.0, MOST])
@pytest.mark.parametrize("borne", [LEAST, 1.5, 3.0, 1000.0, 2 * MOST])
def test_the_heaviest_weight_that_the_facts_bear(start: float, borne: float) -> None:
    asked: list[float] = []

    def solve(factor: float) -> tuple[str, float]:
        asked.append(factor)
        return f"at {factor}", 0.9 if factor <= borne else 0.5

    change, factor = heaviest(solve, 0.95, start)
    assert change == f"at {factor}"
    assert factor <= borne
    # As heavy as it can be told: one step heavier is more than they bear.
    assert factor >= min(MOST, borne / STRIDE ** (0.5**COARSE_HALVINGS) * (1 - 1e-9))
    assert len(set(asked)) == len(asked)


def test_a_weight_that_nothing_bears_stays() -> None:
    assert heaviest(lambda factor: (factor, 0.0), 0.9) == (LEAST, LEAST)


def test_no_more_is_changed_than_the_facts_need(editor: Editor) -> None:
    measured = editor._kl()
    editor.edit(FACTS, "memit-history")
    usual = measured()
    editor.revert()
    edit = editor.edit(FACTS, "memit-history", least_change=0.9)
    after = measured()
    said = score(editor.handle, [(fact.text, fact.target) for fact in FACTS])
    editor.revert()
    assert edit.learned is not None
    assert float(edit.learned.memory[SCALE]) > LEAST
    assert after < usual
    assert all(answer.exact for answer in said)


def test_either_a_budget_or_the_least_change(editor: Editor) -> None:
    with pytest.raises(ConfigError, match="not both"):
        editor.edit(FACTS, "memit-history", kl_budget=0.01, least_change=1.0)
    with pytest.raises(ConfigError, match="rome solves no linear system"):
        editor.edit(FACTS, "rome", least_change=0.9)
    assert not editor.edits
