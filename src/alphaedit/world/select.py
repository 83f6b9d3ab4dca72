"""Choose the bundled world's facts from Wikidata-derived triples in ParaRel's layout.

The result is committed as `data/facts.tsv`; this module is its provenance. Facts are free
(Wikidata, CC0); no phrasing is taken over.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from alphaedit.core.errors import DataError

Triple = tuple[str, str, str]
"""(subject, relation, object)."""

_NAME = re.compile(r"[A-Za-zÀ-ž0-9][A-Za-zÀ-ž0-9 .'&:-]{2,30}")
_PER_OBJECT = 12


def read_triples(folder: Path, relations: Iterable[str]) -> list[Triple]:
    """Every (subject, relation, object) of `relations`, one object for each subject.

    Raises:
        DataError: a relation's file is missing.
    """
    triples: dict[tuple[str, str], str] = {}
    for relation in relations:
        path = folder / f"{relation}.jsonl"
        if not path.is_file():
            raise DataError(f"No triples for relation {relation}: {path} does not exist.")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            subject, obj = row["sub_label"].strip(), row["obj_label"].strip()
            if _NAME.fullmatch(subject) and _NAME.fullmatch(obj) and " " not in obj:
                triples.setdefault((subject, relation), obj)
    return [(s, r, o) for (s, r), o in triples.items()]


def _trivial(subject: str, obj: str) -> bool:
    return obj.lower() in subject.lower() or subject.lower() in obj.lower()


def select(
    triples: list[Triple], wanted: list[tuple[str, str]], *, subjects: int, seed: int = 0
) -> list[Triple]:
    """About `subjects` subjects with all their facts, the `wanted` (subject, relation) first.

    Then come the objects that are subjects themselves (second hops), the subjects with several
    relations, and a fill that favours the relations with fewest facts. Objects seen once in a
    relation are left out of the fill, so that most facts have neighbors with the same object.
    """
    rng = random.Random(seed)
    of_subject: dict[str, list[Triple]] = defaultdict(list)
    for triple in triples:
        of_subject[triple[0]].append(triple)
    objects = Counter((r, o) for _, r, o in triples)
    chosen: dict[str, list[Triple]] = {}
    count: Counter[str] = Counter()
    per_object: Counter[tuple[str, str]] = Counter()

    def take(subject: str) -> None:
        if subject in chosen or subject not in of_subject:
            return
        chosen[subject] = [t for t in of_subject[subject] if (subject, t[1]) in keep] or [
            t for t in of_subject[subject] if not _trivial(t[0], t[2])
        ]
        if (subject, "") not in keep:
            extra = [t for t in of_subject[subject] if not _trivial(t[0], t[2])]
            chosen[subject] = list(dict.fromkeys(chosen[subject] + extra))[:5]
        if not chosen[subject]:
            del chosen[subject]
            return
        for _, r, o in chosen[subject]:
            count[r] += 1
            per_object[(r, o)] += 1

    keep = set(wanted)
    for subject, _ in wanted:
        take(subject)
    hops = Counter(o for s, r, o in triples if r in {"P27", "P19", "P159", "P740", "P495", "P17"})
    for name, _ in hops.most_common(150):
        take(name)
    several = [s for s, facts in of_subject.items() if len(facts) > 1]
    rng.shuffle(several)
    for name in several:
        if len(chosen) < subjects * 0.6 and all(
            objects[(r, o)] > 2 for _, r, o in of_subject[name]
        ):
            take(name)
    pools: dict[str, list[str]] = defaultdict(list)
    for s, facts in of_subject.items():
        if len(facts) == 1 and not _trivial(s, facts[0][2]) and objects[facts[0][1:]] > 2:
            pools[facts[0][1]].append(s)
    for pool in pools.values():
        rng.shuffle(pool)
    while len(chosen) < subjects and any(pools.values()):
        relation = min((r for r in pools if pools[r]), key=lambda r: (count[r], r))
        name = pools[relation].pop()
        if per_object[of_subject[name][0][1:]] < _PER_OBJECT:
            take(name)
    return [t for facts in chosen.values() for t in facts]
