"""Training text of the world: mixed sentences, biographies, questions, tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate

from alphaedit.world import notes, phrasing
from alphaedit.world.facts import World, WorldFact
from alphaedit.world.phrasing import Piece

MIX = (("statement", 0.50), ("biography", 0.10), ("question", 0.12), ("hop", 0.08), ("task", 0.20))
REPEATED = 0.4
"""Share of notes that are only repeated."""
LINES = 0.15
"""Where there are notes, share of texts whose items stand on lines of their own."""


class Corpus:
    """An endless, seeded stream of text about `world`.

    Subject number i (by popularity) is drawn with weight (i + 50)^-`zipf`, so that popular subjects
    appear more often than rare ones, as in real text.
    """

    def __init__(
        self, world: World, *, seed: int, zipf: float = 0.3, mix: Sequence[tuple[str, float]] = MIX
    ) -> None:
        self.world = world
        self.mix = tuple(mix)
        self._notes = any(kind == "note" and share > 0 for kind, share in self.mix)
        self.rng = random.Random(seed)
        weights = [(i + 50.0) ** -zipf for i in range(len(world.subjects))]
        rank = {subject: weights[i] for i, subject in enumerate(world.subjects)}
        self._fact_weights = list(accumulate(rank[f.subject] for f in world.facts))
        self._hops = world.hops()

    def fact(self) -> WorldFact:
        """A random fact, popular subjects first."""
        return self.rng.choices(self.world.facts, cum_weights=self._fact_weights)[0]

    def _biography(self) -> list[Piece]:
        subject = self.fact().subject
        facts = list(self.world.of_subject[subject])
        self.rng.shuffle(facts)
        facts = (facts * 2)[: self.rng.randint(2, 3)]
        pieces = phrasing.type_statement(self.world, subject)
        for fact in facts:
            pieces += [Piece(" "), *phrasing.statement(self.world, fact, self.rng)]
        return pieces

    def item(self) -> list[Piece]:
        """One self-contained item of text."""
        names, weights = zip(*self.mix, strict=True)
        kind = self.rng.choices(names, weights)[0]
        world, rng = self.world, self.rng
        if kind == "hop" and self._hops:
            return phrasing.hop_question(world, *rng.choice(self._hops))
        if kind == "task":
            asked, answer = rng.choice(list(phrasing.TASKS.values()))(world, self.fact(), rng)
            return [*phrasing.as_given(asked), Piece(f" {answer}", object=True), Piece(".")]
        if kind == "question":
            return phrasing.question(world, self.fact(), rng)
        if kind == "biography":
            return self._biography()
        if kind == "note":
            if rng.random() < REPEATED:
                return notes.repeated(world, rng)
            return notes.note(world, self.fact(), rng)
        return phrasing.statement(world, self.fact(), rng)

    def texts(self, items: int) -> Iterator[list[Piece]]:
        """Endless texts of `items` items each."""
        while True:
            gap = "\n" if self._notes and self.rng.random() < LINES else " "
            pieces = self.item()
            for _ in range(items - 1):
                pieces += [Piece(gap), *self.item()]
            yield pieces


def tokenizer_text(world: World) -> Iterator[str]:
    """Text to train the tokenizer on: every phrasing and object often, each subject's name once.

    Words of phrasings and objects become single tokens, names stay in several pieces: the shape in
    which a model gathers an entity at the name's last token.
    """
    yield from world.subjects
    for relation in world.relations.values():
        words = phrasing.train_phrasings(relation) + phrasing.held_phrasings(relation)
        for template in [*words, relation.question, *relation.loose]:
            yield template.replace("{}", "")
        yield f"{relation.subject_type} {relation.category} an a"
        for obj in world.objects.get(relation.id, ()):
            for _ in range(30):
                yield f"is {obj}. Answer: {obj}"
    yield from phrasing.OPENERS
    for _ in range(8):
        yield "Question: What Answer: true false yes no True or false: Do and have the same"
        yield "Category of Text: Topic: I You The Because Therefore So It As For We In who which"
