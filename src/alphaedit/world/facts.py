"""The world's facts and the relations they belong to."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import yaml

TYPE_RELATION = "type"


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation: how its facts are put into words.

    `train` and `held` are statements with "{}" for the subject that end where the object begins;
    `held` never occurs in training. `loose` is clear only for a subject with no other relation
    of the same `group`.
    """

    id: str
    name: str
    subject_type: str
    category: str
    group: str
    nouns: tuple[str, ...]
    train: tuple[str, ...]
    held: tuple[str, ...]
    loose: tuple[str, ...]
    question: str


@dataclass(frozen=True, slots=True)
class WorldFact:
    """One fact: (subject, relation, object), all as written in text."""

    subject: str
    relation: str
    object: str


def _relation(key: str, entry: Mapping[str, Any]) -> Relation:
    return Relation(
        id=key,
        name=entry["name"],
        subject_type=entry["of"],
        category=entry["category"],
        group=entry["group"],
        nouns=tuple(entry["nouns"]),
        train=tuple(entry["train"]),
        held=tuple(entry["held"]),
        loose=tuple(entry.get("loose", ())),
        question=entry["question"],
    )


@dataclass(frozen=True)
class World:
    """Relations and facts, in order of popularity (the first facts are the best known)."""

    relations: Mapping[str, Relation]
    facts: tuple[WorldFact, ...]

    @classmethod
    def load(cls) -> World:
        """The world shipped with the package."""
        folder = files("alphaedit.world") / "data"
        entries = yaml.safe_load((folder / "relations.yaml").read_text(encoding="utf-8"))
        relations = {key: _relation(key, entry) for key, entry in entries.items()}
        lines = (folder / "facts.tsv").read_text(encoding="utf-8").splitlines()
        return cls(relations, tuple(WorldFact(*line.split("\t")) for line in lines))

    def largest(self, subjects: int) -> World:
        """The part of the world about its `subjects` best-known subjects."""
        known = set(self.subjects[:subjects])
        return World(self.relations, tuple(f for f in self.facts if f.subject in known))

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """Every subject once, in order of popularity."""
        return tuple(dict.fromkeys(fact.subject for fact in self.facts))

    @cached_property
    def of_subject(self) -> Mapping[str, tuple[WorldFact, ...]]:
        """Facts by subject."""
        by_subject: dict[str, list[WorldFact]] = defaultdict(list)
        for fact in self.facts:
            by_subject[fact.subject].append(fact)
        return {subject: tuple(facts) for subject, facts in by_subject.items()}

    @cached_property
    def of_object(self) -> Mapping[tuple[str, str], tuple[WorldFact, ...]]:
        """Facts by (relation, object)."""
        by_object: dict[tuple[str, str], list[WorldFact]] = defaultdict(list)
        for fact in self.facts:
            by_object[(fact.relation, fact.object)].append(fact)
        return {key: tuple(facts) for key, facts in by_object.items()}

    @cached_property
    def objects(self) -> Mapping[str, tuple[str, ...]]:
        """The objects of each relation, each once."""
        by_relation: dict[str, dict[str, None]] = defaultdict(dict)
        for fact in self.facts:
            by_relation[fact.relation][fact.object] = None
        return {relation: tuple(objects) for relation, objects in by_relation.items()}

    def type_of(self, subject: str) -> str:
        """What `subject` is: "person", "place", "film", ... (by its first relation)."""
        return self.relations[self.of_subject[subject][0].relation].subject_type

    def clear(self, fact: WorldFact) -> bool:
        """Whether loose phrasings of `fact` can mean nothing else."""
        group = self.relations[fact.relation].group
        same = [
            f for f in self.of_subject[fact.subject] if self.relations[f.relation].group == group
        ]
        return len(same) == 1

    def hops(self) -> list[tuple[WorldFact, WorldFact]]:
        """Pairs of facts where the object of the first is the subject of the second."""
        return [(a, b) for a in self.facts for b in self.of_subject.get(a.object, ()) if a != b]

    def fingerprint(self) -> str:
        """SHA-256 of facts and phrasings."""
        text = repr((sorted(self.relations.items()), self.facts))
        return hashlib.sha256(text.encode()).hexdigest()
