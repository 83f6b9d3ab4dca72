"""The single runs of an experiment: one for each model, data set, method, setting and seed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

from alphaedit.bench.experiments.spec import NONE, MethodSpec, Spec


@dataclass(frozen=True)
class Cell:
    """One sequential run.

    Attributes:
        varied: value of the setting that the experiment varies, if it does.
    """

    model: str
    records: str
    method: MethodSpec
    seed: int
    vary: str | None = None
    varied: Any = None

    @property
    def label(self) -> str:
        """The method, and what is varied."""
        return self.method.label if self.vary is None else f"{self.method.label}, {self.setting}"

    @property
    def setting(self) -> str:
        """What is varied, as text."""
        return "" if self.vary is None else f"{self.vary} {self.varied}"

    @property
    def id(self) -> str:
        """Name of its directory: readable, and different for different cells."""
        parts = (self.model, self.records, self.label, f"seed{self.seed}")
        text = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part.strip("./")) for part in parts)
        mark = sha256(repr((parts, self.method)).encode()).hexdigest()[:6]
        return f"{text[:80].strip('-')}-{mark}"

    @property
    def settings(self) -> dict[str, Any]:
        """Hyperparameters that are not the preset's."""
        over = dict(self.method.settings)
        if self.method.plugins:
            over["plugins"] = self.method.plugins
        if self.vary not in (None, "tokens", "batch_size"):
            over[str(self.vary)] = self.varied
        return over

    @property
    def tags(self) -> dict[str, Any]:
        """What every number of it carries."""
        return {
            "cell": self.id,
            "model": self.model,
            "records": self.records,
            "method": self.method.label,
            "setting": self.setting,
            "seed": self.seed,
        }


def cells(spec: Spec) -> Iterator[Cell]:
    """All runs; for each model, data set and seed the unedited model first."""
    varied = list(spec.vary.values) if spec.vary else [None]
    name = spec.vary.name if spec.vary else None
    unedited = MethodSpec(method=NONE, label="unedited")
    for model, records, seed in product(spec.models, spec.records, spec.seeds):
        yield Cell(model, records, unedited, seed)
        for method, value in product(spec.methods, varied):
            if method.method != NONE:
                yield Cell(model, records, method, seed, name, value)
