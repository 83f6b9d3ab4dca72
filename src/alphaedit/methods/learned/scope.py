"""Training of what tells whether a prompt is in the scope of an edit, and its folder on disk."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from pydantic import Field
from torch import Tensor

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.learned.examples import Split, check_facts, chosen
from alphaedit.methods.learned.run import Schedule
from alphaedit.methods.steps.encoder import best_encoder, embed
from alphaedit.methods.steps.scope import (
    LARGEST,
    Scope,
    distances,
    scores,
    standardised,
    vectors_of,
)
from alphaedit.model.handle import ModelHandle

NEAREST = 1e-4
"""Squared distance below which two texts are not told apart, and their loss grows no more."""
EACH = 4
"""Most paraphrases and neighbors of a fact that are read."""
ROWS = 64
SIZE, MANY = 64, 1000
"""Width of a projection, and facts without which it learns the facts and not the scope."""


class ScopeTraining(Schedule):
    """How a scope is trained."""

    steps: int = Field(300, ge=1, description="most steps")
    every: int = Field(25, ge=1, description="steps between measurements, each of which is kept")
    patience: int = Field(6, ge=1, description="measurements without progress before it ends")
    layers: tuple[int, ...] = Field((), description="layer that is read; by default measured")
    size: int | None = Field(
        None, ge=0, description="width of the projection; by default 64, or 0 of fewer facts"
    )
    batch: int = Field(48, ge=2, description="facts in a step")
    learning_rate: float = Field(0.01, gt=0, description="Adam's rate, of logarithms of weights")
    projection_rate: float = Field(1e-3, gt=0, description="Adam's rate, of the projection")
    hardest: int = Field(4, ge=1, description="nearest other edits that each prompt is parted from")
    held_out: int = Field(40, ge=1, description="facts set aside to measure on")


@dataclass(frozen=True)
class ScopeMeasures:
    """Shares in percent on facts set aside, whose edits are all in one memory.

    Attributes:
        efficacy: of the edits' own prompts, those that bring up their edit.
        generalization: of their paraphrases, those that bring up theirs: the recall.
        specificity: of prompts about neighbors, those that bring up none.
        precision: of the prompts that bring up one, those that bring up theirs.
        score: mean of generalization and specificity.
    """

    efficacy: float
    generalization: float
    specificity: float
    precision: float
    score: float

    def to_json(self) -> dict[str, float]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class ScopeLoss:
    """Loss of one step."""

    loss: float

    def to_json(self) -> dict[str, float]:
        """As JSON values."""
        return {"loss": self.loss}


class ScopeTrainer:
    """Weights and a projection in training: paraphrases near their edit's prompt, all else far.

    Balanced binary cross-entropy of exp(-|a - b|^2). Out of scope are the nearest prompts and
    paraphrases of other edits in a step, half of which are of one relation (one prompt), and the
    neighbors of each edit.

    Raises:
        DataError: the facts are too few, or lack paraphrases or neighbors.
        ConfigError: several layers are given, or one that is not there.
    """

    def __init__(
        self, handle: ModelHandle, facts: Sequence[Fact], settings: ScopeTraining, *, seed: int
    ) -> None:
        check_facts(handle, facts)
        if len(settings.layers) > 1:
            raise ConfigError("One layer is read.", remedy="Give one layer.")
        for layer in settings.layers:
            handle.block(layer)
        self.handle, self.settings, self.seed = handle, settings, seed
        self.split = Split.of(facts, settings.held_out, seed)
        self._features: dict[str, Tensor] | None = None
        self._layer = -1
        self._best: list[Tensor] | None = None

    def warm(self) -> None:
        """See Trainable."""
        self._layer = best_encoder(self.handle, self.settings.layers or None)[0]
        self._read()
        generator = torch.Generator().manual_seed(self.seed)
        size = self.settings.size
        if size is None:
            size = SIZE if len(self.split.train) >= MANY else 0
        drawn = torch.randn(len(self._mean), max(1, size), generator=generator)
        weights = torch.full((len(self._mean),), math.log(self._gain()))
        self._begin(weights, drawn * (1e-3 if size else 0.0))

    def _gain(self) -> float:
        """By what features are multiplied so that 0.5 parts in and out of scope best, untrained."""
        facts = self.split.train
        own = self._rows([fact.text for fact in facts])
        numbered = list(enumerate(facts))
        inside = torch.cat([self._apart(fact.paraphrases, own[i]) for i, fact in numbered])
        outside = torch.cat([self._apart(fact.neighborhood, own[i]) for i, fact in numbered])
        tried = torch.cat([inside, outside]).unique()
        right = (inside[None] <= tried[:, None]).float().mean(1)
        right += (outside[None] > tried[:, None]).float().mean(1)
        return math.sqrt(math.log(2) / max(float(tried[right.argmax()]), NEAREST))

    def _apart(self, texts: Sequence[str], own: Tensor) -> Tensor:
        return distances(self._rows(texts[:EACH]), own[None])[:, 0]

    def _begin(self, weights: Tensor, projection: Tensor) -> None:
        # A projection that is all zero has no part in it.
        self._parts = [weights.requires_grad_(), projection.requires_grad_(bool(projection.any()))]
        rates = (self.settings.learning_rate, self.settings.projection_rate)
        groups = [
            {"params": [part], "lr": rate}
            for part, rate in zip(self._parts, rates, strict=True)
            if part.requires_grad
        ]
        self._adam = torch.optim.Adam(groups)

    def _vectors(self, features: Tensor) -> Tensor:
        weights, projection = self._parts
        return vectors_of(features, weights.exp(), projection)

    def _read(self, progress: Progress = silent) -> None:
        """Features of every text, of length 1, and what they were standardised by."""
        facts = (*self.split.train, *self.split.held_out)
        texts = list(dict.fromkeys(text for fact in facts for text in _texts(fact)))
        texts.sort(key=len)
        parts = []
        for at in range(0, len(texts), ROWS):
            progress("reading", at, len(texts))
            parts.append(embed(self.handle, texts[at : at + ROWS], self._layer))
        place = {text: i for i, text in enumerate(texts)}
        features = torch.cat(parts)
        own = list(dict.fromkeys(text for fact in self.split.train for text in _texts(fact)))
        known = features[torch.tensor([place[text] for text in own])]
        self._mean = known.mean(0)
        spread = known.std(0)
        self._scale = spread.clamp_min(1e-3 * float(spread.max()))
        rows = standardised(features, self._mean, self._scale)
        self._features = {text: rows[i] for text, i in place.items()}

    def _rows(self, texts: Sequence[str]) -> Tensor:
        assert self._features is not None
        return torch.stack([self._features[text] for text in texts])

    def step(self, number: int) -> ScopeLoss:
        """See Trainable."""
        rng = random.Random(f"{self.seed}/scope/{number}")
        facts = self._drawn(number, rng)
        read = [rng.choice([fact.text, *fact.paraphrases[:EACH]]) for fact in facts]
        near = [rng.choice(fact.neighborhood[:EACH]) for fact in facts]
        features = self._rows([*(fact.text for fact in facts), *read, *near])
        edits, inside, outside = self._vectors(features).chunk(3)
        same = torch.tensor([[a.text == b.text for b in facts] for a in facts])
        apart = distances(inside, edits)
        loss = apart.diagonal().mean()
        most = min(self.settings.hardest, len(facts) - 1)
        others = _nearest(apart.masked_fill(same, LARGEST), most)
        edited = torch.tensor([[text == fact.text for fact in facts] for text in near])
        neighbors = _nearest(distances(outside, edits).masked_fill(edited, LARGEST), most)
        loss = loss - torch.log(-torch.expm1(-torch.cat([others, neighbors], 1))).mean()
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        self._adam.step()
        return ScopeLoss(float(loss.detach()))

    def _drawn(self, number: int, rng: random.Random) -> list[Fact]:
        """Facts of a step: half in turn, half of the relation of one of them."""
        facts, half = self.split.train, max(1, self.settings.batch // 2)
        drawn = chosen(facts, number, half, self.seed)
        prompt = rng.choice(drawn).prompt
        same = [fact for fact in facts if fact.prompt == prompt and fact not in drawn]
        rest = rng.sample(same, min(half, len(same)))
        if len(drawn) + len(rest) < 2:
            rest += rng.sample(facts, 2)
        return [*drawn, *rest]

    @torch.no_grad()
    def measure(self, progress: Progress = silent) -> ScopeMeasures:
        """See Trainable."""
        facts = self.split.held_out
        memory = self._vectors(self._rows([fact.text for fact in facts]))

        def brought_up(texts: Sequence[str]) -> list[int]:
            if not texts:
                return []
            best, nearest = scores(self._vectors(self._rows(texts)), memory).max(1)
            return torch.where(best > 0.5, nearest, -1).tolist()

        own = brought_up([fact.text for fact in facts])
        # Edits with the same prompt count as one; a neighbor that is edited, too, is none.
        names = [fact.text for fact in facts]
        asked = [(i, text) for i, fact in enumerate(facts) for text in fact.paraphrases[:EACH]]
        para = brought_up([text for _, text in asked])
        others = (text for fact in facts for text in fact.neighborhood[:EACH])
        near = brought_up([text for text in others if text not in names])
        right = [at >= 0 and names[at] == names[i] for (i, _), at in zip(asked, para, strict=True)]
        exact = [at >= 0 and names[at] == name for name, at in zip(names, own, strict=True)]
        fired = sum(at >= 0 for at in (*own, *para, *near))
        recall, silence = _percent(right), _percent([at < 0 for at in near])
        return ScopeMeasures(
            efficacy=_percent(exact),
            generalization=recall,
            specificity=silence,
            precision=100 * (sum(right) + sum(exact)) / fired if fired else 0.0,
            score=(recall + silence) / 2,
        )

    def keep(self) -> None:
        """See Trainable."""
        self._best = [part.detach().clone() for part in self._parts]

    def best(self) -> Scope:
        """What was best."""
        assert self._best is not None
        weights, projection = self._best
        return Scope(self._layer, self._mean, self._scale, weights.exp(), projection)

    def state(self) -> dict[str, Tensor]:
        """See Trainable; what was read is not in it, and is read again."""
        assert self._best is not None
        tensors = {"layer": torch.tensor([self._layer])}
        for number, (part, best) in enumerate(zip(self._parts, self._best, strict=True)):
            tensors |= {f"part/{number}": part.detach().clone(), f"best/{number}": best}
            for name, value in self._adam.state.get(part, {}).items():
                tensors[f"adam/{number}/{name}"] = value.clone()
        return tensors

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See Trainable."""
        self._layer = int(state["layer"])
        self._best = [state[f"best/{number}"] for number in range(2)]
        self._read()
        weights, projection = (state[f"part/{number}"].clone() for number in range(2))
        if weights.shape != self._mean.shape or len(projection) != len(weights):
            raise ValueError("weights and features have different sizes")
        self._begin(weights, projection)
        for number, part in enumerate(self._parts):
            front = f"adam/{number}/"
            adam = {n.removeprefix(front): v for n, v in state.items() if n.startswith(front)}
            if adam:
                self._adam.state[part] = {name: value.clone() for name, value in adam.items()}


def _texts(fact: Fact) -> tuple[str, ...]:
    return (fact.text, *fact.paraphrases[:EACH], *fact.neighborhood[:EACH])


def _nearest(apart: Tensor, count: int) -> Tensor:
    return apart.topk(count, dim=1, largest=False).values.clamp_min(NEAREST)


def _percent(hits: Sequence[bool]) -> float:
    return 100 * sum(hits) / len(hits) if hits else 0.0
