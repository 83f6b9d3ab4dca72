"""Metrics of memories that are told which edit each prompt belongs to, as IKE's were published.

The reference code puts the right edit in front of every prompt of a record, its neighbors included:
it measures what a model makes of a note, and no retrieval. In use nobody tells a memory so. Both
are worth reporting, under their names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import Rate
from alphaedit.bench.metrics import Metrics, harmonic_score
from alphaedit.core.progress import Progress, silent
from alphaedit.model.route import asked_about

SAMPLES = 1000


def oracle_metrics(
    records: Sequence[EditRecord],
    measure: Callable[[Sequence[EditRecord]], Metrics],
    *,
    progress: Progress = silent,
) -> Metrics:
    """Metrics of records, each measured by itself while memories are told its facts.

    Args:
        records: the records.
        measure: gives metrics of some records.
        progress: is told how many are done.
    """
    rates: dict[str, list[Rate]] = {}
    for number, record in enumerate(records):
        progress("records", number, len(records))
        with asked_about([fact.text for fact in record.facts]):
            measured = measure([record])
        for name, rate in measured.items():
            rates.setdefault(name, [])
            if rate is not None:
                rates[name].append(rate)
    progress("records", len(records), len(records))
    pooled: Metrics = {name: pool(of_records) for name, of_records in rates.items()}
    if "score" in pooled:
        pooled["score"] = harmonic_score(pooled, len(records))
    return pooled


def pool(rates: Sequence[Rate], *, seed: int = 0) -> Rate | None:
    """The mean over all cases of several rates, with a bootstrap interval over the rates."""
    if not rates:
        return None
    cases = np.asarray([rate.n for rate in rates], dtype=np.float64)
    sums = cases * np.asarray([rate.value for rate in rates])
    drawn = np.random.default_rng(seed).integers(len(rates), size=(SAMPLES, len(rates)))
    low, high = np.percentile(sums[drawn].sum(1) / cases[drawn].sum(1), [2.5, 97.5])
    return Rate(float(sums.sum() / cases.sum()), float(low), float(high), int(cases.sum()))
