"""How the edits of a trained editor go: each alone, on facts that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.learned.editor import EditorNetwork
from alphaedit.methods.learned.step_size import scaled, sizes_until
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import (
    for_all_rows,
    for_each_row,
    logits_of,
    losses_of,
)
from alphaedit.model.handle import ModelHandle

MOST_PROMPTS = 4
"""Paraphrases, and neighborhood prompts, that are asked for each fact."""


@dataclass(frozen=True)
class Measures:
    """Shares in percent, as CounterFact counts them.

    Attributes:
        efficacy: of facts whose new object is more likely than the old one after the edit.
        generalization: the same of their paraphrases.
        specificity: of neighborhood prompts whose old object stays more likely than the new one.
    """

    efficacy: float
    generalization: float
    specificity: float

    @property
    def score(self) -> float:
        """Their harmonic mean."""
        values = (self.efficacy, self.generalization, self.specificity)
        return 3 / sum(1 / value for value in values) if min(values) > 0 else 0.0

    def to_json(self) -> dict[str, float]:
        """As JSON values."""
        return {**asdict(self), "score": self.score}


@dataclass
class Hits:
    """Which prompts went as they should: the edits' own, paraphrases, neighborhood prompts."""

    own: list[bool] = field(default_factory=list)
    paraphrase: list[bool] = field(default_factory=list)
    neighbor: list[bool] = field(default_factory=list)

    def measures(self) -> Measures:
        """Their shares in percent."""
        kinds = (self.own, self.paraphrase, self.neighbor)
        return Measures(*(100 * sum(hits) / len(hits) for hits in kinds))

    @torch.no_grad()
    def count(
        self,
        handle: ModelHandle,
        facts: Sequence[Fact],
        in_force: Callable[[Tensor], AbstractContextManager[None]],
    ) -> None:
        """Ask the prompts of `facts` while their edits are in force.

        Where the old object is not known, the model's own loss on the new one before the edit
        stands in its place.

        Args:
            in_force: of the number of the fact of each row, what brings the edits into force.
        """
        prompts = [(self.own, fact.text, i) for i, fact in enumerate(facts)]
        for i, fact in enumerate(facts):
            prompts += [(self.paraphrase, text, i) for text in fact.paraphrases[:MOST_PROMPTS]]
            prompts += [(self.neighbor, text, i) for text in fact.neighborhood[:MOST_PROMPTS]]
        owner = torch.tensor([i for _, _, i in prompts], device=handle.device)
        new = [(prompt, facts[i].target) for _, prompt, i in prompts]
        true = [(prompt, facts[i].truth or facts[i].target) for _, prompt, i in prompts]
        known = [facts[i].truth is not None for _, _, i in prompts]
        before = [] if all(known) else _losses(handle, true)
        with in_force(owner):
            for_new, for_true = _losses(handle, new), _losses(handle, true)
        for number, (hits, _, _) in enumerate(prompts):
            other = for_true[number] if known[number] else before[number]
            hits.append((for_new[number] < other) != (hits is self.neighbor))


@torch.no_grad()
def measure(
    handle: ModelHandle,
    network: EditorNetwork,
    facts: Sequence[Fact],
    batch: int,
    progress: Progress = silent,
    *,
    until: float | None = None,
) -> Measures:
    """Edit `batch` facts at a time, each by its own change or all by one, as the editor does.

    Args:
        until: loss of the targets that decides how large changes are, see `step_size`.
    """
    hits = Hits()
    for at in range(0, len(facts), batch):
        progress("held-out edits", at, len(facts))
        part = facts[at : at + batch]
        changes = network.propose(handle, part).changes
        if until is not None:
            changes = scaled(changes, sizes_until(handle, part, changes, until))
        pairs = {layer: (change.left, change.right) for layer, change in changes.items()}
        hits.count(handle, part, partial(for_each_row, handle, pairs))
    progress("held-out edits", len(facts), len(facts))
    return hits.measures()


@torch.no_grad()
def measure_sequence(
    handle: ModelHandle,
    network: EditorNetwork,
    facts: Sequence[Fact],
    batch: int,
    progress: Progress = silent,
) -> Measures:
    """Edit all facts, `batch` at a time on what is edited already, and ask all of them then."""
    made: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for at in range(0, len(facts), batch):
        progress("held-out edits", at, 2 * len(facts))
        with for_all_rows(handle, joined(made)):
            changes = network.propose(handle, facts[at : at + batch]).changes
        for layer, change in changes.items():
            made.setdefault(layer, []).append(change.joined())
    hits, pairs = Hits(), joined(made)
    for at in range(0, len(facts), batch):
        progress("held-out edits", len(facts) + at, 2 * len(facts))
        hits.count(handle, facts[at : at + batch], lambda owner: for_all_rows(handle, pairs))
    progress("held-out edits", 2 * len(facts), 2 * len(facts))
    return hits.measures()


def joined(
    made: Mapping[int, Sequence[tuple[Tensor, Tensor]]],
) -> dict[int, tuple[Tensor, Tensor]]:
    """Sums of changes [d_out, r], [r, d_in] as one product for each layer; gradients flow."""
    return {
        layer: (torch.cat([left for left, _ in pairs], 1), torch.cat([r for _, r in pairs], 0))
        for layer, pairs in made.items()
    }


def _losses(handle: ModelHandle, asked: Sequence[tuple[str, str]]) -> list[float]:
    read = Continuations.of_pairs(handle, asked)
    losses: list[float] = losses_of(logits_of(handle, read), read).tolist()
    return losses
