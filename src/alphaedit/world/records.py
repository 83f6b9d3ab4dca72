"""CounterFact-schema records about the world, and probes of facts that are not edited."""

from __future__ import annotations

import random
from typing import Any

from alphaedit.world import phrasing
from alphaedit.world.facts import World, WorldFact

NEIGHBORS = 10
PARAPHRASES = 2
GENERATION_PROMPTS = 3
TESTED = 120
"""Subjects that editors are not trained on."""


def _editable(world: World, fact: WorldFact) -> bool:
    return len(world.of_object[(fact.relation, fact.object)]) > 1 and (
        len(world.objects[fact.relation]) > 1
    )


def record(world: World, fact: WorldFact, case_id: int, rng: random.Random) -> dict[str, Any]:
    """One counterfactual record: `fact` with another object of its relation.

    Rewrite prompts use a training phrasing, paraphrases held-out ones, neighborhood prompts other
    subjects with the same object.
    """
    relation = world.relations[fact.relation]
    known = [o for o in world.objects[fact.relation] if o != fact.object]
    new = rng.choice(known)
    train, held_out = phrasing.train_phrasings(relation), phrasing.held_phrasings(relation)
    same = [f for f in world.of_object[(fact.relation, fact.object)] if f != fact]
    other = list(world.of_object[(fact.relation, new)])
    canonical = train[0]
    return {
        "case_id": case_id,
        "requested_rewrite": {
            "prompt": canonical,
            "relation_id": fact.relation,
            "target_new": {"str": new, "id": ""},
            "target_true": {"str": fact.object, "id": ""},
            "subject": fact.subject,
        },
        "paraphrase_prompts": [
            t.format(fact.subject) for t in rng.sample(held_out, min(PARAPHRASES, len(held_out)))
        ],
        "neighborhood_prompts": [
            canonical.format(f.subject) for f in rng.sample(same, min(NEIGHBORS, len(same)))
        ],
        "attribute_prompts": [
            canonical.format(f.subject) for f in rng.sample(other, min(NEIGHBORS, len(other)))
        ],
        "generation_prompts": [
            t.format(fact.subject) for t in rng.sample(train, GENERATION_PROMPTS)
        ],
    }


def records(world: World, count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """`count` records about different subjects, drawn over all relations by `seed`."""
    rng = random.Random(seed)
    facts = [f for f in world.facts if _editable(world, f)]
    rng.shuffle(facts)
    by_subject = {f.subject: f for f in reversed(facts)}
    chosen = [f for f in facts if by_subject[f.subject] is f][:count]
    return [record(world, fact, i, rng) for i, fact in enumerate(chosen)]


def training_records(
    world: World, *, tested: int = TESTED, paraphrases: int = 6, seed: int = 0
) -> list[dict[str, Any]]:
    """Records to train editors on: every fact but those about subjects that tests draw first.

    Rewrite prompts and paraphrases are training phrasings, so that the held-out ones of `records`
    are new to an editor, too.

    Args:
        tested: subjects of so many `records` of seed 0 are left out.
        paraphrases: at most, of each fact.
    """
    rng = random.Random(seed)
    without = {row["requested_rewrite"]["subject"] for row in records(world, tested)}
    rows = []
    for number, fact in enumerate(world.facts):
        if fact.subject in without or not _editable(world, fact):
            continue
        row = record(world, fact, number, rng)
        train = phrasing.train_phrasings(world.relations[fact.relation])
        told = rng.sample(train, min(paraphrases + 1, len(train)))
        # Half of the edits are made by the canonical phrasing, as those of `records` are.
        if rng.random() < 0.5:
            told = [train[0], *(text for text in told if text != train[0])]
        row["requested_rewrite"]["prompt"] = told[0]
        row["paraphrase_prompts"] = [text.format(fact.subject) for text in told[1:]]
        # In the edit's own words, which is where neighbors are hardest to leave alone.
        same = [f for f in world.of_object[(fact.relation, fact.object)] if f != fact]
        near = rng.sample(same, min(NEIGHBORS, len(same)))
        row["neighborhood_prompts"] = [told[0].format(f.subject) for f in near]
        rows.append(row)
    return rows


def probes(world: World, without: set[str], count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """(prompt, object) of `count` facts about subjects not in `without`."""
    rng = random.Random(seed)
    facts = [f for f in world.facts if f.subject not in without]
    chosen = rng.sample(facts, min(count, len(facts)))
    return [
        (phrasing.train_phrasings(world.relations[f.relation])[0].format(f.subject), f.object)
        for f in chosen
    ]
