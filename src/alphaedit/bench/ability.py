"""General ability: what a model could do besides what was edited, and still can.

The paper's protocol (Fang et al. 2025, Figure 4): F1 on six tasks (SST-2, MRPC, CoLA, RTE, NLI,
MMLU), some examples in the prompt, a greedy answer read as a label. F1 is averaged over labels,
weighted by how often they are right. Answers that are no label count as wrong and are reported.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import f1_score

from alphaedit.bench.intervals import Rate
from alphaedit.bench.qa import matches
from alphaedit.core.errors import ConfigError, DataError, unknown_name
from alphaedit.core.parsing import Broken, parse_json
from alphaedit.core.progress import Progress, silent
from alphaedit.core.reading import read_text
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder
from alphaedit.model.scoring import lengths
from alphaedit.world import phrasing
from alphaedit.world.facts import World

COUNT = 100
SHOTS = 4
ANSWER_TOKENS = 6
BOOTSTRAP = 300
NO_LABEL = "(none)"


@dataclass(frozen=True)
class Question:
    """A prompt, and the label that is right."""

    prompt: str
    label: str


@dataclass(frozen=True)
class Task:
    """Questions with a closed set of labels."""

    name: str
    labels: tuple[str, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Result:
    """What a model reached in a task: F1 and accuracy x 100, and how many answers were no label."""

    f1: Rate
    accuracy: float
    unread: int


@dataclass(frozen=True)
class _Form:
    """How a published task is put into words."""

    intro: str
    labels: Mapping[Any, str]
    ask: Callable[[Mapping[str, Any]], str]
    field: str = "label"


def _pair(row: Mapping[str, Any]) -> str:
    return f"Sentence 1: {row['sentence1']}\nSentence 2: {row['sentence2']}\nAnswer:"


def _choices(row: Mapping[str, Any]) -> str:
    lines = [f"{letter}. {c}" for letter, c in zip("ABCD", row["choices"], strict=True)]
    return "\n".join([f"Question: {row['question']}", *lines, "Answer:"])


FORMS: dict[str, _Form] = {
    "sst2": _Form(
        "Is the feeling of each review positive or negative?",
        {0: "negative", 1: "positive"},
        lambda row: f"Review: {row['sentence'].strip()}\nAnswer:",
    ),
    "mrpc": _Form("Do the two sentences mean the same?", {0: "no", 1: "yes"}, _pair),
    "cola": _Form(
        "Is each sentence grammatically acceptable?",
        {0: "no", 1: "yes"},
        lambda row: f"Sentence: {row['sentence']}\nAnswer:",
    ),
    "rte": _Form("Does the first sentence entail the second?", {0: "yes", 1: "no"}, _pair),
    "nli": _Form(
        "Does the first sentence entail the second?",
        {"entailment": "yes", "not_entailment": "no"},
        _pair,
    ),
    "mmlu": _Form("Answer each question by a letter.", dict(enumerate("ABCD")), _choices, "answer"),
}
"""GLUE's labels: in MRPC and CoLA 1 is yes, in RTE 0 is entailment."""


def published_tasks(
    folder: str | Path,
    names: Sequence[str] = tuple(FORMS),
    *,
    count: int = COUNT,
    shots: int = SHOTS,
    seed: int = 0,
) -> list[Task]:
    """Tasks from files NAME.json in `folder` (lists of GLUE's or MMLU's records).

    `count` questions each, drawn by `seed`, behind `shots` others with their answers.

    Raises:
        UnknownNameError: no such task.
        DataError: a file or a field is missing; the message names file, record and field.
    """
    return [_published(Path(folder), name, count, shots, seed) for name in names]


def _published(folder: Path, name: str, count: int, shots: int, seed: int) -> Task:
    if name not in FORMS:
        raise unknown_name("task", name, list(FORMS))
    form, path = FORMS[name], folder / f"{name}.json"
    if not path.exists():
        raise DataError(
            f"There is no file {path}.", remedy="Give the directory that holds NAME.json."
        )
    text = read_text(path, error=DataError, what="Task file")
    try:
        rows = parse_json(text)
    except Broken as error:
        place = f" at line {error.line}" if error.line else ""
        raise DataError(
            f"{path} cannot be read: {error.problem}{place}.", remedy="Mend the file."
        ) from None
    if not isinstance(rows, list) or len(rows) <= shots:
        raise DataError(
            f"{path} holds no list of more than {shots} records.", remedy="Give a larger file."
        )
    order = random.Random(seed).sample(range(len(rows)), min(len(rows), count + shots))
    asked = [(_ask(form, rows[i], f"{path}, record {i}")) for i in order]
    shown = "\n\n".join(f"{q.prompt} {q.label}" for q in asked[:shots])
    head = f"{form.intro}\n\n{shown}\n\n" if shots else f"{form.intro}\n\n"
    questions = tuple(Question(head + q.prompt, q.label) for q in asked[shots:])
    return Task(name, tuple(dict.fromkeys(form.labels.values())), questions)


def _ask(form: _Form, row: Any, where: str) -> Question:
    try:
        label = form.labels[row[form.field]]
        return Question(form.ask(row), label)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{where}: a field is missing or malformed: {error!r}.",
            remedy=f"Give GLUE's or MMLU's records, labels in {form.field!r}.",
        ) from None


def world_tasks(handle: ModelHandle, *, count: int = COUNT, seed: int = 0) -> list[Task]:
    """The bundled models' own tasks: true or false, same or not, topics, and questions.

    Raises:
        ConfigError: the model is no bundled one.
    """
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    if known is None:
        raise ConfigError(
            "The model is not a bundled one, whose tasks come with the package.",
            remedy="Give --data with the published tasks.",
        )
    world, tasks = World.load().largest(known), []
    for name, make in phrasing.TASKS.items():
        rng = random.Random(seed)
        made = [make(world, rng.choice(world.facts), rng) for _ in range(count)]
        asked = tuple(Question(phrasing.text_of(pieces), answer) for pieces, answer in made)
        tasks.append(Task(name, tuple(sorted({q.label for q in asked})), asked))
    rng = random.Random(seed)
    facts = rng.sample(world.facts, min(count, len(world.facts)))
    asked = tuple(
        Question(
            f"Question: {world.relations[f.relation].question.format(f.subject)} Answer:", f.object
        )
        for f in facts
    )
    return [*tasks, Task("questions", tuple(sorted({q.label for q in asked})), asked)]


def run_task(
    responder: ModelHandle | Responder, task: Task, *, progress: Progress = silent
) -> Result:
    """Ask all questions of a task."""
    longest = max(lengths(responder, task.labels))
    answers = generate(
        responder,
        [q.prompt for q in task.questions],
        max(ANSWER_TOKENS, longest + 1),
        progress=lambda done, total: progress(task.name, done, total),
    )
    # The longest label first: "A" is also the beginning of "Art".
    labels = sorted(task.labels, key=lambda label: -len(label))
    read = [next((x for x in labels if matches(t, [x])), NO_LABEL) for t in answers]
    return judge(task.labels, [q.label for q in task.questions], read)


def judge(labels: Sequence[str], right: Sequence[str], read: Sequence[str]) -> Result:
    """F1 weighted over `labels`, with a bootstrap interval over questions, and accuracy."""
    truth, given = np.array(right), np.array(read)

    def weighted(index: Any) -> float:
        return 100 * float(
            f1_score(truth[index], given[index], labels=labels, average="weighted", zero_division=0)
        )

    everything = np.arange(len(truth))
    rng = np.random.default_rng(0)
    drawn = [weighted(rng.integers(len(truth), size=len(truth))) for _ in range(BOOTSTRAP)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Result(
        f1=Rate(weighted(everything), float(low), float(high), len(truth)),
        accuracy=100 * float((truth == given).mean()),
        unread=int((given == NO_LABEL).sum()),
    )


def harness_scores(
    handle: ModelHandle, names: Sequence[str], *, limit: int | None = None
) -> dict[str, dict[str, float]]:
    """Scores of lm-evaluation-harness's tasks by name, metric by metric.

    Raises:
        ConfigError: the harness is not installed, or knows no such task.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        raise ConfigError(
            "Tasks of lm-evaluation-harness need lm-eval, which is not installed.",
            remedy="pip install 'alphaedit[eval]'",
        ) from None
    model = HFLM(pretrained=handle.model, tokenizer=handle.tokenizer)
    try:
        output = lm_eval.simple_evaluate(model=model, tasks=list(names), limit=limit)
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"lm-evaluation-harness cannot run {', '.join(names)}: {error}.",
            remedy="Check the names with `lm_eval --tasks list`.",
        ) from error
    return {
        task: {
            metric.removesuffix(",none"): float(value)
            for metric, value in scores.items()
            if isinstance(value, (int, float)) and "stderr" not in metric
        }
        for task, scores in output["results"].items()
    }
