"""Facts by which a model is tried out: well-known ones, or those of the bundled world.

They are the same whatever a user is about to edit, so that what is chosen by them is too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import next_token, score
from alphaedit.stats.phrasings import well_known
from alphaedit.world.facts import World
from alphaedit.world.records import records

COUNT = 12
"""Facts edited together in a trial."""
NEIGHBORS = 3
LITTLE = 0.2
"""Share of the well-known facts, above chance, below which the bundled world is asked as well."""


@dataclass(frozen=True)
class Probe:
    """A fact to be edited for trial.

    Attributes:
        fact: with another object than the true one (`truth`), and paraphrases.
        neighbors: (prompt, true object) of other subjects of the same relation.
    """

    fact: Fact
    neighbors: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Asked:
    """A subject of a relation, and whether the model knows its object."""

    relation: int
    subject: str
    truth: str
    known: bool


def probes(handle: ModelHandle, *, count: int = COUNT, seed: int = 0) -> list[Probe]:
    """Facts for trial edits, such as the model knows, spread over relations.

    Where a model knows hardly any, those that it does not know are used as well: what an edit does
    to paraphrases can be seen of them too.
    """
    listed, share = _well_known(handle, count, seed)
    if share < LITTLE:
        other, known = _of_world(handle, count, seed)
        if known > share:
            return other
    return listed


def facts_said(handle: ModelHandle) -> list[tuple[str, str, str]]:
    """(subject, prompt, object) of the well-known facts that a model says by greedy decoding."""
    rows = [
        (subject, relation["prompt"].format(subject), truth)
        for relation in well_known()
        for subject, truth in relation["pairs"].items()
    ]
    scores = score(handle, [(prompt, truth) for _, prompt, truth in rows])
    return [row for row, scored in zip(rows, scores, strict=True) if scored.exact]


def _well_known(handle: ModelHandle, count: int, seed: int) -> tuple[list[Probe], float]:
    """Probes of the built-in set, and how much of it the model knows, above chance."""
    relations = well_known()
    objects = [list(dict.fromkeys(r["pairs"].values())) for r in relations]
    asked = [
        (i, subject, truth)
        for i, r in enumerate(relations)
        for subject, truth in r["pairs"].items()
    ]
    heard = next_token(handle, [relations[i]["prompt"].format(subject) for i, subject, _ in asked])
    rows, chance = [], 0.0
    for (i, subject, truth), likely in zip(asked, heard, strict=True):
        prompt = relations[i]["prompt"].format(subject)
        first = {o: handle.tokens.encode_continuation(prompt, o)[1][0] for o in objects[i]}
        best = max(float(likely[token]) for token in first.values())
        rows.append(_Asked(i, subject, truth, float(likely[first[truth]]) == best))
        chance += 1 / len(objects[i])
    right, chance = sum(row.known for row in rows) / len(rows), chance / len(rows)
    rng = random.Random(seed)
    chosen = _spread(rows, count, rng)
    made = []
    for row in chosen:
        relation = relations[row.relation]
        other = [value for value in objects[row.relation] if value != row.truth]
        fact = Fact(
            relation["prompt"],
            row.subject,
            rng.choice(other),
            truth=row.truth,
            paraphrases=tuple(p.format(row.subject) for p in relation["paraphrases"]),
        )
        rest = [r for r in rows if r.relation == row.relation and r not in chosen]
        rest.sort(key=lambda r: (not r.known, r.truth != row.truth))
        near = tuple((relation["prompt"].format(r.subject), r.truth) for r in rest[:NEIGHBORS])
        made.append(Probe(fact, near))
    return made, (right - chance) / (1 - chance)


def _spread(rows: Sequence[_Asked], count: int, rng: random.Random) -> list[_Asked]:
    """Known facts first, one relation after the other."""
    by_relation: dict[int, list[_Asked]] = {}
    for row in rng.sample(list(rows), len(rows)):
        by_relation.setdefault(row.relation, []).append(row)
    ordered = sorted(
        (not row.known, place, row.relation, at)
        for members in by_relation.values()
        for place, row in enumerate(sorted(members, key=lambda r: not r.known))
        for at in [rows.index(row)]
    )
    return [rows[at] for _, _, _, at in ordered[:count]]


def _of_world(handle: ModelHandle, count: int, seed: int) -> tuple[list[Probe], float]:
    """Probes of the bundled world, and how much of it the model knows, above chance."""
    drawn = records(World.load(), 4 * count, seed=seed)
    facts = [row["requested_rewrite"] for row in drawn]
    pairs = [
        (f["prompt"].format(f["subject"]), f[name]["str"])
        for f in facts
        for name in ("target_true", "target_new")
    ]
    scores = [s.mean_logprob for s in score(handle, pairs)]
    known = [scores[2 * i] > scores[2 * i + 1] for i in range(len(facts))]
    order = sorted(range(len(facts)), key=lambda i: not known[i])[:count]
    made = []
    for i in order:
        asked, row = facts[i], drawn[i]
        truth = asked["target_true"]["str"]
        fact = Fact(
            asked["prompt"],
            asked["subject"],
            asked["target_new"]["str"],
            truth=truth,
            paraphrases=tuple(row["paraphrase_prompts"]),
        )
        near = tuple((p, truth) for p in row["neighborhood_prompts"][:NEIGHBORS])
        made.append(Probe(fact, near))
    return made, 2 * (sum(known) / len(known)) - 1
