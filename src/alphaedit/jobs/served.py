"""Evaluate a served model, without its weights."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.registry import load
from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Wrote, untold

DEFAULT_RECORDS = 100
SCHEMES = ("http://", "https://")


@dataclass(frozen=True, kw_only=True)
class ServedRequest:
    """Records to ask an endpoint about.

    Attributes:
        url: the address, up to and without ``/completions``.
        served_model: the model's name there.
        records: a data set's path or "hf:NAME".
        schema: of the records; by default told from the first.
        limit: how many records; by default 100, or all if there are fewer.
        sample: draw them by the seed, instead of the first ones.
        seed: of everything random.
        generation: also the metrics that sample text.
    """

    url: str
    served_model: str | None = None
    records: str = ""
    schema: str | None = None
    limit: int | None = None
    sample: bool = False
    seed: int = 0
    generation: bool = True


@dataclass(frozen=True, kw_only=True)
class ServedResult:
    """What was measured."""

    request: ServedRequest
    edits: int
    metrics: Mapping[str, Any] = field(repr=False)
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As `EvaluateResult.to_json` has it for an unedited model."""
        from alphaedit.bench.metrics import plain

        numbers = plain(dict(self.metrics))
        return {
            **numbers,
            "method": "none",
            "edits": self.edits,
            "before": numbers,
            "left_out": 0,
            "seconds": {"evaluation": self.seconds},
            "model": f"{self.request.url} {self.request.served_model}",
            "records": self.request.records,
            "seed": self.request.seed,
            "stopped": None,
            "report": None,
        }


def is_address(model: str) -> bool:
    """Whether a model is named by an address."""
    return model.startswith(SCHEMES)


def run(
    request: ServedRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> ServedResult:
    """Ask the endpoint; nothing is written.

    Raises:
        ConfigError: the model's name is missing, or the endpoint cannot rate texts.
        DataError: the records cannot be used.
        ResourceError: the endpoint does not answer.
    """
    from alphaedit.bench.metrics import generation_metrics
    from alphaedit.bench.run import metrics_for
    from alphaedit.bench.sources import WORLD
    from alphaedit.model.remote import Endpoint

    if not request.served_model:
        raise ConfigError(
            "MODEL is an address.", remedy="Name the model that is served there: --served-model."
        )
    if request.records.partition(":")[0] == WORLD:
        raise ConfigError(
            "The bundled world is asked of bundled models, and a served one does not say which.",
            remedy="Give a data set.",
        )
    progress = watched(progress, cancel)
    limit, seed = request.limit or DEFAULT_RECORDS, request.seed if request.sample else None
    records: list[EditRecord] = list(
        load(request.records, request.schema, limit=limit, seed=seed).records
    )
    endpoint = Endpoint(request.url, request.served_model)
    began = time.perf_counter()
    metrics = metrics_for(endpoint, records, generation=request.generation, progress=progress)
    if request.generation and any(record.generation_prompts for record in records):
        metrics |= generation_metrics(endpoint, records, seed=request.seed, progress=progress)
    return ServedResult(
        request=request,
        edits=len(records),
        metrics=metrics,
        seconds=time.perf_counter() - began,
    )
