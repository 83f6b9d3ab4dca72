"""What `learned` edits, what its editors are trained on, and how each row is made."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import get_schema, load, read_all
from alphaedit.bench.sources import FEW_FACTS, training_facts, world_records
from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle
from alphaedit.world import phrasing
from alphaedit.world.facts import World
from alphaedit.world.records import training_records
from benchmarks.memories_data import ZSRE, without_edited

SINGLE, SEQUENCE, LONG_SEQUENCE, BATCH = 100, 100, 200, 1000
"""Facts that are edited each alone, one after the other, in batches of four, and all at once."""
TASKS = 60
"""Facts that are edited as each task, each alone."""
ASKED_OF = {"sequence": 2, "fours": 2, "batch": 8}
"""Of so many facts one is asked when all are edited, for time."""
NEIGHBORS = 4
"""At most, of up to ten of each record, for time."""
LEFT_OUT = "question"
"""Task that no editor for several tasks is trained on."""
REAL_EDITED, REAL_NEIGHBORS = 40, 4
"""Records of the ZsRE sample that are edited; unrelated questions that each fact is trained on."""
ASKED = "Question: {} Answer:"


@dataclass(frozen=True)
class Training:
    """How an editor of this benchmark is trained.

    Attributes:
        method: its name.
        facts: name of what it is trained on, see `facts_named`.
        settings: those that are not what the method takes by itself.
    """

    method: str
    facts: str
    settings: Mapping[str, Any] = field(default_factory=dict)


TRAININGS = {
    "malmen": Training(
        "malmen", "apart", {"steps": 20, "every": 20, "batch": 32, "warm": 100, "held_out": 32}
    ),
    "ke-small": Training("ke", "world", {"steps": 300, "every": 100, "learning_rate": 1e-3}),
    "malmen-small": Training("malmen", "apart", {"steps": 150, "every": 50, "batch": 16}),
    "rledit-small": Training("rledit", "apart", {"steps": 60, "every": 30, "warm": 100}),
    "instructedit-small": Training(
        "instructedit", "tasks", {"steps": 240, "every": 80, "held_out": 60, "left_out": LEFT_OUT}
    ),
}
"""By name. "mend" is the editor that comes with the package."""


@dataclass(frozen=True)
class Plan:
    """How a row is made.

    Attributes:
        method: its name.
        batch: facts of a batch; 0: all at once.
        editor: name of a training, or none.
        settings: those that are not what the method takes by itself.
    """

    method: str
    batch: int = 1
    editor: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


UNTIL = {"until": 0.69}
"""As likely as not; chosen on other facts, see docs/methods/mend.md."""
CLOSED = {"alphaedit": Plan("alphaedit")}
PLANS: dict[str, dict[str, Plan]] = {
    "single": {
        "mend": Plan("mend"),
        "mend, until 0.69": Plan("mend", settings=UNTIL),
        **CLOSED,
    },
    "small": {
        "mend": Plan("mend"),
        "mend, until 0.69": Plan("mend", settings=UNTIL),
        "ke": Plan("ke", editor="ke-small"),
        "ke, until 0.69": Plan("ke", editor="ke-small", settings=UNTIL),
    },
    "sequence": {
        "mend": Plan("mend"),
        "mend, until 0.69": Plan("mend", settings=UNTIL),
        **CLOSED,
    },
    "fours": {
        "mend": Plan("mend", batch=4),
        "mend, until 0.69": Plan("mend", batch=4, settings=UNTIL),
        "malmen": Plan("malmen", batch=4, editor="malmen-small"),
        "rledit": Plan("rledit", batch=4, editor="rledit-small"),
    },
    "batch": {
        "malmen": Plan("malmen", batch=0, editor="malmen"),
    },
    "tasks": {
        "mend": Plan("mend"),
        "mend, until 0.69": Plan("mend", settings=UNTIL),
        "instructedit": Plan("instructedit", editor="instructedit-small"),
        "instructedit, until 0.69": Plan(
            "instructedit", editor="instructedit-small", settings=UNTIL
        ),
    },
}
"""By part, by the row's label."""
SMALL = ("small", "fours", "tasks")
"""Parts on `bundled-small`, where many trainings are affordable; the others are on `bundled`."""
BY_NETWORK = ("small", "tasks")
"""Parts of edits each alone whose figures are taken some facts at a time."""


def rows_of(part: str, handle: ModelHandle, *, quick: bool) -> dict[str, list[EditRecord]]:
    """Records that a part edits, by name; their subjects are in no training but the shipped ones'.

    The first 120 subjects of seed 0 are in no training at all.
    """
    counts = {
        "single": SINGLE,
        "small": SINGLE,
        "sequence": SEQUENCE,
        "fours": LONG_SEQUENCE,
        "batch": BATCH,
    }
    if part == "tasks":
        asked = task_records(handle, 3 if quick else TASKS)
        return {f"tasks, {task}": list(map(with_few, own)) for task, own in asked.items()}
    count = min(counts[part], 12 if quick else BATCH)
    records = world_records(handle, count, 0)
    if part in ("single", "small"):  # nothing else is edited, then
        return {part: [with_few(record) for record in records]}
    return {part: without_edited(records, NEIGHBORS)}


def with_few(record: EditRecord) -> EditRecord:
    """A record with fewer neighbors."""
    few = record.neighborhood_prompts[:NEIGHBORS]
    return replace(record, neighborhood_prompts=few, probes=())


def facts_named(name: str, handle: ModelHandle, *, quick: bool) -> list[Fact]:
    """What editors are trained on: "world" as the command does, "apart" of other subjects."""
    if name == "world":
        facts = training_facts(handle)
    elif name == "apart":
        facts = _facts_apart(handle)
    else:
        facts = _task_facts(handle)
    return random.Random(0).sample(facts, 60) if quick else facts


def _world_of(handle: ModelHandle) -> World:
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    return World.load().largest(known) if known else World.load()


def _facts_apart(handle: ModelHandle) -> list[Fact]:
    """Facts about none of the subjects of `BATCH` records."""
    world = _world_of(handle)
    most = min(BATCH, len({fact.subject for fact in world.facts}) // 2)
    rows: list[dict[str, Any]] = []
    for seed in range(3):  # other objects for few facts, as in `training_facts`
        rows += training_records(world, tested=most, seed=seed)
        if len(rows) >= FEW_FACTS:
            break
    placed = [(f"world, record {i}", row) for i, row in enumerate(rows)]
    return [record.fact for record in read_all(placed, get_schema("counterfact"), named=True)[0]]


def tasks_of(world: World, record: EditRecord) -> dict[str, EditRecord]:
    """A record as a statement, as a question by its noun, and as a question of its own."""
    relation = world.relations[record.relation_id]
    others = [
        fact.subject
        for fact in world.of_object[(record.relation_id, record.target_true)]
        if fact.subject != record.subject
    ][:10]
    nouns = [ASKED.format(f"What is the {noun} of {{}}?") for noun in relation.nouns]
    statements = phrasing.train_phrasings(relation)
    forms = {
        "statement": (record.prompt, [text for text in statements if text != record.prompt][:6]),
        "noun": (nouns[0], [*nouns[1:], statements[0]]),
        LEFT_OUT: (ASKED.format(relation.question), [nouns[0], statements[0]]),
    }
    return {
        task: replace(
            record,
            case_id=f"{task}/{record.case_id}",
            prompt=prompt,
            paraphrase_prompts=tuple(text.format(record.subject) for text in told),
            neighborhood_prompts=tuple(prompt.format(other) for other in others),
            probes=(),
        )
        for task, (prompt, told) in forms.items()
    }


def task_records(handle: ModelHandle, count: int) -> dict[str, list[EditRecord]]:
    """The first records, asked as each task asks."""
    world = _world_of(handle)
    asked = [tasks_of(world, record) for record in world_records(handle, count, 0)]
    return {task: [by_task[task] for by_task in asked] for task in asked[0]}


def _task_facts(handle: ModelHandle) -> list[Fact]:
    """Facts to train on, each as one task, in turn."""
    world, facts = _world_of(handle), []
    rows = training_records(world)
    placed = [(f"world, record {i}", row) for i, row in enumerate(rows)]
    records = read_all(placed, get_schema("counterfact"), named=True)[0]
    random.Random(0).shuffle(records)
    for number, record in enumerate(records):
        by_task = tasks_of(world, record)
        task = list(by_task)[number % len(by_task)]
        fact = by_task[task].fact
        if fact.paraphrases and fact.neighborhood:
            facts.append(replace(fact, id=by_task[task].case_id))
    return facts


def of_zsre(data: Path) -> tuple[list[EditRecord], list[Fact]]:
    """Records of the ZsRE sample to edit, and facts of the others to train on.

    The sample has one unrelated question for each record; a fact is trained on those of others,
    too.
    """
    whole = [r for r in load(data / ZSRE, "zsre").records if r.paraphrase_prompts and _unrelated(r)]
    edited, others = whole[:REAL_EDITED], whole[REAL_EDITED:]
    asked = [prompt for record in others for prompt in _unrelated(record)]
    rng = random.Random(0)
    facts = []
    for record in others:
        more = tuple(rng.sample(asked, REAL_NEIGHBORS))
        facts.append(replace(record.fact, neighborhood=(*_unrelated(record), *more)))
    return edited, facts


def _unrelated(record: EditRecord) -> tuple[str, ...]:
    """Questions that have nothing to do with the record."""
    return tuple(probe.prompt for probe in record.probes if probe.kind == "locality")
