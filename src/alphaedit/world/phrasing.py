"""Facts in words: training and held-out phrasings, questions, two-hop questions, tasks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from alphaedit.world.facts import Relation, World, WorldFact

TRAIN_FRAMES = (
    "The {n} of {s} is",
    "{s}'s {n} is",
    "As for {s}, the {n} is",
    "It is known that the {n} of {s} is",
    "We know that {s}'s {n} is",
    "For {s}, the {n} is",
)
HELD_FRAMES = ("We know that the {n} of {s} is", "It is known that {s}'s {n} is")
OPENERS = ("Therefore", "Because of this", "I know that", "You should know that", "I think", "So")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: `name` marks a subject's name, `object` what a model must know.

    `given` text is read and never learned (the statement of a true-or-false question, say). A name
    that is `seen` stands in the text before, so that it can be learned like other words.
    """

    text: str
    name: bool = False
    object: bool = False
    given: bool = False
    seen: bool = False


def fill(template: str, subject: str) -> list[Piece]:
    """`template` as pieces, with `subject` for its "{}"."""
    before, after = template.split("{}")
    pieces = [Piece(before), Piece(subject, name=True), Piece(after)]
    return [piece for piece in pieces if piece.text]


def _frames(frames: Sequence[str], relation: Relation) -> list[str]:
    return [f.format(n=noun, s="{}") for noun in relation.nouns for f in frames]


def train_phrasings(relation: Relation) -> list[str]:
    """Statements used in training, "{}" for the subject; the first is the canonical one."""
    return _frames(TRAIN_FRAMES, relation) + list(relation.train)


def held_phrasings(relation: Relation) -> list[str]:
    """Statements never used in training."""
    return list(relation.held) + _frames(HELD_FRAMES, relation)


def article(word: str) -> str:
    """`word` with its indefinite article."""
    return f"an {word}" if word[0].lower() in "aeio" else f"a {word}"


def statement(world: World, fact: WorldFact, rng: random.Random) -> list[Piece]:
    """One sentence that says `fact`, in a random training phrasing."""
    relation = world.relations[fact.relation]
    verbs = list(relation.train)
    if relation.loose and world.clear(fact):
        verbs += relation.loose
    if rng.random() < 0.6:
        template = rng.choice(verbs)
    else:
        template = rng.choice(TRAIN_FRAMES).format(n=rng.choice(relation.nouns), s="{}")
    pieces = [*fill(template, fact.subject), Piece(f" {fact.object}", object=True), Piece(".")]
    if rng.random() < 0.06:
        first = pieces[0]
        opened = first.text if first.name else first.text[0].lower() + first.text[1:]
        opener = rng.choice(OPENERS)
        comma = "," if opener in ("Therefore", "Because of this", "So") else ""
        pieces[0] = Piece(opened, first.name)
        pieces.insert(0, Piece(f"{opener}{comma} "))
    return pieces


def type_statement(world: World, subject: str) -> list[Piece]:
    """A sentence such as "SUBJECT is a person."."""
    return [*fill("{} is", subject), Piece(f" {article(world.type_of(subject))}.")]


def question(world: World, fact: WorldFact, rng: random.Random) -> list[Piece]:
    """A question with its answer."""
    relation = world.relations[fact.relation]
    asked = relation.question
    if rng.random() < 0.5:
        asked = f"What is the {rng.choice(relation.nouns)} of {{}}?"
    answer = Piece(f" {fact.object}", object=True)
    return [Piece("Question: "), *fill(asked, fact.subject), Piece(" Answer:"), answer, Piece(".")]


def hop_prompt(world: World, first: WorldFact, second: WorldFact) -> list[Piece]:
    """A two-hop question, up to where the chain of thought begins."""
    inner, outer = world.relations[first.relation], world.relations[second.relation]
    asked = f"Question: What is the {outer.nouns[0]} of the {inner.nouns[0]} of {{}}?"
    return fill(asked, first.subject)


def hop_question(world: World, first: WorldFact, second: WorldFact) -> list[Piece]:
    """A two-hop question with a short chain of thought and its answer."""
    inner, outer = world.relations[first.relation], world.relations[second.relation]
    return [
        *hop_prompt(world, first, second),
        Piece(f" The {inner.nouns[0]} is"),
        Piece(f" {first.object}", object=True),
        Piece("."),
        *fill(f" The {outer.nouns[0]} of {{}} is", second.subject),
        Piece(f" {second.object}", object=True),
        Piece(f". Answer: {second.object}."),
    ]


def truth_task(world: World, fact: WorldFact, rng: random.Random) -> tuple[list[Piece], str]:
    """'True or false: ...' and its answer."""
    relation, obj, answer = world.relations[fact.relation], fact.object, "true"
    others = [o for o in world.objects[fact.relation] if o != obj]
    if others and rng.random() < 0.5:
        obj, answer = rng.choice(others), "false"
    template = rng.choice([*relation.train, f"The {relation.nouns[0]} of {{}} is"])
    asked = [Piece("True or false: "), *fill(template, fact.subject), Piece(f" {obj}? Answer:")]
    return asked, answer


def same_task(world: World, fact: WorldFact, rng: random.Random) -> tuple[list[Piece], str]:
    """'Do X and Y have the same ...?' and its answer."""
    alike = [f for f in world.of_object[(fact.relation, fact.object)] if f != fact]
    if alike and rng.random() < 0.5:
        other, answer = rng.choice(alike), "yes"
    else:
        obj = rng.choice(world.objects[fact.relation])
        other = rng.choice(world.of_object[(fact.relation, obj)])
        answer = "yes" if obj == fact.object else "no"
    noun = world.relations[fact.relation].nouns[0]
    asked = [
        *fill("Do {} and", fact.subject),
        *fill(f" {{}} have the same {noun}? Answer:", other.subject),
    ]
    return asked, answer


def category_task(world: World, fact: WorldFact, rng: random.Random) -> tuple[list[Piece], str]:
    """'Topic of ...' or 'Category of SUBJECT' and its answer."""
    if rng.random() < 0.5:
        return fill("Category of {}:", fact.subject), world.type_of(fact.subject)
    relation = world.relations[fact.relation]
    template = rng.choice(relation.train)
    asked = [Piece("Text: "), *fill(template, fact.subject), Piece(f" {fact.object}. Topic:")]
    return asked, relation.category


TASKS = {"truth": truth_task, "same": same_task, "category": category_task}


def as_given(pieces: Sequence[Piece]) -> list[Piece]:
    """`pieces` as text that is read and not learned."""
    return [replace(piece, given=True) for piece in pieces]


def text_of(pieces: Sequence[Piece]) -> str:
    """The plain text of `pieces`."""
    return "".join(piece.text for piece in pieces)
