"""The records of an experiment, by name."""

from __future__ import annotations

from alphaedit.bench.data import EditRecord, load_records
from alphaedit.core.errors import DataError
from alphaedit.model.handle import ModelHandle
from alphaedit.world.facts import World
from alphaedit.world.records import probes, records

WORLD = "world"
KEPT = 300


def records_of(handle: ModelHandle, name: str, count: int, seed: int) -> list[EditRecord]:
    """`count` records of the data set `name`, drawn by `seed`.

    Raises:
        DataError: there are not so many, or one is broken.
    """
    if name.partition(":")[0] != WORLD:
        found = load_records(name, count, seed=seed)
    else:
        known = getattr(handle.model.config, "alphaedit_subjects", None)
        world = World.load()
        rows = records(world.largest(known) if known else world, count, seed=seed)
        found = [EditRecord.from_dict(row, f"world, record {i}") for i, row in enumerate(rows)]
    if len(found) < count:
        raise DataError(
            f"{count} edits are asked for, and {name} holds {len(found)} records.",
            remedy=f"Give edits={len(found)} or fewer.",
        )
    return found


def kept_of(handle: ModelHandle, subjects: set[str], seed: int) -> list[tuple[str, str]]:
    """(prompt, answer) of facts a bundled model knows and that are not about `subjects`."""
    known = getattr(handle.model.config, "alphaedit_subjects", None)
    if known is None:
        return []
    return probes(World.load().largest(known), subjects, KEPT, seed=seed)
