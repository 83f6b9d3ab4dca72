"""RLEdit: MALMEN's update, trained on sequences of edits as a policy is (Li et al., 2025)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.learned.editor import EditorShape, Gradients
from alphaedit.methods.learned.examples import Rows, chosen
from alphaedit.methods.learned.measuring import Measures, joined, measure_sequence
from alphaedit.methods.learned.method import LearnedMethod
from alphaedit.methods.learned.ridge_network import MalmenNetwork
from alphaedit.methods.learned.run import Schedule
from alphaedit.methods.learned.training import Trainer, TrainSettings
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import Tokens, for_all_rows, logits_of, losses_of
from alphaedit.model.handle import ModelHandle

Leaves = dict[int, tuple[Tensor, Tensor]]
"""By layer left [d_out, n] and right [n, d_in] factors of a batch's change, where gradients end."""


class SequenceSettings(TrainSettings):
    """How an editor is trained on sequences of edits; a step is one sequence."""

    blocks: int = Field(4, ge=1, description="blocks of a network")
    batch: int = Field(4, ge=1, description="edits in a batch")
    until: None = Field(None, description="not here: sizes are learned")
    sequence: int = Field(8, ge=2, description="batches in a sequence; published 400 of 20 edits")
    window: int = Field(10, ge=1, description="latest batches that are asked after each batch")
    memory_decay: float = Field(
        0.95, gt=0, le=1, description="weight of a batch, for each batch that came after it"
    )
    edit_weight: float = Field(1.0, gt=0, description="weight of the loss of edited facts")
    locality_weight: float = Field(0.6, ge=0, description="weight of the KL of other prompts")
    size_weight: float = Field(
        1e-4, ge=0, description="weight of the squared Frobenius norm of each change"
    )


class RlNetwork(MalmenNetwork):
    """MALMEN's; what it counts in its statistics waits for the end of a sequence.

    The way back through a change has to see the statistics that the change was made with.
    """

    def __init__(self, shape: EditorShape, generator: torch.Generator | None = None) -> None:
        super().__init__(shape, generator)
        self._waiting: list[Mapping[int, Tokens]] = []

    def take_in(self, tokens: Mapping[int, Tokens]) -> None:
        """Count tokens in the statistics when `settle` is called."""
        self._waiting.append(tokens)

    def settle(self) -> None:
        """Count all that waits."""
        for tokens in self._waiting:
            super().take_in(tokens)
        self._waiting = []

    def warm(self, handle: ModelHandle, facts: Sequence[Fact]) -> None:
        """See EditorNetwork."""
        super().warm(handle, facts)
        self.settle()


@dataclass(frozen=True)
class Batch:
    """A batch of a sequence: what is edited, what is asked, and what the base says of it.

    Attributes:
        facts: that are edited.
        asked: prompts to be answered anew, then those whose answers are to stay.
        anew: how many are of the first kind.
        base: log-probabilities [n, vocabulary] of the base at the answers of the others.
    """

    facts: Sequence[Fact]
    asked: Continuations
    anew: int
    base: Tensor

    @classmethod
    def read(cls, handle: ModelHandle, facts: Sequence[Fact], rows: Rows) -> Batch:
        """Ask the model as it is, before the sequence."""
        others = Continuations.of_pairs(handle, rows.asked[rows.inside :])
        with torch.no_grad():
            base = logits_of(handle, others).log_softmax(-1)
        return cls(facts, Continuations.of_pairs(handle, rows.asked), rows.inside, base)

    def losses(self, handle: ModelHandle) -> tuple[Tensor, Tensor]:
        """NLL of the targets and KL of the others, of the model as it is changed now."""
        logits = logits_of(handle, self.asked)
        edit = losses_of(logits, self.asked)[: self.anew].mean()
        after = logits[self.asked.row >= self.anew].log_softmax(-1)
        return edit, F.kl_div(after, self.base, reduction="batchmean", log_target=True)


class SequenceTrainer(Trainer):
    """A step edits batch after batch, on weights that are edited already, and looks back.

    After batch t, with all changes so far in force, the loss is

        sum over i < window of decay^i (edit_{t-i} + locality_weight * KL_{t-i}) + size |Delta_t|^2

    and its gradient goes to every change that is in force, so that an early change learns what
    later states make of it. One step of Adam follows a whole sequence.
    """

    def _run_backward(self, number: int) -> tuple[float, float]:
        handle, settings = self.handle, self.settings
        assert isinstance(settings, SequenceSettings)
        assert isinstance(self.network, RlNetwork)
        rng = random.Random(f"{self.seed}/{number}")
        batches = [self._batch(number, place, rng) for place in range(settings.sequence)]
        total = sum(
            settings.memory_decay**back
            for place in range(len(batches))
            for back in range(min(place + 1, settings.window))
        )
        changes: list[Leaves] = []
        ways_back = []
        edit = locality = 0.0
        for place, batch in enumerate(batches):
            with torch.no_grad(), for_all_rows(handle, summed(changes)):
                proposal = self.network.propose(handle, batch.facts)
            ways_back.append(proposal.backward)
            changes.append(
                {
                    layer: (part.left[0].detach().requires_grad_(), part.right[0].detach())
                    for layer, part in proposal.changes.items()
                }
            )
            seen = batches[max(0, place + 1 - settings.window) : place + 1]
            losses = self._look_back(seen, changes, total)
            edit, locality = edit + losses[0], locality + losses[1]
        for change, backward in zip(changes, ways_back, strict=True):
            backward(gradients_of(change))
        self.network.settle()
        return edit, locality

    def _batch(self, number: int, place: int, rng: random.Random) -> Batch:
        settings = self.settings
        assert isinstance(settings, SequenceSettings)
        turn = number * settings.sequence + place
        facts = chosen(self.split.train, turn, settings.batch, self.seed)
        return Batch.read(self.handle, facts, Rows.drawn(facts, settings.neighbors, rng))

    def _look_back(
        self, seen: Sequence[Batch], changes: Sequence[Leaves], total: float
    ) -> tuple[float, float]:
        """Losses of the state after the last change; gradients are added to those of all changes.

        Args:
            seen: the latest batches, the last one last.
            total: by what weights are divided, so that those of a sequence sum to 1.

        Returns:
            Weighted losses of the edits and of the others.
        """
        settings = self.settings
        assert isinstance(settings, SequenceSettings)
        edits = others = 0.0
        # Each batch has a graph of its own, which is gone before the next one is asked.
        for back, batch in enumerate(reversed(seen)):
            weight = settings.memory_decay**back / total
            with torch.enable_grad(), for_all_rows(self.handle, summed(changes)):
                edit, locality = batch.losses(self.handle)
                loss = settings.edit_weight * edit + settings.locality_weight * locality
                (weight * loss).backward()
            edits += weight * float(edit.detach())
            others += weight * float(locality.detach())
        with torch.enable_grad():
            size = torch.stack([squared_norm(*pair) for pair in changes[-1].values()]).sum()
            (settings.size_weight / total * size).backward()
        return edits, others

    def _measured(self, facts: Sequence[Fact], progress: Progress = silent) -> Measures:
        return measure_sequence(self.handle, self.network, facts, self.settings.batch, progress)


def summed(changes: Sequence[Leaves]) -> Leaves:
    """All changes as one; gradients flow to each."""
    layers = changes[0] if changes else ()
    return joined({layer: [change[layer] for change in changes] for layer in layers})


def gradients_of(change: Leaves) -> Gradients:
    """Gradients of left factors, shaped as a proposal's; right factors are keys and have none."""
    return {
        layer: ((torch.zeros_like(left) if left.grad is None else left.grad)[None], right[None])
        for layer, (left, right) in change.items()
    }


def squared_norm(left: Tensor, right: Tensor) -> Tensor:
    """Squared Frobenius norm of left [d_out, r] @ right [r, d_in], which is not formed."""
    return ((left.T @ left) * (right @ right.T)).sum()


@dataclass(frozen=True)
class RlEdit(LearnedMethod):
    """Edits as MALMEN does; trained on sequences."""

    train_settings: ClassVar[type[Schedule]] = SequenceSettings

    def trainee(
        self, handle: ModelHandle, facts: Sequence[Fact], settings: TrainSettings, seed: int
    ) -> SequenceTrainer:
        """See TrainedMethod."""
        return SequenceTrainer(handle, self.network, facts, settings, seed=seed)


METHOD = RlEdit(
    name="rledit",
    title="RLEdit",
    paper="https://arxiv.org/abs/2502.05759",
    summary="A network, trained before on sequences of edits, proposes each next change.",
    network=RlNetwork,
)
