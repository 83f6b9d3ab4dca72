"""The records of an experiment, by name."""

from __future__ import annotations

from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import get_schema, load, read_all
from alphaedit.core.errors import DataError, unknown_name
from alphaedit.core.fact import Fact
from alphaedit.locate.well_known import facts_said
from alphaedit.model.handle import ModelHandle
from alphaedit.world.facts import World
from alphaedit.world.records import probes, training_records
from alphaedit.world.schemas import SCHEMAS

WORLD = "world"
KEPT = 300
"""Facts of the bundled world that are asked before and after, and not edited."""


def records_of(
    handle: ModelHandle, name: str, count: int, seed: int, schema: str | None = None
) -> list[EditRecord]:
    """`count` records of the data set `name`, drawn by `seed`.

    Args:
        name: "world" or "world:SCHEMA", a file, or "hf:NAME"; with "|SCHEMA" to name its schema.
        schema: in place of "|SCHEMA".

    Raises:
        DataError: there are not so many, or one is broken.
        UnknownNameError: no such schema.
    """
    source, _, named = name.partition("|")
    kind, _, wanted = source.partition(":")
    if kind == WORLD:
        records = world_records(handle, count, seed, schema or wanted or named or "counterfact")
    else:
        records = list(load(source, schema or named or None, limit=count, seed=seed).records)
    if len(records) < count:
        raise DataError(
            f"{count} edits are asked for, and {name} holds {len(records)} records.",
            remedy=f"Ask for {len(records)} or fewer.",
        )
    return records


def world_records(
    handle: ModelHandle, count: int, seed: int, schema: str = "counterfact"
) -> list[EditRecord]:
    """Records about the part of the bundled world that the model knows, or about all of it.

    Raises:
        UnknownNameError: the world is not written in that schema.
    """
    if schema not in SCHEMAS:
        raise unknown_name("schema of the world", schema, list(SCHEMAS))
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    world = World.load()
    rows = SCHEMAS[schema](world.largest(known) if known else world, count, seed)
    placed = [(f"world, record {i}", row) for i, row in enumerate(rows)]
    return read_all(placed, get_schema(schema), named=True)[0]


FEW_FACTS = 3000
"""With fewer facts, each is trained on with other objects, too."""


def training_facts(handle: ModelHandle) -> list[Fact]:
    """Facts of the bundled world to train editors on: what is tested first is not among them.

    Raises:
        DataError: the model does not know that world.
    """
    if not handle.is_bundled:
        raise DataError(
            "Facts of the bundled world are for bundled models.",
            remedy="Give a file of facts with paraphrases and neighborhood prompts.",
        )
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    world = World.load().largest(known) if known else World.load()
    rows: list[dict[str, Any]] = []
    for seed in range(3):
        rows += training_records(world, seed=seed)
        if len(rows) >= FEW_FACTS:
            break
    placed = [(f"world, record {i}", row) for i, row in enumerate(rows)]
    return [record.fact for record in read_all(placed, get_schema("counterfact"), named=True)[0]]


def kept_of(
    handle: ModelHandle, subjects: set[str], seed: int, count: int = KEPT
) -> list[tuple[str, str]]:
    """(prompt, answer) of facts that a bundled model knows and that are not about `subjects`.

    Empty for other models: nobody told what they know.
    """
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    if known is None:
        return []
    return probes(World.load().largest(known), subjects, count, seed=seed)


def known_facts(
    handle: ModelHandle, subjects: set[str], seed: int, count: int = KEPT
) -> list[tuple[str, str]]:
    """(prompt, answer) of facts that are not about `subjects`, and that the model says before.

    Of the bundled world for bundled models (see `kept_of`), else of the package's well-known facts.
    """
    if handle.is_bundled:
        return kept_of(handle, subjects, seed, count)
    return [
        (prompt, truth) for subject, prompt, truth in facts_said(handle) if subject not in subjects
    ]
