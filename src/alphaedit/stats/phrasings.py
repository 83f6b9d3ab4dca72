"""Ways to ask for one thing and for its neighbors, by which routers are calibrated.

They are the same whatever is about to be edited: of the bundled world for bundled models, else of
the package's well-known facts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
import yaml
from torch import Tensor

from alphaedit.model.handle import ModelHandle
from alphaedit.world.facts import World
from alphaedit.world.records import records

COUNT = 48
NEIGHBORS = 2
KEPT = 0.95
"""Share of neighbors that must be left alone."""


@dataclass(frozen=True)
class Phrasing:
    """A prompt, others that ask the same, and prompts of other subjects of the same relation."""

    subject: str
    prompt: str
    paraphrases: tuple[str, ...]
    neighbors: tuple[str, ...]


def well_known() -> list[dict[str, Any]]:
    """The package's well-known facts, by relation: prompt, paraphrases, and objects by subject."""
    text = (files("alphaedit.stats") / "well_known.yaml").read_text(encoding="utf-8")
    relations: list[dict[str, Any]] = yaml.safe_load(text)
    return relations


def phrasings(handle: ModelHandle, *, count: int = COUNT, seed: int = 0) -> list[Phrasing]:
    """`count` of them, over all relations."""
    if handle.is_bundled:
        # What a model never read about lies elsewhere than what it knows.
        known, world = getattr(handle.model.config, "alphaedit_subjects", None), World.load()
        return [
            Phrasing(
                row["requested_rewrite"]["subject"],
                row["requested_rewrite"]["prompt"].format(row["requested_rewrite"]["subject"]),
                tuple(row["paraphrase_prompts"]),
                tuple(row["neighborhood_prompts"][:NEIGHBORS]),
            )
            for row in records(world.largest(known) if known else world, count, seed=seed)
        ]
    rng = random.Random(seed)
    candidates = []
    for relation in well_known():
        subjects = list(relation["pairs"])
        for subject in subjects:
            others = [other for other in subjects if other != subject]
            candidates.append(
                Phrasing(
                    subject,
                    relation["prompt"].format(subject),
                    tuple(template.format(subject) for template in relation["paraphrases"]),
                    tuple(
                        relation["prompt"].format(neighbor)
                        for neighbor in rng.sample(others, NEIGHBORS)
                    ),
                )
            )
    return rng.sample(candidates, min(count, len(candidates)))


@dataclass(frozen=True)
class Border:
    """A distance that parts what asks the same from what does not.

    Attributes:
        distance: the border.
        inside: share of paraphrases within it.
        outside: share of neighbors beyond it.
    """

    distance: float
    inside: float
    outside: float


def texts_of(asked: Sequence[Phrasing]) -> list[str]:
    """All prompts in them, each once."""
    every = (
        text
        for phrasing in asked
        for text in (phrasing.prompt, *phrasing.paraphrases, *phrasing.neighbors)
    )
    return list(dict.fromkeys(every))


def border(
    asked: Sequence[Phrasing], vectors: Tensor, apart: Callable[[Tensor, Tensor], Tensor]
) -> Border:
    """The distance that takes in most paraphrases and leaves nearly all neighbors alone.

    Args:
        asked: the prompts.
        vectors: one [d] for each of `texts_of(asked)`.
        apart: two sets of vectors [n, d] to their distances, row by row [n].
    """
    place = {text: i for i, text in enumerate(texts_of(asked))}

    def distances(pairs: Sequence[tuple[str, str]]) -> Tensor:
        first = vectors[torch.tensor([place[a] for a, _ in pairs])]
        return apart(first, vectors[torch.tensor([place[b] for _, b in pairs])]).double().cpu()

    within = distances(
        [(phrasing.prompt, other) for phrasing in asked for other in phrasing.paraphrases]
    )
    beyond = distances(
        [(phrasing.prompt, other) for phrasing in asked for other in phrasing.neighbors]
    )
    tried = torch.cat([within.new_zeros(1), within, beyond]).unique()
    inside = (within[None] <= tried[:, None]).double().mean(1)
    outside = (beyond[None] > tried[:, None]).double().mean(1)
    # What was not asked for must stay, whatever it costs.
    fits = (outside >= KEPT).nonzero().flatten()
    best = int(fits[inside[fits].argmax()]) if len(fits) else 0
    after = tried[min(best + 1, len(tried) - 1)]
    # Between two distances that were seen: neither is on the border.
    return Border(float((tried[best] + after) / 2), float(inside[best]), float(outside[best]))
