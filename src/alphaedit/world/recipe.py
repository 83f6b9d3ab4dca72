"""What decides a bundled model: one recipe each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from alphaedit.world.corpus import MIX

NOTES = 0.5
"""Share of items with notes where training goes on from a trained model."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a bundled model."""

    family: str = "gpt2"
    layers: int = 8
    width: int = 256
    inner: int = 2048
    heads: int = 4
    activation: str = "relu"
    vocabulary: int = 2048
    positions: int = 256
    subjects: int = 4000
    tokens: int = 15_000_000
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.02
    decay: float = 0.4
    bottleneck: float = 0.85
    delay: int = 4
    delayed: float = 0.7
    noise: float = 0.2
    name_share: float = 0.1
    zipf: float = 0.3
    hidden_norm: float = 40.0
    mix: tuple[tuple[str, float], ...] = MIX
    seed: int = 0

    def continued(self) -> Recipe:
        """The recipe by which training goes on from a trained model: half of it notes."""
        mix = [(kind, round((1 - NOTES) * share, 4)) for kind, share in self.mix]
        return replace(self, mix=(*mix, ("note", NOTES)))


RECIPES = {
    "bundled": Recipe(),
    "bundled-small": Recipe(
        family="llama",
        layers=6,
        width=160,
        inner=512,
        heads=5,
        subjects=500,
        tokens=3_400_000,
        delay=4,
    ),
}
