"""What `memories` edits: records, and how each method is measured on them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.routing import prompts_of
from alphaedit.bench.sources import training_facts, world_records
from alphaedit.core.fact import Fact
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.phrasings import phrasings
from benchmarks.golden import RECORDS
from benchmarks.real_models import SMOLLM2
from benchmarks.real_models import missing as missing_model

ZSRE = Path("zsre", "zsre_mend_eval_500.json")
SEED = 23
"""Of the world's facts: no setting of any method was chosen on this draw."""
CALIBRATION = 200
"""Most phrasings of the world that any method measures its settings on; none is edited."""
WORLD, REAL = 100, 50
FIRST_OTHER = 100
"""Records from here on are what scopes are trained on and settings tried on, never those before."""
WORLD_NEIGHBORS, NEIGHBORS = 4, 2
"""Of up to ten of each record of the world, and of CounterFact, for time."""
SCOPE_FACTS = 3000


@dataclass(frozen=True)
class Plan:
    """How a method is measured.

    Attributes:
        method: its name.
        batch: facts of a batch.
        settings: those that are not what the method takes by itself.
        oracle: measured a second time while it is told which edit each prompt is about.
        scope: a scope is trained first.
    """

    method: str
    batch: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    oracle: bool = False
    scope: bool = False


CLOSED_FORM: dict[str, Any] = {
    "layers": (0, 1, 2, 3, 4),
    "moment_weight": 153.6,
    "energy": 0.9,
    "ridge_share": 0.1,
    "clamp": 1.5,
    "learning_rate": 0.7016365690231323,
    "steps": 20,
    "search_dtype": None,
}
"""What trial edits of SmolLM2 chose (results/unknown.json), with the search in float32."""

ANOTHER = {
    "serac-smollm2": Plan("serac", 1, {"counterfactual": str(SMOLLM2.checkpoint)}, scope=True)
}
"""As published: another model, which reads notes, answers what is in scope."""
BUNDLED = {
    "gated": Plan("gated", 10),
    "grace": Plan("grace", 1),
    "melo": Plan("melo", 4),
    "t-patcher": Plan("t-patcher", 1),
    "wise": Plan("wise", 10),
    "memoir": Plan("memoir", 10),
    "serac": Plan("serac", 1, scope=True),
    **ANOTHER,
    "rag": Plan("rag", 1, oracle=True),
    "ike": Plan("ike", 1, oracle=True),
    "memprompt": Plan("memprompt", 1),
    "alphaedit": Plan("alphaedit", 10),
    "memit-history": Plan("memit-history", 10),
}
READER = {
    "gated": Plan("gated", 10),
    "grace": Plan("grace", 1),
    "serac": Plan("serac", 1, scope=True),
    "rag": Plan("rag", 1, oracle=True),
    "ike": Plan("ike", 1, oracle=True),
    "ike, 2 demonstrations": Plan("ike", 1, {"demonstrations": 2}, oracle=True),
    "memprompt": Plan("memprompt", 1),
    "alphaedit": Plan("alphaedit", 10),
    "memit-history": Plan("memit-history", 10),
}
"""On the bundled model that reads notes: what puts them in front of prompts, and some beside."""
SMOLLM = {
    "gated": Plan("gated", 10),
    "grace": Plan("grace", 10),
    "melo": Plan("melo", 4),
    "t-patcher": Plan("t-patcher", 10),
    "wise": Plan("wise", 10),
    "memoir": Plan("memoir", 10),
    "serac": Plan("serac", 10, scope=True),
    "rag": Plan("rag", 10, oracle=True),
    "ike": Plan("ike", 10, oracle=True),
    "memprompt": Plan("memprompt", 10),
    "alphaedit": Plan("alphaedit", 10, CLOSED_FORM),
    "memit-history": Plan("memit-history", 10, CLOSED_FORM),
}


@dataclass(frozen=True)
class DataSet:
    """What is edited into a model, and what it is told apart from.

    Attributes:
        about: what the figures are of, as the results file says it.
        records: with the neighbors that are asked.
        scope_facts: what a scope is trained on.
        plans: by the method's label.
        requests: prompts whose latency is measured; 0: none is.
    """

    about: dict[str, Any]
    records: list[EditRecord]
    scope_facts: Callable[[], list[Fact]]
    plans: Mapping[str, Plan]
    requests: int


def without_edited(records: Sequence[EditRecord], neighbors: int | None) -> list[EditRecord]:
    """Records without neighbors that other records edit, and with at most so many of the others."""
    edited = {record.rewrite for record in records}
    edited |= {prompt for record in records for prompt in record.paraphrase_prompts}
    found = []
    for record in records:
        others = [p for p in record.neighborhood_prompts if p not in edited][:neighbors]
        local = tuple(probe for probe in record.probes if probe.kind == "locality")
        found.append(replace(record, neighborhood_prompts=tuple(others), probes=local))
    return found


def of_world(handle: ModelHandle, name: str, count: int) -> DataSet:
    """Facts of the bundled world, none of them among those that methods measure settings on."""
    known = {one.prompt for one in phrasings(handle, count=CALIBRATION)}
    drawn = world_records(handle, count + CALIBRATION, SEED)
    records = without_edited([r for r in drawn if r.rewrite not in known][:count], WORLD_NEIGHBORS)
    subjects = {record.subject for record in records}

    def scope_facts() -> list[Fact]:
        facts = [fact for fact in training_facts(handle) if fact.subject not in subjects]
        return random.Random(SEED).sample(facts, min(SCOPE_FACTS, len(facts)))

    about = {"model": name, "records": "world", "seed": SEED}
    left_out = ANOTHER if missing_model(SMOLLM2) else {}
    own = READER if name == "bundled-reader" else BUNDLED
    plans = {label: plan for label, plan in own.items() if label not in left_out}
    return DataSet(counted(about, records), records, scope_facts, plans, requests=12)


def of_counterfact(data: Path, count: int) -> DataSet:
    """The first records of the CounterFact sample."""
    whole = list(load(data / RECORDS).records)
    records = without_edited(whole[:count], NEIGHBORS)

    def scope_facts() -> list[Fact]:
        return [record.fact for record in whole[FIRST_OTHER:]]

    about = {"model": SMOLLM2.name, "records": RECORDS.name, "first": count}
    return DataSet(counted(about, records), records, scope_facts, SMOLLM, requests=4)


def of_zsre(data: Path, count: int) -> DataSet:
    """The first records of the ZsRE sample; unrelated questions are their neighbors."""
    whole = without_edited(list(load(data / ZSRE, "zsre").records), None)
    records = whole[:count]

    def scope_facts() -> list[Fact]:
        others = [record for record in whole[FIRST_OTHER:] if record.probes]
        return [
            replace(record.fact, neighborhood=tuple(probe.prompt for probe in record.probes))
            for record in others
        ]

    about = {"model": SMOLLM2.name, "records": ZSRE.name, "first": count}
    return DataSet(counted(about, records), records, scope_facts, SMOLLM, requests=0)


def counted(about: dict[str, Any], records: Sequence[EditRecord]) -> dict[str, Any]:
    """What is said of the records, with how many prompts they have."""
    edits, paraphrases, neighbors = prompts_of(records)
    return {
        **about,
        "facts": len(edits),
        "paraphrases": len(paraphrases),
        "neighbors": len(neighbors),
    }
