"""Notes in front of what is asked: text that teaches a model to read its context.

A note says something of a subject that may contradict the world. What is asked behind it is
answered by the note where the note is about the same subject and relation, and by the world
otherwise. Note and question are worded independently, so that reading takes the subject and the
relation, and copying the sentence is not enough.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from alphaedit.world import phrasing
from alphaedit.world.facts import Relation, World, WorldFact
from alphaedit.world.phrasing import Piece

CASES = (
    ("override", 0.40),
    ("unknown", 0.15),
    ("agree", 0.10),
    ("other subject", 0.20),
    ("other relation", 0.15),
)
"""What the note says: another object, a relation the world does not tell of the subject, the same
object; or something of another subject, or of another relation, which must be ignored."""
LEADS = ("", "", "", "Note: ", "New Fact: ", "Fact: ", "Remember: ", "Imagine: ", "It is new: ")
BREAKS = ("\n", "\n", " ", "\n\n", "\nPrompt: ", "\nQuestion: ", "\nSo: ")
FURTHER = (0, 0, 0, 1, 1, 2)
"""Notes about other subjects that stand beside the one that counts."""


def _asked(relation: Relation, subject: str, rng: random.Random, questions: float) -> list[Piece]:
    """A statement or question about `subject`, up to where its object begins."""
    if rng.random() < questions:
        asked = relation.question
        if rng.random() < 0.5:
            asked = f"What is the {rng.choice(relation.nouns)} of {{}}?"
        return [Piece("Question: "), *phrasing.fill(asked, subject), Piece(" Answer:")]
    template = rng.choice(phrasing.train_phrasings(relation))
    if rng.random() < 0.5:
        template = rng.choice([*relation.train, phrasing.train_phrasings(relation)[0]])
    return phrasing.fill(template, subject)


def _told(world: World, fact: WorldFact, rng: random.Random) -> str:
    """`fact` as a note tells it, without a full stop."""
    asked = _asked(world.relations[fact.relation], fact.subject, rng, 0.12)
    return f"{phrasing.text_of(asked)} {fact.object}"


def _another(world: World, fact: WorldFact, rng: random.Random) -> WorldFact:
    """`fact` with another object of its relation, if there is one."""
    others = [o for o in world.objects[fact.relation] if o != fact.object]
    return replace(fact, object=rng.choice(others)) if others else fact


def _of_another_relation(
    world: World, subject: str, rng: random.Random, *, told: bool
) -> WorldFact | None:
    """A made-up fact about `subject` in a relation of its kind that is `told` of it, or is not."""
    known = {f.relation for f in world.of_subject[subject]}
    kinds = {world.relations[r].subject_type for r in known}
    relations = [
        r
        for r in world.objects
        if world.relations[r].subject_type in kinds and (told or r not in known)
    ]
    if not relations:
        return None
    relation = rng.choice(relations)
    return WorldFact(subject, relation, rng.choice(world.objects[relation]))


def _case(world: World, fact: WorldFact, rng: random.Random) -> tuple[WorldFact, WorldFact]:
    """What the note says, and what is asked with its right answer."""
    case = rng.choices([c for c, _ in CASES], [w for _, w in CASES])[0]
    if case == "unknown":
        made = _of_another_relation(world, fact.subject, rng, told=False)
        if made is not None:
            return made, made
    if case == "agree":
        return fact, fact
    if case == "other subject":
        same = [o for o in world.of_object[(fact.relation, fact.object)] if o != fact]
        other = rng.choice(same) if same and rng.random() < 0.3 else None
        if other is None:
            obj = rng.choice(world.objects[fact.relation])
            other = rng.choice(world.of_object[(fact.relation, obj)])
        if other.subject != fact.subject:
            return _another(world, other, rng), fact
    if case == "other relation":
        made = _of_another_relation(world, fact.subject, rng, told=True)
        if made is not None and made.relation != fact.relation:
            return made, fact
    other = _another(world, fact, rng)
    return other, other


def _further(world: World, subject: str, rng: random.Random) -> list[WorldFact]:
    """Facts and made-up facts about other subjects."""
    drawn = [rng.choice(world.facts) for _ in range(rng.choice(FURTHER))]
    return [
        fact if rng.random() < 0.3 else _another(world, fact, rng)
        for fact in drawn
        if fact.subject != subject
    ]


def _written(
    told: Sequence[str], counts: int, asked: Sequence[Piece], rng: random.Random
) -> list[Piece]:
    """Notes and what is asked behind them, in one of many forms."""
    if rng.random() < 0.1:
        text = f"{phrasing.text_of(asked)} | {told[counts]}.\n"
        return [Piece(text, given=True), *asked]
    lead, gap = rng.choice(LEADS), rng.choice(BREAKS)
    between = rng.choice(("\n", " ", "\n\n"))
    demonstrated = rng.random() < 0.3
    pieces = []
    for i, note in enumerate(told):
        last = i == len(told) - 1
        pieces.append(Piece(f"{lead}{note}.{gap}", given=True))
        if demonstrated and not last:
            pieces.append(Piece(f"{note}."))
        if not last:
            pieces.append(Piece(between, given=True))
    return [*pieces, *asked]


def repeated(world: World, rng: random.Random) -> list[Piece]:
    """Made-up facts as notes, and again below, in the same words or others, all of it learned.

    Where nearly every word follows from the text above, looking back is learned soonest.
    """
    facts = [_another(world, rng.choice(world.facts), rng) for _ in range(rng.randint(1, 4))]
    told = [_told(world, fact, rng) for fact in facts]
    lead = rng.choice(LEADS)
    pieces = [Piece("".join(f"{lead}{text}.\n" for text in told), given=True)]
    order = list(range(len(facts)))
    if rng.random() < 0.5:
        rng.shuffle(order)
    same = rng.random() < 0.6
    for i in order:
        if same:
            pieces.append(Piece(f"{told[i]}.\n"))
            continue
        asked = _asked(world.relations[facts[i].relation], facts[i].subject, rng, 0.12)
        pieces += [replace(piece, seen=piece.name) for piece in asked]
        pieces += [Piece(f" {facts[i].object}", object=True), Piece(".\n")]
    return pieces


def note(world: World, fact: WorldFact, rng: random.Random) -> list[Piece]:
    """Notes, and a statement or question about `fact`'s subject answered in their light.

    Notes are read and not learned, so that what they say does not become a fact; their names are
    not marked as names, so that augmentations of training leave them in sight. What repeats them is
    learned with its names: that teaches to look back.
    """
    stated, asked = _case(world, fact, rng)
    facts = [*_further(world, fact.subject, rng), stated]
    if rng.random() < 0.3:
        rng.shuffle(facts)
    told = [_told(world, each, rng) for each in facts]
    query = _asked(world.relations[asked.relation], asked.subject, rng, 0.25)
    if stated.subject == asked.subject:
        query = [replace(piece, seen=piece.name) for piece in query]
    pieces = _written(told, facts.index(stated), query, rng)
    return [*pieces, Piece(f" {asked.object}", object=True), Piece(".")]
