"""What a bundled model knows: recall by relation and phrasing, questions, two hops, tasks."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from alphaedit.model.handle import ModelHandle
from alphaedit.model.scoring import score
from alphaedit.world import phrasing
from alphaedit.world.facts import World

Probe = tuple[str, str]


@dataclass(frozen=True)
class Exam:
    """Shares of exact answers (every token of the answer and the full stop after it), 0 to 1."""

    recall_train: float
    recall_held: float
    by_relation: dict[str, float]
    questions: float
    two_hop: float
    tasks: dict[str, float]
    notes: dict[str, float]
    facts: int
    held_prompts: int


def exact(handle: ModelHandle, probes: Sequence[Probe]) -> list[bool]:
    """Whether greedy decoding gives each answer exactly, full stop included."""
    return [s.exact for s in score(handle, [(prompt, f"{answer}.") for prompt, answer in probes])]


def _share(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))


def note_probes(world: World, count: int, rng: random.Random) -> dict[str, list[Probe]]:
    """Questions behind a note that says another object of `count` facts.

    "read" and "read, held-out phrasing" ask for the note's object, "question" does so in question
    form; "other subject" and "other relation" ask for what the note does not change.
    """
    probes: dict[str, list[Probe]] = defaultdict(list)
    facts = [f for f in world.facts if len(world.objects[f.relation]) > 1]
    for fact in rng.sample(facts, min(count, len(facts))):
        relation = world.relations[fact.relation]
        canonical = phrasing.train_phrasings(relation)[0]
        new = rng.choice([o for o in world.objects[fact.relation] if o != fact.object])
        note = f"{canonical.format(fact.subject)} {new}.\n"
        template = rng.choice(phrasing.held_phrasings(relation))
        asked = f"Question: {relation.question.format(fact.subject)} Answer:"
        probes["read"].append((note + canonical.format(fact.subject), new))
        probes["read, held-out phrasing"].append((note + template.format(fact.subject), new))
        probes["question"].append((note + asked, new))
        other = rng.choice([f for f in world.facts if f.relation == fact.relation])
        if other.subject != fact.subject:
            prompt = note + canonical.format(other.subject)
            probes["other subject"].append((prompt, other.object))
        for more in world.of_subject[fact.subject]:
            if more.relation != fact.relation:
                first = phrasing.train_phrasings(world.relations[more.relation])[0]
                prompt = note + first.format(more.subject)
                probes["other relation"].append((prompt, more.object))
    return dict(probes)


def examine(handle: ModelHandle, world: World, *, seed: int = 0, tasks: int = 300) -> Exam:
    """Ask for every fact in its canonical and in all held-out phrasings, and the rest by sample."""
    rng = random.Random(seed)
    relations = world.relations
    canonical = [
        (phrasing.train_phrasings(relations[f.relation])[0].format(f.subject), f.object)
        for f in world.facts
    ]
    held_out = [
        (f, (template.format(f.subject), f.object))
        for f in world.facts
        for template in phrasing.held_phrasings(relations[f.relation])
    ]
    right = exact(handle, [probe for _, probe in held_out])
    by_relation: dict[str, list[bool]] = defaultdict(list)
    for (fact, _), ok in zip(held_out, right, strict=True):
        by_relation[fact.relation].append(ok)
    questions = [
        (f"Question: {relations[f.relation].question.format(f.subject)} Answer:", f.object)
        for f in world.facts
    ]
    hops = world.hops()
    hop_probes = []
    for first, second in rng.sample(hops, min(tasks, len(hops))):
        prompt = phrasing.text_of(phrasing.hop_prompt(world, first, second))
        answer = phrasing.text_of(phrasing.hop_question(world, first, second))[len(prompt) :]
        hop_probes.append((prompt, answer.strip().removesuffix(".")))
    shares = {}
    for name, make in phrasing.TASKS.items():
        asked = [make(world, rng.choice(world.facts), rng) for _ in range(tasks)]
        shares[name] = _share(exact(handle, [(phrasing.text_of(a), b) for a, b in asked]))
    notes = {
        name: _share(exact(handle, probes))
        for name, probes in note_probes(world, tasks, rng).items()
    }
    return Exam(
        recall_train=_share(exact(handle, canonical)),
        recall_held=_share(right),
        by_relation={key: _share(values) for key, values in sorted(by_relation.items())},
        questions=_share(exact(handle, questions)),
        two_hop=_share(exact(handle, hop_probes)),
        tasks=shares,
        notes=notes,
        facts=len(world.facts),
        held_prompts=len(held_out),
    )
