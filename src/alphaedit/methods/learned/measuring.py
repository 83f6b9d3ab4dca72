"""How the edits of a trained editor go: each alone, on facts that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.learned.editor import EditorNetwork
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import for_each_row, logits_of, losses_of
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


@torch.no_grad()
def measure(
    handle: ModelHandle,
    network: EditorNetwork,
    facts: Sequence[Fact],
    batch: int,
    progress: Progress = silent,
) -> Measures:
    """Edit `batch` facts at a time, each by its own change or all by one, as the editor does.

    Where the old object is not known, the model's own loss on the new one before the edit stands
    in its place.
    """
    hits: dict[str, list[bool]] = {"own": [], "paraphrase": [], "neighbor": []}
    for at in range(0, len(facts), batch):
        progress("held-out edits", at, len(facts))
        part = facts[at : at + batch]
        prompts = [("own", fact.text, i) for i, fact in enumerate(part)]
        prompts += [
            ("paraphrase", p, i) for i, f in enumerate(part) for p in f.paraphrases[:MOST_PROMPTS]
        ]
        prompts += [
            ("neighbor", p, i) for i, f in enumerate(part) for p in f.neighborhood[:MOST_PROMPTS]
        ]
        changes = network.propose(handle, part).changes
        owner = torch.tensor([i for _, _, i in prompts], device=handle.device)
        new = [(prompt, part[i].target) for _, prompt, i in prompts]
        true = [(prompt, part[i].truth or part[i].target) for _, prompt, i in prompts]
        known = [part[i].truth is not None for _, _, i in prompts]
        before = [] if all(known) else _losses(handle, true)
        with for_each_row(handle, {k: (c.left, c.right) for k, c in changes.items()}, owner):
            for_new, for_true = _losses(handle, new), _losses(handle, true)
        for number, (kind, _, _) in enumerate(prompts):
            other = for_true[number] if known[number] else before[number]
            wins = bool(for_new[number] < other)
            hits[kind].append(wins != (kind == "neighbor"))
    progress("held-out edits", len(facts), len(facts))
    return Measures(*(100 * sum(values) / len(values) for values in hits.values()))


def _losses(handle: ModelHandle, asked: Sequence[tuple[str, str]]) -> list[float]:
    read = Continuations.of_pairs(handle, asked)
    found: list[float] = losses_of(logits_of(handle, read), read).tolist()
    return found
