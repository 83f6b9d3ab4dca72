"""The bundled corpus: plain text of the world, for second moments and perplexity."""

from __future__ import annotations

from collections.abc import Iterator

from alphaedit.world.corpus import Corpus
from alphaedit.world.facts import World
from alphaedit.world.phrasing import text_of

ITEMS_PER_TEXT = 8


def bundled_texts(seed: int = 1, subjects: int | None = None) -> Iterator[str]:
    """Endless texts about the world, from the generator that made the training text.

    Args:
        seed: of the generator; training used other seeds.
        subjects: the best-known subjects only (what the small bundled model knows).
    """
    world = World.load()
    if subjects is not None:
        world = world.largest(subjects)
    for pieces in Corpus(world, seed=seed).texts(ITEMS_PER_TEXT):
        yield text_of(pieces)
