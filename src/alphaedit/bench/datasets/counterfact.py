"""CounterFact and MultiCounterFact (Meng et al. 2022, 2023), and LEME's long-form records on it."""

from __future__ import annotations

from dataclasses import replace

from alphaedit.bench.data import EditRecord, Probe
from alphaedit.bench.datasets.fields import texts
from alphaedit.bench.datasets.registry import Row, Schema


def read(row: Row, where: str) -> EditRecord:
    """See `EditRecord.from_dict`."""
    return EditRecord.from_dict(row, where)


def read_long(row: Row, where: str) -> EditRecord:
    """A record with prompts for long answers, about the subject and about related entities."""
    record = EditRecord.from_dict(row, where)
    long = texts(row, "long_prompts", where)
    related = texts(row, "related_entities", where)
    asked = [Probe("long", "subject", prompt, (record.target_new,)) for prompt in long]
    asked += [
        Probe("long", "related", f"Write about {name}.", (record.target_new,)) for name in related
    ]
    return replace(record, probes=tuple(asked), schema="leme")


SCHEMAS = (
    Schema(
        "counterfact",
        "CounterFact, MultiCounterFact",
        lambda row: isinstance(row.get("requested_rewrite"), dict),
        read,
        rank=4,
    ),
    Schema(
        "leme",
        "LEME: long-form generation after an edit",
        lambda row: isinstance(row.get("requested_rewrite"), dict) and "long_prompts" in row,
        read_long,
        rank=3,
    ),
)
