"""The world's counterfactuals in the schemas of other benchmarks, with probes made of its facts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from alphaedit.world import phrasing
from alphaedit.world.facts import World, WorldFact
from alphaedit.world.records import records

Row = dict[str, Any]
LOCAL = 3
HOPS = 3


def _asked(question: str) -> str:
    return f"Question: {question} Answer:"


def _question(world: World, fact: WorldFact) -> str:
    return _asked(world.relations[fact.relation].question.format(fact.subject))


def _noun_question(world: World, relation: str, subject: str) -> str:
    return _asked(f"What is the {world.relations[relation].nouns[0]} of {subject}?")


def _chosen(world: World, count: int, seed: int) -> list[tuple[WorldFact, Row]]:
    chosen = []
    for row in records(world, count, seed=seed):
        r = row["requested_rewrite"]
        chosen.append((WorldFact(r["subject"], r["relation_id"], r["target_true"]["str"]), row))
    return chosen


def _others(world: World, fact: WorldFact, rng: random.Random, count: int) -> list[WorldFact]:
    """Facts about other subjects."""
    others: list[WorldFact] = []
    while len(others) < count:
        other = rng.choice(world.facts)
        if other.subject != fact.subject and other not in others:
            others.append(other)
    return others


def _same_subject(world: World, fact: WorldFact) -> list[WorldFact]:
    return [f for f in world.of_subject[fact.subject] if f.relation != fact.relation]


def counterfact(world: World, count: int, seed: int) -> list[Row]:
    """CounterFact."""
    return records(world, count, seed=seed)


def zsre(world: World, count: int, seed: int) -> list[Row]:
    """ZsRE in MEND's format: questions."""
    rng = random.Random(seed)
    rows = []
    for fact, row in _chosen(world, count, seed):
        (other,) = _others(world, fact, rng, 1)
        new = row["requested_rewrite"]["target_new"]["str"]
        rows.append(
            {
                "case_id": row["case_id"],
                "subject": fact.subject,
                "src": _question(world, fact),
                "pred": fact.object,
                "rephrase": _noun_question(world, fact.relation, fact.subject),
                "alt": new,
                "answers": [fact.object],
                "loc": _question(world, other),
                "loc_ans": other.object,
                "cond": f"{fact.object} >> {new} || {_question(world, fact)}",
            }
        )
    return rows


def knowedit(world: World, count: int, seed: int) -> list[Row]:
    """KnowEdit: portability by reasoning (two hops) and logic (the same object as another's)."""
    rng = random.Random(seed)
    rows = []
    for fact, row in _chosen(world, count, seed):
        new = row["requested_rewrite"]["target_new"]["str"]
        relation = world.relations[fact.relation]
        noun = relation.nouns[0]
        reasoning = [
            {
                "prompt": _asked(
                    f"What is the {world.relations[f.relation].nouns[0]} of the {noun} of "
                    f"{fact.subject}?"
                ),
                "ground_truth": [[f.object]],
            }
            for f in world.of_subject.get(new, ())[:HOPS]
        ]
        alike = rng.choice(world.of_object[(fact.relation, new)])
        logic = {
            "prompt": f"Do {fact.subject} and {alike.subject} have the same {noun}? Answer:",
            "ground_truth": [["yes"]],
        }
        specific = [
            {"prompt": _question(world, f), "ground_truth": [[f.object]]}
            for f in _same_subject(world, fact)[:LOCAL]
        ]
        forgotten = [
            {"prompt": _question(world, f), "ground_truth": [[f.object]]}
            for f in _others(world, fact, rng, LOCAL)
        ]
        rows.append(
            {
                "case_id": row["case_id"],
                "subject": fact.subject,
                "prompt": row["requested_rewrite"]["prompt"].format(fact.subject),
                "target_new": new,
                "ground_truth": fact.object,
                "rephrase_prompt": row["paraphrase_prompts"][0],
                "portability": {
                    **({"Reasoning": reasoning} if reasoning else {}),
                    "Logical_Generalization": [logic],
                },
                "locality": {
                    **({"Relation_Specificity": specific} if specific else {}),
                    "Forgetfulness": forgotten,
                },
            }
        )
    return rows


def mquake(world: World, count: int, seed: int) -> list[Row]:
    """MQuAKE: an edit to an object that the world knows facts about, and questions of two hops."""
    rng = random.Random(seed)
    facts = [f for f in world.facts if len(world.objects[f.relation]) > 1]
    rng.shuffle(facts)
    rows: list[Row] = []
    seen: set[str] = set()
    for fact in facts:
        if len(rows) == count:
            break
        known = [
            o for o in world.objects[fact.relation] if o != fact.object and o in world.of_subject
        ]
        if not known or fact.subject in seen:
            continue
        new = rng.choice(known)
        second = rng.choice(world.of_subject[new])
        inner, outer = world.relations[fact.relation], world.relations[second.relation]
        seen.add(fact.subject)
        nouns = [(a, b) for a in inner.nouns for b in outer.nouns]
        rng.shuffle(nouns)
        asked = [f"Question: What is the {b} of the {a} of {fact.subject}?" for a, b in nouns[:3]]
        old = [f for f in world.of_subject.get(fact.object, ()) if f.relation == second.relation]
        rows.append(
            {
                "case_id": len(rows),
                "requested_rewrite": [
                    {
                        "prompt": phrasing.train_phrasings(inner)[0],
                        "relation_id": fact.relation,
                        "target_new": {"str": new, "id": ""},
                        "target_true": {"str": fact.object, "id": ""},
                        "subject": fact.subject,
                        "question": _question(world, fact),
                    }
                ],
                "questions": asked,
                "answer": old[0].object if old else "",
                "answer_alias": [],
                "new_answer": second.object,
                "new_answer_alias": [],
                "single_hops": [],
                "new_single_hops": [
                    {
                        "question": _question(world, f).removesuffix(" Answer:"),
                        "answer": answer,
                        "answer_alias": [],
                    }
                    for f, answer in ((fact, new), (second, second.object))
                ],
            }
        )
    return rows


def longform(world: World, count: int, seed: int) -> list[Row]:
    """UnKE's form: a question about a subject, answered by several sentences that are false."""
    rng = random.Random(seed)
    rows = []
    for fact, row in _chosen(world, count, seed):
        new = row["requested_rewrite"]["target_new"]["str"]
        changed = [WorldFact(fact.subject, fact.relation, new)]
        for other in _same_subject(world, fact)[:2]:
            objects = [o for o in world.objects[other.relation] if o != other.object]
            if objects:
                changed.append(WorldFact(other.subject, other.relation, rng.choice(objects)))
        sentences = [
            phrasing.train_phrasings(world.relations[f.relation])[0].format(f.subject)
            + f" {f.object}."
            for f in changed
        ]
        rows.append(
            {
                "id": row["case_id"],
                "question": f"Question: What do you know about {fact.subject}?",
                "para_question": f"Question: What can you tell about {fact.subject}?",
                "answer": " ".join(sentences),
                "sub_question": [_question(world, f) for f in changed],
                "sub_answer": [f.object for f in changed],
            }
        )
    return rows


def easyedit(world: World, count: int, seed: int) -> list[Row]:
    """EasyEdit's flat records."""
    rng = random.Random(seed)
    rows = []
    for fact, row in _chosen(world, count, seed):
        (other,) = _others(world, fact, rng, 1)
        rows.append(
            {
                "case_id": row["case_id"],
                "prompt": row["requested_rewrite"]["prompt"].format(fact.subject),
                "subject": fact.subject,
                "target_new": row["requested_rewrite"]["target_new"]["str"],
                "ground_truth": fact.object,
                "rephrase_prompt": row["paraphrase_prompts"][0],
                "locality_prompt": _question(world, other),
                "locality_ground_truth": other.object,
            }
        )
    return rows


def ripple(world: World, count: int, seed: int) -> list[Row]:
    """RippleEdits' form of the same probes as KnowEdit's."""
    rows = []
    for row in knowedit(world, count, seed):
        tests = {
            name: [
                {
                    "test_queries": [
                        {
                            "prompt": probe["prompt"],
                            "answers": [{"value": probe["ground_truth"][0][0], "aliases": []}],
                        }
                    ]
                }
                for probe in probes
            ]
            for group in ("portability", "locality")
            for name, probes in row[group].items()
        }
        tests["Compositionality_I"] = tests.pop("Reasoning", [])
        rows.append(
            {
                "case_id": row["case_id"],
                "edit": {
                    "prompt": f"{row['prompt']} {row['target_new']}.",
                    "subject": row["subject"],
                    "relation": "",
                    "original_fact": {"prompt": f"{row['prompt']} {row['ground_truth']}."},
                },
                **tests,
            }
        )
    return rows


def leme(world: World, count: int, seed: int) -> list[Row]:
    """LEME's form: CounterFact's records with prompts that long texts go on from."""
    rows = []
    for fact, row in _chosen(world, count, seed):
        train = phrasing.train_phrasings(world.relations[fact.relation])
        prompts = [t.format(fact.subject) for t in train[1:3]]
        related = [f.subject for f in world.of_object[(fact.relation, fact.object)][:2]]
        others = [name for name in related if name != fact.subject]
        rows.append({**row, "long_prompts": prompts, "related_entities": others})
    return rows


SCHEMAS: dict[str, Callable[[World, int, int], list[Row]]] = {
    "counterfact": counterfact,
    "leme": leme,
    "zsre": zsre,
    "knowedit": knowedit,
    "mquake": mquake,
    "ripple-edits": ripple,
    "longform": longform,
    "easyedit": easyedit,
}
"""By name, as `bench.datasets` calls them."""
