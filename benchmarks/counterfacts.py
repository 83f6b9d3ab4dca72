"""Records in CounterFact's form of ParaRel's facts, for loads beyond the samples at hand.

    python -m benchmarks.counterfacts PARAREL -o records.json --count 460 --without counterfact.json

PARAREL is the folder that holds `trex_lms_vocab` (subjects and objects by Wikidata relation) and
`pattern_data/graphs_json` (phrasings), which CounterFact was made of too. A record's true object is
Wikidata's, its new one another object of the relation; paraphrases are the relation's other
phrasings, neighbors are other subjects of the true object. Subjects of the files named by
`--without` are left out, so that the records of both can be edited in one run.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

PARAPHRASES = 2
NEIGHBORS = 10
SEVERAL = ("P47", "P463", "P530")
"""Relations in which a subject has several true objects: borders, member of, relations with."""


def phrasings(path: Path) -> list[str]:
    """Phrasings of a relation that end in the object, as templates with "{}"."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        pattern = json.loads(line)["pattern"].strip().rstrip(" .")
        if pattern.endswith("[Y]") and pattern.count("[X]") == 1:
            found.append(pattern.removesuffix("[Y]").strip().replace("[X]", "{}"))
    return list(dict.fromkeys(found))


def relation(folder: Path, name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Templates and (subject, object) pairs of a relation; subjects of several objects left out."""
    objects: dict[str, set[str]] = defaultdict(set)
    for line in (folder / "trex_lms_vocab" / f"{name}.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        objects[row["sub_label"]].add(row["obj_label"])
    pairs = [(s, next(iter(o))) for s, o in sorted(objects.items()) if len(o) == 1]
    return phrasings(folder / "pattern_data" / "graphs_json" / f"{name}.jsonl"), pairs


def records(folder: Path, count: int, without: set[str], seed: int) -> list[dict[str, Any]]:
    """`count` records in equal parts from each relation that has enough phrasings and objects."""
    rng, queues = random.Random(seed), []
    for path in sorted((folder / "trex_lms_vocab").glob("P*.jsonl")):
        phrased = folder / "pattern_data" / "graphs_json" / path.name
        if path.stem in SEVERAL or not phrased.exists():
            continue
        templates, pairs = relation(folder, path.stem)
        by_object: dict[str, list[str]] = defaultdict(list)
        for subject, value in pairs:
            by_object[value].append(subject)
        usable = [(s, o) for s, o in pairs if s not in without and len(by_object[o]) > NEIGHBORS]
        if len(templates) > PARAPHRASES and len(by_object) > 1 and usable:
            rng.shuffle(usable)
            queues.append((path.stem, templates, usable, by_object))
    found: list[dict[str, Any]] = []
    used: set[str] = set()
    while len(found) < count and queues:
        for queue in list(queues):
            name, templates, usable, by_object = queue
            if not usable:
                queues.remove(queue)
            elif len(found) < count:
                subject, true = usable.pop()
                if subject not in used:
                    used.add(subject)
                    row = _record(rng, name, templates, subject, true, by_object)
                    found.append({"case_id": f"pararel-{len(found)}", **row})
    if len(found) < count:
        raise SystemExit(f"{folder} gives {len(found)} records of the {count} asked for.")
    rng.shuffle(found)
    return found


def _record(
    rng: random.Random,
    name: str,
    templates: list[str],
    subject: str,
    true: str,
    by_object: dict[str, list[str]],
) -> dict[str, Any]:
    prompt, *others = rng.sample(templates, 1 + PARAPHRASES)
    near = rng.sample([s for s in by_object[true] if s != subject], NEIGHBORS)
    new = rng.choice(sorted(set(by_object) - {true}))
    return {
        "requested_rewrite": {
            "relation_id": name,
            "prompt": prompt,
            "subject": subject,
            "target_new": {"str": new},
            "target_true": {"str": true},
        },
        "paraphrase_prompts": [text.replace("{}", subject) for text in others],
        "neighborhood_prompts": [prompt.replace("{}", other) for other in near],
        "generation_prompts": [text.replace("{}", subject) for text in (prompt, *others)],
    }


def subjects(path: Path) -> set[str]:
    """Subjects of a file of CounterFact's records."""
    return {row["requested_rewrite"]["subject"] for row in json.loads(path.read_text("utf-8"))}


def main() -> None:
    """Write a file of records."""
    parser = argparse.ArgumentParser(description="Records in CounterFact's form of ParaRel's facts")
    parser.add_argument("folder", type=Path, metavar="PARAREL")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=460)
    parser.add_argument("--without", type=Path, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    known = {subject for path in asked.without for subject in subjects(path)}
    made = records(asked.folder, asked.count, known, asked.seed)
    asked.out.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(made)} records written to {asked.out}.")


if __name__ == "__main__":
    main()
