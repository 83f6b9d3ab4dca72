"""InstructEdit: MEND that is told the task in words, for several tasks (Zhang et al., 2024)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from alphaedit.core.errors import DataError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.learned.editor import EditorNetwork
from alphaedit.methods.learned.examples import chosen, inside
from alphaedit.methods.learned.measuring import Measures
from alphaedit.methods.learned.method import LearnedMethod, LearnedSettings
from alphaedit.methods.learned.outer_network import MendNetwork
from alphaedit.methods.learned.run import Schedule
from alphaedit.methods.learned.training import Trainer, TrainSettings
from alphaedit.model.handle import ModelHandle

STATEMENT, QUESTION = "statement", "question"
AIMS = {
    STATEMENT: "this sentence ends in the new words",
    QUESTION: "this question has the new answer",
}
"""What an edit of a task is to reach; of tasks with other names, see `aim_of`."""
DESCRIPTIONS = (
    "Change the model so that {aim}.",
    "Make the edit after which {aim}.",
    "From now on {aim}.",
    "Update what the model knows: {aim}.",
    "After the edit, {aim}.",
    "The model is to be edited until {aim}.",
    "Write a new fact into the model, so that {aim}.",
    "Correct the model: {aim}.",
    "See to it that {aim}.",
    "Edit the model. Then {aim}.",
)
"""Ways to say a task. The last is not trained on: measurements and edits use it."""


class InstructSettings(LearnedSettings):
    """Which trained editor is used, and what it is told."""

    task: str | None = Field(
        None, min_length=1, description="task of all facts; by default read off each of them"
    )
    instruction: str | None = Field(
        None, min_length=1, description="description of the task, in place of ours"
    )


class InstructTraining(TrainSettings):
    """How an editor for several tasks is trained."""

    left_out: str | None = Field(
        None, min_length=1, description="task that is not trained on, and measured besides"
    )


def task_of(fact: Fact) -> str:
    """The task of a fact: what its id has in front of a slash, or else the form of its prompt."""
    name, slash, _ = (fact.id or "").partition("/")
    if slash and name.strip():
        return name.strip()
    return QUESTION if "?" in fact.prompt else STATEMENT


def aim_of(task: str) -> str:
    """What an edit of a task is to reach, in words that go on in a sentence."""
    return AIMS.get(task, f"this prompt of the task {task} has the new answer")


def front_of(task: str, description: str) -> str:
    """What stands in front of a prompt."""
    return f"Task: {task}\nDescription: {description}\nInput: "


class InstructNetwork(MendNetwork):
    """MEND's network; gradients and inputs are read behind an instruction.

    Attributes:
        task, instruction: of all facts; by default read off each, and ours.
    """

    task: str | None = None
    instruction: str | None = None
    _drawn_by: str = ""

    def at_step(self, drawn_by: str) -> None:
        """See EditorNetwork."""
        self._drawn_by = drawn_by

    def fronts(self, handle: ModelHandle, facts: Sequence[Fact]) -> list[str]:
        """An instruction for each fact: in training any but the last of the descriptions."""
        rng = random.Random(f"{self._drawn_by}/descriptions")
        fronts = []
        for fact in facts:
            task = self.task or task_of(fact)
            pattern = rng.choice(DESCRIPTIONS[:-1]) if self.training else DESCRIPTIONS[-1]
            fronts.append(front_of(task, self.instruction or pattern.format(aim=aim_of(task))))
        return fronts


@dataclass(frozen=True)
class TaskMeasures(Measures):
    """Of the tasks that are trained on, which decide what is best, and of the one left out."""

    left_out: Measures | None = None

    def to_json(self) -> dict[str, float]:
        """As JSON values."""
        trained = Measures(self.efficacy, self.generalization, self.specificity).to_json()
        unseen = self.left_out.to_json() if self.left_out else {}
        return {**trained, **{f"left_out_{name}": value for name, value in unseen.items()}}


class TaskTrainer(Trainer):
    """Each step edits facts of every task in equal parts; one task may be left out."""

    def __init__(
        self,
        handle: ModelHandle,
        kind: type[EditorNetwork],
        facts: Sequence[Fact],
        settings: TrainSettings,
        *,
        seed: int = 0,
    ) -> None:
        """See Trainer.

        Raises:
            DataError: the task to be left out has no facts, or no other has; or a fact does not
                fit into the model together with its instruction.
        """
        super().__init__(handle, kind, facts, settings, seed=seed)
        left_out = settings.left_out if isinstance(settings, InstructTraining) else None
        _check_tasks(facts, left_out)
        _check_lengths(handle, facts)
        train = tuple(fact for fact in self.split.train if task_of(fact) != left_out)
        own = tuple(fact for fact in self.split.held_out if task_of(fact) != left_out)
        self.unseen = tuple(fact for fact in self.split.held_out if task_of(fact) == left_out)
        if not own or (left_out and not self.unseen):
            lacking = f"the task {left_out!r}" if own else "the tasks that are trained on"
            raise DataError(
                f"None of the facts set aside is of {lacking}.", remedy="Raise held_out."
            )
        self.split = replace(self.split, train=train, held_out=own)
        names = dict.fromkeys(task_of(fact) for fact in train)
        self.tasks = {name: [fact for fact in train if task_of(fact) == name] for name in names}

    def _facts(self, number: int) -> list[Fact]:
        each = max(1, self.settings.batch // len(self.tasks))
        rows = [chosen(facts, number, each, self.seed) for facts in self.tasks.values()]
        return [fact for part in rows for fact in part]

    def measure(self, progress: Progress = silent) -> TaskMeasures:
        """See Trainer."""
        trained = super().measure(progress)
        unseen = self._measured(self.unseen, progress) if self.unseen else None
        return TaskMeasures(
            trained.efficacy, trained.generalization, trained.specificity, left_out=unseen
        )


def _check_tasks(facts: Sequence[Fact], left_out: str | None) -> None:
    names = sorted({task_of(fact) for fact in facts})
    if left_out is not None and (left_out not in names or len(names) == 1):
        raise DataError(
            f"The task {left_out!r} cannot be left out: there are facts of {', '.join(names)}.",
            remedy="Name one of several tasks. A fact's is what stands in front of the slash of "
            "its id, as in 'question/17'; without one it is 'question' or 'statement'.",
        )


def _check_lengths(handle: ModelHandle, facts: Sequence[Fact]) -> None:
    limit = handle.max_positions
    if limit is None:
        return
    longest = max(DESCRIPTIONS, key=len)
    for fact in facts:
        task = task_of(fact)
        front = front_of(task, longest.format(aim=aim_of(task)))
        prompt, target = inside(fact)[0]
        before, after = handle.tokens.encode_continuation(front + prompt, target)
        if len(before) + len(after) > limit:
            raise DataError(
                f"The fact about {fact.subject!r} has {len(before) + len(after):,} tokens behind "
                f"its instruction, and the model reads {limit:,}.",
                remedy="Shorten or leave out that fact.",
            )


@dataclass(frozen=True)
class InstructEdit(LearnedMethod):
    """Edits as MEND does, behind an instruction; trained on several tasks."""

    train_settings: ClassVar[type[Schedule]] = InstructTraining

    def prepare(self, network: EditorNetwork, settings: LearnedSettings) -> None:
        """See LearnedMethod."""
        assert isinstance(network, InstructNetwork)
        assert isinstance(settings, InstructSettings)
        network.task, network.instruction = settings.task, settings.instruction

    def trainee(
        self, handle: ModelHandle, facts: Sequence[Fact], settings: TrainSettings, seed: int
    ) -> TaskTrainer:
        """See TrainedMethod."""
        return TaskTrainer(handle, self.network, facts, settings, seed=seed)


METHOD = InstructEdit(
    name="instructedit",
    title="InstructEdit",
    paper="https://arxiv.org/abs/2402.16123",
    summary="MEND for several tasks: its gradient is taken behind an instruction.",
    network=InstructNetwork,
    config=InstructSettings,
)
