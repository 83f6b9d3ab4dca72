"""Editors of several tasks and of sequences: what they are told, and what they look back at."""

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.learned import untrained
from tests.tiny import tiny_model
from tests.unit.test_learned_editors import FACTS, trainer
from torch import Tensor

from alphaedit import Editor, Fact
from alphaedit.core.errors import ConfigError, DataError
from alphaedit.methods.learned.examples import Rows
from alphaedit.methods.learned.measuring import Hits
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.training import Trainer, TrainSettings
from alphaedit.methods.registry import get_method
from alphaedit.methods.steps.gradients import edit_tokens, for_all_rows
from alphaedit.methods.zoo.instructedit import (
    DESCRIPTIONS,
    InstructEdit,
    InstructNetwork,
    TaskTrainer,
    aim_of,
    front_of,
    task_of,
)
from alphaedit.methods.zoo.rledit import (
    Batch,
    RlNetwork,
    SequenceSettings,
    SequenceTrainer,
    gradients_of,
    squared_norm,
    summed,
)
from alphaedit.model.handle import ModelHandle

TASKS = [
    *(replace(fact, id=f"capital/{number}") for number, fact in enumerate(FACTS)),
    *(replace(fact, prompt="What is the capital of {}?") for fact in FACTS),
    *(replace(fact, prompt="{} has the capital") for fact in FACTS),
]


@pytest.fixture(scope="module")
def handle() -> ModelHandle:
    return ModelHandle(*tiny_model("llama"))


@pytest.fixture
def exact() -> ModelHandle:
    model, tokenizer = tiny_model("gpt2")
    return ModelHandle(model.double(), tokenizer)


def shaken(made: Trainer) -> Trainer:
    """Warm, in float64, and away from the kinks where units of a new network stand."""
    made.network.double()
    made.warm()
    generator = torch.Generator().manual_seed(7)
    for parameter in made.network.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.05 * parameter.data.abs().mean().clamp_min(0.1) * noise
    made.network.begin_at(1e-2)
    return made


def sequences(handle: ModelHandle, **over: Any) -> SequenceTrainer:
    made = trainer(handle, "rledit", **{"batch": 2, "sequence": 3, "rate": 1e-2, **over})
    assert isinstance(made, SequenceTrainer)
    return made


# Tasks


def test_tasks_are_read_off_facts() -> None:
    assert [task_of(fact) for fact in TASKS[::9]] == ["capital", "question", "statement"]
    assert task_of(Fact("{} is", "Oslo", "old", id="/3")) == "statement"
    assert task_of(Fact("Where is {}?", "Oslo", "here", id="17")) == "question"
    assert "task chess" in aim_of("chess")


def test_a_change_is_the_dense_one_behind_the_instruction(exact: ModelHandle) -> None:
    network = shaken(trainer(exact, "instructedit")).network.eval()
    assert isinstance(network, InstructNetwork)
    facts = TASKS[8:11]
    changes = network.propose(exact, facts).changes
    fronts = [front_of(task_of(f), DESCRIPTIONS[-1].format(aim=aim_of(task_of(f)))) for f in facts]
    told = [
        Fact(front + f.text, f.subject, f.target) for front, f in zip(fronts, facts, strict=True)
    ]
    tokens = edit_tokens(exact, told, network.layers, where="all")
    bare = edit_tokens(exact, facts, network.layers, where="all")
    for number, layer, own in network.numbered(tokens):
        inputs, gradients = network.network(layer)[0](
            own.inputs, own.gradients, network.network(layer)[1]
        )
        assert len(own.edit) > len(bare[layer].edit)
        for edit in range(len(facts)):
            mine = own.edit == edit
            dense = -network.rate[number] * gradients[mine].T @ inputs[mine]
            ours = changes[layer].left[edit] @ changes[layer].right[edit]
            assert torch.allclose(ours, dense, rtol=1e-9, atol=1e-14)


def test_instructions_are_drawn_in_training_and_new_in_use(handle: ModelHandle) -> None:
    network = trainer(handle, "instructedit").network
    assert isinstance(network, InstructNetwork)
    drawn: set[str] = set()
    network.train()
    for step in range(60):
        network.at_step(f"0/{step}")
        fronts = network.fronts(handle, TASKS[:2])
        assert fronts == network.fronts(handle, TASKS[:2])
        drawn |= set(fronts)
    aim = aim_of("capital")
    trained = {front_of("capital", d.format(aim=aim)) for d in DESCRIPTIONS[:-1]}
    assert drawn == trained
    assert len(trained) == 9
    (used,) = set(network.eval().fronts(handle, TASKS[:2]))
    assert used not in drawn
    network.task, network.instruction = "chess", "Say who won."
    assert network.fronts(handle, TASKS[:1]) == ["Task: chess\nDescription: Say who won.\nInput: "]


def test_an_instruction_changes_the_edit(tmp_path: Path) -> None:
    loaded = Editor.from_pretrained(*tiny_model("gpt2"), progress=False)
    place = untrained(loaded.handle, "instructedit", FACTS, tmp_path / "editor")
    lefts: list[Tensor] = []
    for over in ({}, {"task": "question"}, {"instruction": "The capital is a city."}):
        edit = loaded.edit(FACTS[0], "instructedit", editor=str(place), **over)
        lefts.append(next(iter(edit.patch.weights.values())).left)
        loaded.revert()
    for left, other in pairwise(lefts):
        assert left.shape != other.shape or not torch.equal(left, other)
    with pytest.raises(ConfigError, match="instruction"):
        loaded.edit(FACTS[0], "instructedit", editor=str(place), instruction="")


def tasks(handle: ModelHandle, facts: Sequence[Fact] = TASKS, **over: Any) -> TaskTrainer:
    method = get_method("instructedit")
    assert isinstance(method, InstructEdit)
    given = {"layers": (1,), "rank": 3, "rate": 0.01, "batch": 4, "held_out": 6, **over}
    return method.trainee(handle, facts, method.train_settings(**given), 0)


def test_a_task_that_is_left_out_is_measured_and_not_trained_on(handle: ModelHandle) -> None:
    made = tasks(handle, left_out="question")
    assert set(made.tasks) == {"capital", "statement"}
    assert {task_of(fact) for fact in made.split.held_out} == {"capital", "statement"}
    assert {task_of(fact) for fact in made.unseen} == {"question"}
    seen = {fact.subject for fact in made.split.train}
    assert seen.isdisjoint(fact.subject for fact in (*made.unseen, *made.split.held_out))
    for step in range(5):
        facts = made._facts(step)
        assert sorted(map(task_of, facts)) == ["capital"] * 2 + ["statement"] * 2
    made.warm()
    row = made.measure().to_json()
    assert row["left_out_efficacy"] == made._measured(made.unseen).efficacy
    assert {"efficacy", "score", "left_out_score"} <= set(row)
    assert "left_out_score" not in tasks(handle).measure().to_json()


@pytest.mark.parametrize(
    ("facts", "left_out", "message"),
    [
        (TASKS, "chess", "'chess' cannot be left out: there are facts of capital, question, stat"),
        (TASKS[:9], "capital", "cannot be left out: there are facts of capital"),
        (
            [*TASKS, *(Fact("The {} is", f.subject, "old", truth="new", id="odd/1",
                paraphrases=("{} is",), neighborhood=("Oslo is",)) for f in FACTS[:1])],
            "odd",
            "None of the facts set aside is of the task 'odd'",
        ),
    ],
)  # fmt: skip
def test_tasks_that_cannot_be_left_out(
    handle: ModelHandle, facts: Sequence[Fact], left_out: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tasks(handle, facts, left_out=left_out, held_out=1)


def test_facts_that_are_too_long_behind_an_instruction(handle: ModelHandle) -> None:
    assert handle.max_positions is not None
    room = handle.max_positions - len(handle.tokens.encode(FACTS[0].text))
    each = len(handle.tokens.encode("The river river {} is")) - len(
        handle.tokens.encode("The river {} is")
    )
    prompt = " ".join(["The", *["river"] * ((room - 20) // each), "{} is"])
    long = replace(FACTS[0], prompt=prompt)
    Trainer(handle, InstructNetwork, [*FACTS, long], TrainSettings(layers=(1,), rank=3))
    with pytest.raises(DataError, match="behind its instruction"):
        tasks(handle, [*FACTS, long])


# Sequences


def test_a_change_is_the_dense_ridge_solution(exact: ModelHandle) -> None:
    made = shaken(sequences(exact))
    network = made.network.eval()
    assert isinstance(network, RlNetwork)
    changes = network.propose(exact, FACTS[:3]).changes
    tokens = edit_tokens(exact, FACTS[:3], network.layers, where="answer")
    for number, layer, own in network.numbered(tokens):
        values = network.values(number, layer, own)
        ridge = network.log_ridge[number].exp() * torch.eye(own.inputs.shape[1]).double()
        keys = own.inputs
        dense = torch.linalg.solve(keys.T @ keys + ridge, keys.T @ values).T
        ours = changes[layer].left[0] @ changes[layer].right[0]
        assert torch.allclose(ours, dense, rtol=1e-8, atol=1e-12)


def test_a_norm_is_that_of_the_product() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(5, 3, generator=generator), torch.randn(3, 7, generator=generator)
    assert float(squared_norm(left, right)) == pytest.approx(
        float((left @ right).square().sum()), rel=1e-5
    )


def test_all_changes_are_in_force_at_once(exact: ModelHandle) -> None:
    generator = torch.Generator().manual_seed(0)
    changes = [
        {
            1: (
                0.1 * torch.randn(exact.d_out(1), 2, generator=generator).double(),
                torch.randn(2, exact.d_in(1), generator=generator).double(),
            )
        }
        for _ in range(3)
    ]
    ids = torch.tensor([exact.tokens.encode(FACTS[0].text)])
    plain = exact.forward(ids, torch.ones_like(ids))
    with for_all_rows(exact, summed(changes)):
        ours = exact.forward(ids, torch.ones_like(ids))
    with for_all_rows(exact, summed([])):
        assert torch.equal(exact.forward(ids, torch.ones_like(ids)), plain)
    weight = exact.edited_module(1).weight
    dense = sum(left @ right for left, right in (change[1] for change in changes))
    before = weight.data.clone()
    weight.data += dense.T if weight.shape != dense.shape else dense  # type: ignore[union-attr]
    theirs = exact.forward(ids, torch.ones_like(ids))
    weight.data = before
    assert torch.allclose(ours, theirs, atol=1e-10)
    assert not torch.allclose(ours, plain, atol=1e-6)


def leaves_and_batches(made: SequenceTrainer) -> tuple[list[Any], list[Batch]]:
    """Changes of three batches, each at the state that the ones before it left."""
    handle, rng = made.handle, random.Random(0)
    batches = [
        Batch.read(handle, FACTS[i : i + 2], Rows.drawn(FACTS[i : i + 2], 1, rng))
        for i in (0, 2, 4)
    ]
    changes: list[Any] = []
    for batch in batches:
        with torch.no_grad(), for_all_rows(handle, summed(changes)):
            proposal = made.network.train().propose(handle, batch.facts)
        changes.append(
            {
                layer: (part.left[0].clone().requires_grad_(), part.right[0].clone())
                for layer, part in proposal.changes.items()
            }
        )
    return changes, batches


def test_the_gradient_of_later_states_reaches_earlier_changes(exact: ModelHandle) -> None:
    """Of the loss after the last batch, at the left factor of the first, against numeric ones."""
    made = shaken(sequences(exact, window=3))
    changes, batches = leaves_and_batches(made)
    made._look_back(batches, changes, total=1.0)
    weights = [0.95**2, 0.95, 1.0]

    def loss() -> float:
        with torch.no_grad(), for_all_rows(exact, summed(changes)):
            parts = [batch.losses(exact) for batch in batches]
        size = torch.stack([squared_norm(*pair) for pair in changes[-1].values()]).sum()
        own = sum(
            weight * (float(edit) + 0.6 * float(kl))
            for weight, (edit, kl) in zip(weights, parts, strict=True)
        )
        return own + 1e-4 * float(size.detach())

    for number in (0, 1, 2):
        for layer, (left, _) in changes[number].items():
            gradient = gradients_of(changes[number])[layer][0][0]
            assert float(gradient.abs().max()) > 0
            place = int(gradient.abs().argmax())
            flat = left.data.view(-1)
            flat[place] += 1e-6
            above = loss()
            flat[place] -= 2e-6
            numeric = (above - loss()) / 2e-6
            flat[place] += 1e-6
            assert float(gradient.reshape(-1)[place]) == pytest.approx(numeric, rel=1e-4, abs=1e-9)


def test_a_window_of_one_looks_at_the_last_batch_alone(exact: ModelHandle) -> None:
    """The first change is asked of later states all the same: it is in force there."""
    made = shaken(sequences(exact, window=1))
    changes, batches = leaves_and_batches(made)
    made._look_back(batches[-1:], changes, total=1.0)
    first = gradients_of(changes[0])
    assert all(float(left.abs().max()) > 0 for left, _ in first.values())
    alone, _ = leaves_and_batches(made)
    made._look_back(batches[:1], alone[:1], total=1.0)
    second = gradients_of(alone[1])
    assert all(float(left.abs().max()) == 0 for left, _ in second.values())


def test_a_step_trains_on_what_later_states_say(handle: ModelHandle) -> None:
    """The same first batch, with and without others after it: the parameters' gradients differ."""
    norms = []
    for sequence in (2, 3):
        made = sequences(handle, sequence=sequence)
        made.warm()
        made.network.train()
        assert isinstance(made.settings, SequenceSettings)
        made._run_backward(0)
        gradients = [p.grad for p in made.network.parameters() if p.grad is not None]
        norms.append(sum(float(gradient.square().sum()) for gradient in gradients))
    assert min(norms) > 0
    assert norms[0] != pytest.approx(norms[1], rel=1e-6)


def test_statistics_wait_for_the_end_of_a_sequence(handle: ModelHandle) -> None:
    made = sequences(handle)
    made.warm()
    network = made.network
    assert isinstance(network, RlNetwork)
    moments = network.network(1)[0].moments
    before = float(moments.count)
    network.train().propose(handle, FACTS[:2])
    assert float(moments.count) == before
    network.settle()
    assert float(moments.count) > before


def test_what_is_measured_is_the_state_after_all_edits(tmp_path: Path) -> None:
    """Against an editor that writes each change into the weights before the next is proposed."""
    loaded = Editor.from_pretrained(*tiny_model("llama"), progress=False)
    made = sequences(loaded.handle, held_out=3, rate=0.3)
    made.warm()
    ours = made.measure()
    method = get_method("rledit")
    assert isinstance(method, LearnedMethod)
    about = {"base": loaded.base, "data": "0" * 64, "facts": 9, "steps": 0}
    made.keep()
    method.write(made, tmp_path / "editor", about)
    facts = made.split.held_out
    for at in range(0, len(facts), 2):
        loaded.edit(list(facts[at : at + 2]), "rledit", editor=str(tmp_path / "editor"))
    hits = Hits()
    hits.count(loaded.handle, facts, lambda owner: nullcontext())
    assert hits.measures() == ours
