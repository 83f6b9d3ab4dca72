"""Stricter probes: does a model hold an edit, or only say the words after the words?

Each probe is made of a record's own subject, prompt, new and old object, and scored by comparing
continuations, so that it needs no judge. The unedited model takes the same test about what it held
before, the old objects: where it is at chance, the probe says nothing about an edit. See
docs/strict.md for the rules in words and where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.intervals import Rate, percent
from alphaedit.bench.metrics import Metrics
from alphaedit.bench.qa import asked_directly, matches
from alphaedit.bench.strict_prompts import LETTERS, UNSURE, choice, judged, negated
from alphaedit.core.errors import DataError
from alphaedit.core.progress import Progress, silent
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score

Held = Literal["new", "old"]
"""Which object of a record the model is taken to hold: after its edit the new one."""
STRICT = (
    "negation",
    "true_false",
    "true_false_relative",
    "sa_mcq",
    "sa_mcq_unsure",
    "old_said",
    "old_concluded",
)
"""Metrics in the order of tables."""
CHANCE = {"negation": 50.0, "true_false": 50.0, "true_false_relative": 50.0, "sa_mcq": 50.0}
"""What answers by chance, or the same answer to everything, give; in percent."""
SAID_TOKENS = 24
SAID_RECORDS = 60
"""Most records whose texts are read."""
ANSWER_TOKENS = 16
RARE = 5.0
"""Percent of texts below which the old object is as good as never named."""


def strict_metrics(
    handle: ModelHandle,
    records: Sequence[EditRecord],
    expected: Held,
    *,
    concluded: Mapping[str, str] | None = None,
    generation: bool = True,
    progress: Progress = silent,
) -> Metrics:
    """All probes. Let h be the object that the model should hold now, and o the other one.

    Compared are mean log-probabilities of a continuation's tokens, by `model.scoring.score`;
    equal ones count as wrong. Records without an old object are left out.

    - negation: share of records with p(o | N) > p(h | N), N the negated prompt
      (`strict_prompts.negated`): under "not" what holds must be the less likely. Chance 50.
    - true_false: share of statements judged right: "true" likelier than "false" of the statement
      with h, and "false" likelier of the one with o. Both count, so that a model that says "true"
      to everything has 50, which is chance.
    - true_false_relative: share of records with log p(true) - log p(false) larger for the statement
      with h than for the one with o: the same without the model's preference for a word. Chance 50.
    - sa_mcq: share of two-way choices in which the letter of h is the likelier; each record is
      asked in both orders, so that a model that always says "A" has 50, which is chance.
    - sa_mcq_unsure: share of three-way choices (both orders) in which the letter of "I am not sure"
      is the likeliest.
    - old_said: see `old_said` (needs `generation`).
    - old_concluded: share of questions that follow from the edit, of several hops, which the
      unedited model did not answer as the edit wants, and which are answered word for word as by
      the unedited model (needs `generation` and `concluded`, of `conclusions`).

    Args:
        handle: the model.
        records: what was, or will be, edited.
        expected: "new" after the edits, "old" before.
        concluded: what the unedited model said to questions that follow.
        generation: also what needs text.
        progress: is told how far it is.
    """
    told = [record for record in records if record.target_true and record.target_new]
    out: Metrics = {}
    out |= _negation(handle, told, expected, progress)
    out |= _true_false(handle, told, expected, progress)
    out |= _choices(handle, told, expected, progress)
    if generation:
        out["old_said"] = percent(old_said(handle, told, progress=progress))
        if concluded is not None:
            out["old_concluded"] = percent(_still(handle, records, concluded))
    return out


def objects(record: EditRecord, expected: Held) -> tuple[str, str]:
    """What the model should hold, and the other object."""
    both = (record.target_new, record.target_true)
    return both if expected == "new" else both[::-1]


def _negation(
    handle: ModelHandle, records: Sequence[EditRecord], expected: Held, progress: Progress
) -> Metrics:
    pairs = [
        (negated(record.rewrite, record.subject), answer)
        for record in records
        for answer in objects(record, expected)
    ]
    logprobs = [row.mean_logprob for row in score(handle, pairs, progress=progress)]
    return {
        "negation": percent([o > h for h, o in zip(logprobs[::2], logprobs[1::2], strict=True)])
    }


def _true_false(
    handle: ModelHandle, records: Sequence[EditRecord], expected: Held, progress: Progress
) -> Metrics:
    pairs = [
        (judged(record, answer), word)
        for record in records
        for answer in objects(record, expected)
        for word in ("true", "false")
    ]
    logprobs = [row.mean_logprob for row in score(handle, pairs, progress=progress)]
    lean = [true - false for true, false in zip(logprobs[::2], logprobs[1::2], strict=True)]
    both = list(zip(lean[::2], lean[1::2], strict=True))
    return {
        "true_false": percent([right for h, o in both for right in (h > 0, o < 0)]),
        "true_false_relative": percent([h > o for h, o in both]),
    }


def _choices(
    handle: ModelHandle, records: Sequence[EditRecord], expected: Held, progress: Progress
) -> Metrics:
    asked = [
        (record, options, place)
        for record in records
        for h, o in [objects(record, expected)]
        for options, place in (((h, o), 0), ((o, h), 1))
    ]
    two = [(choice(r, options), letter) for r, options, _ in asked for letter in LETTERS[:2]]
    three = [(choice(r, (*opts, UNSURE)), letter) for r, opts, _ in asked for letter in LETTERS]
    logprobs = [row.mean_logprob for row in score(handle, [*two, *three], progress=progress)]
    right = [
        logprobs[2 * i + place] > logprobs[2 * i + 1 - place]
        for i, (_, _, place) in enumerate(asked)
    ]
    rest = logprobs[len(two) :]
    unsure = [rest[3 * i + 2] > max(rest[3 * i : 3 * i + 2]) for i in range(len(asked))]
    return {"sa_mcq": percent(right), "sa_mcq_unsure": percent(unsure)}


def old_said(
    handle: ModelHandle, records: Sequence[EditRecord], *, progress: Progress = silent
) -> list[bool]:
    """Whether greedy texts still name the old object, as whole words, and not the new one.

    Texts of 24 tokens after each paraphrase and generation prompt of at most 60 records, evenly
    spread. Lower is better; the unedited model's share says how much there is to lose.
    """
    chosen = list(records)[:: max(1, -(-len(records) // SAID_RECORDS))]
    asked = [
        (record, prompt)
        for record in chosen
        for prompt in dict.fromkeys((*record.paraphrase_prompts, *record.generation_prompts))
    ]
    texts = generate(
        handle,
        [prompt for _, prompt in asked],
        SAID_TOKENS,
        progress=lambda done, total: progress("texts", done, total),
    )
    return [
        names(text, record.target_true) and not names(text, record.target_new)
        for (record, _), text in zip(asked, texts, strict=True)
    ]


def names(text: str, wanted: str) -> bool:
    """Whether a text holds `wanted` as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE) is not None


def conclusions(handle: ModelHandle, records: Sequence[EditRecord]) -> dict[str, str]:
    """What the model answers now to questions that follow from the edits, by prompt."""
    prompts = list(dict.fromkeys(_asked(p) for record in records for p in _following(record)))
    return dict(zip(prompts, _short_answers(handle, prompts), strict=True))


def _still(
    handle: ModelHandle, records: Sequence[EditRecord], concluded: Mapping[str, str]
) -> list[bool]:
    """Whether questions that had another answer are answered as they were."""
    asked = [
        _asked(p)
        for record in records
        for p in _following(record)
        if _asked(p) in concluded and not matches(concluded[_asked(p)], p.answers)
    ]
    now = _short_answers(handle, asked)
    return [concluded[prompt] == text for prompt, text in zip(asked, now, strict=True)]


def _following(record: EditRecord) -> list[Probe]:
    return [p for p in record.probes if p.kind in ("portability", "multi_hop")]


def _asked(probe: Probe) -> str:
    return asked_directly(probe.prompt) if probe.kind == "multi_hop" else probe.prompt


def _short_answers(handle: ModelHandle, prompts: Sequence[str]) -> list[str]:
    texts = generate(handle, list(prompts), ANSWER_TOKENS)
    return [re.split(r"[.\n]", text, maxsplit=1)[0].strip() for text in texts]


UNEDITED_ROW = (
    "{}: the unedited model is asked about what it held before, the old objects; edited models "
    "about the new ones."
)


def at_chance(unedited: Mapping[str, Rate]) -> list[str]:
    """Probes in which the unedited model, about what it held, is not above chance (95 %)."""
    return [
        name
        for name, level in CHANCE.items()
        if (rate := unedited.get(name)) is not None and rate.low <= level
    ]


def _named(metrics: Sequence[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in metrics)


def caveats(unedited: Mapping[str, Rate]) -> list[str]:
    """What the unedited model's own scores say about how much a table of these probes can tell.

    Args:
        unedited: its metrics, each the same test about what it held before any edit.
    """
    there = [name for name in CHANCE if name in unedited]
    notes = [UNEDITED_ROW.format(_named(there))] if there else []
    unable = at_chance(unedited)
    if unable:
        notes.append(
            f"{_named(unable)}: the unedited model is no better than chance (50 %). A model that "
            "cannot do a test about what it holds says nothing about edits by it."
        )
    spoken = unedited.get("old_said")
    if spoken is not None and spoken.value < RARE:
        notes.append(
            f"old said: the unedited model names the old object in {spoken.value:.1f} % of its "
            "texts, so that there is next to nothing to lose."
        )
    return notes


@dataclass(frozen=True)
class Before:
    """What was asked of the unedited model.

    Attributes:
        metrics: its own scores, about what it held.
        concluded: its answers to questions that follow from the edits.
    """

    metrics: Metrics
    concluded: Mapping[str, str]


def before_edits(
    handle: ModelHandle,
    records: Sequence[EditRecord],
    *,
    generation: bool = True,
    progress: Progress = silent,
) -> Before:
    """Ask the unedited model all that its edited self will be asked."""
    metrics = strict_metrics(handle, records, "old", generation=generation, progress=progress)
    return Before(metrics, conclusions(handle, records) if generation else {})


def unsaid(
    handle: ModelHandle, records: Sequence[EditRecord], *, progress: Progress = silent
) -> list[EditRecord]:
    """Records with a new object that the model does not say by greedy decoding (pre-check).

    Only what a model gets wrong can be corrected (HalluEditBench, Huang et al. 2025): what it says
    already would count as a success of any edit.

    Raises:
        DataError: it says all of them.
    """
    asked = [(fact.text, fact.target) for record in records for fact in record.facts]
    exact = iter([row.exact for row in score(handle, asked, progress=progress)])
    left = [r for r in records if not all([next(exact) for _ in r.facts])]
    if records and not left:
        raise DataError(
            f"The model says the new objects of all {len(records)} records before any edit.",
            remedy="Give other records, or leave the pre-check out.",
        )
    return left
