"""Training of editors: a step changes the model by what the editor proposes, and looks."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.errors import DataError, NonFiniteError, ResourceError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.learned.editor import EditorNetwork, EditorShape, Gradients, Proposal
from alphaedit.methods.learned.examples import Rows, Split, check_facts, chosen
from alphaedit.methods.learned.measuring import Measures, measure
from alphaedit.methods.learned.network import Factors, largest_rank
from alphaedit.methods.learned.run import Schedule
from alphaedit.methods.learned.step_size import scaled, sizes_until, with_sizes_free
from alphaedit.methods.steps.continuations import Continuations
from alphaedit.methods.steps.gradients import Where, for_each_row, logits_of, losses_of
from alphaedit.model.handle import ModelHandle
from alphaedit.model.memory import SHARE, free_bytes

BYTES_EACH = 28
"""Of each learned number: itself, its gradient, two moments, the best, and a copy to write."""
SMALLEST_RATE = 1e-6
TRIED = 16
"""Facts on which rates are tried."""
MOST_RATES = 16
NO_GRADIENT = "The gradient of the training loss is zero"


class TrainSettings(Schedule):
    """How an editor is trained."""

    layers: tuple[int, ...] = Field((), description="edited layers; by default what suits it")
    tokens: Where | None = Field(
        None,
        description="tokens that an edit's change is made of: all, those that the answer is read "
        "from, or the subject's; by default as published",
    )
    rank: int = Field(64, ge=1, description="inner width of the networks; published 1920")
    blocks: int = Field(2, ge=1, description="blocks of a network")
    rate: float | None = Field(
        None, gt=0, description="rate of an edit at the start, learned; by default measured"
    )
    floor: float = Field(0.05, ge=0, lt=1, description="least deviation, as a share of the mean")
    learning_rate: float = Field(1e-4, gt=0, description="Adam's rate for the networks")
    rate_learning_rate: float | None = Field(
        None, ge=0, description="Adam's rate for the edits' rates; by default a hundredth of these"
    )
    decay: float = Field(0.5, ge=0, le=1, description="share of the steps in which rates fall to 0")
    until: float | None = Field(
        None,
        gt=0,
        description="train for edits that are as large as leaves their target this loss (nats), "
        "which edits then are by default",
    )
    edit_weight: float = Field(
        2.0, gt=0, description="weight of the loss of edited facts; published 0.1"
    )
    locality_weight: float = Field(1.0, ge=0, description="weight of the KL of other prompts")
    neighbors: int = Field(1, ge=1, description="other prompts for each edit of a step")
    batch: int = Field(8, ge=1, description="edits in a step")
    clip: float = Field(100.0, gt=0, description="largest norm of a gradient")
    warm: int = Field(300, ge=2, description="facts that statistics are taken from at first")
    every: int = Field(100, ge=1, description="steps between measurements, each of which is kept")
    held_out: int = Field(40, ge=1, description="facts set aside to measure on")


@dataclass(frozen=True)
class StepReport:
    """Losses of one step, and the norm of its gradient before it was clipped."""

    edit: float
    locality: float
    gradient: float

    def to_json(self) -> dict[str, float]:
        """As JSON values."""
        return {"edit_loss": self.edit, "kl": self.locality, "gradient": self.gradient}


def editor_shape(handle: ModelHandle, settings: TrainSettings) -> EditorShape:
    """Sizes of an editor for a model.

    Raises:
        ConfigError: there is no such layer.
    """
    layers = settings.layers or usual_layers(handle)
    return EditorShape.of(
        handle,
        layers,
        rank=settings.rank,
        blocks=settings.blocks,
        rate=settings.rate or SMALLEST_RATE,
        floor=settings.floor,
        tokens=settings.tokens,
    )


def usual_layers(handle: ModelHandle) -> tuple[int, ...]:
    """The last three, as published; of the bundled models early ones, where facts are read."""
    if handle.is_bundled:
        return tuple(range(1, min(4, handle.n_layers)))
    return tuple(range(max(0, handle.n_layers - 3), handle.n_layers))


def check_memory(
    kind: type[EditorNetwork], shape: EditorShape, handle: ModelHandle, free: float | None = None
) -> None:
    """Refuse networks that do not fit into the free memory.

    Raises:
        ResourceError: with the rank that fits.
    """
    limit = SHARE * (free_bytes(handle.device) if free is None else free)
    need = BYTES_EACH * kind.size(shape)
    if need > limit:
        rank = largest_rank(shape.networks("before"), limit, BYTES_EACH)
        raise ResourceError(
            f"Training networks of rank {shape.rank} takes about {need / 1e9:.2f} GB, and "
            f"{limit / 1e9:.2f} GB of what is free may be taken.",
            remedy=f"Give --set rank={rank} or less."
            if rank
            else "Edit fewer layers, or use a machine with more memory.",
        )


class Trainer:
    """Trains one editor, step by step; what it is at any step depends on nothing but its inputs.

    Attributes:
        handle: the model, whose weights stay as they are.
        network: what is trained.
        shape: its sizes.
        split: facts to train on, and to measure on.
        settings: see `TrainSettings`.
    """

    def __init__(
        self,
        handle: ModelHandle,
        kind: type[EditorNetwork],
        facts: Sequence[Fact],
        settings: TrainSettings,
        *,
        seed: int = 0,
    ) -> None:
        """Check what is given, and make a new network; nothing is computed yet.

        Raises:
            DataError, ConfigError, ResourceError: see `check_facts`, `editor_shape` and
                `check_memory`.
        """
        self.handle, self.settings, self.seed = handle, settings, seed
        self.shape = editor_shape(handle, settings)
        check_memory(kind, self.shape, handle)
        check_facts(handle, facts)
        self.split = Split.of(facts, settings.held_out, seed)
        generator = torch.Generator().manual_seed(seed)
        self.network = kind(self.shape, generator).to(handle.device)
        own = [p for name, p in self.network.named_parameters() if name in kind.rates]
        rest = [p for name, p in self.network.named_parameters() if name not in kind.rates]
        self.adam = torch.optim.Adam([{"params": rest}, {"params": own}], lr=0.0, foreach=False)
        self._best: dict[str, Tensor] = self._copied()

    def warm(self) -> None:
        """Take the statistics of the first facts in; before the first step."""
        facts = chosen(self.split.train, 0, self.settings.warm, self.seed)
        self.network.warm(self.handle, facts)
        if self.settings.rate is None and self.network.rates:
            self._try_rates(facts[:TRIED])
        self._best = self._copied()

    def _try_rates(self, facts: Sequence[Fact]) -> None:
        """Begin with the rate at which the untrained network edits best, times 10 or 3 in turn."""
        self.network.eval()
        scores: dict[float, float] = {}
        rate = best = SMALLEST_RATE
        for number in range(MOST_RATES):
            self.network.begin_at(rate)
            scores[rate] = self._measured(facts).score
            best = max(scores, key=lambda tried: scores[tried])
            if scores[best] > 0 and rate > 5 * best:
                break
            rate *= 3 if number % 2 == 0 else 10 / 3
        self.network.begin_at(best)

    def step(self, number: int) -> StepReport:
        """Step number `number`, from 0.

        Raises:
            DataError: there is no gradient, so that nothing can be learned.
            NonFiniteError: losses or gradients have grown beyond all bounds.
        """
        settings = self.settings
        self.network.train()
        self.network.at_step(f"{self.seed}/{number}")
        self.adam.zero_grad(set_to_none=True)
        edit, locality = self._run_backward(number)
        norm = float(
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip, foreach=False)
        )
        report = StepReport(edit, locality, norm)
        _check(report, number)
        left = (settings.steps - number) / max(settings.decay * settings.steps, 1.0)
        rates = (settings.learning_rate, self._rate_of_rates())
        for group, rate in zip(self.adam.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, left)
        self.adam.step()
        return report

    def _facts(self, number: int) -> list[Fact]:
        """Those that step `number` edits."""
        return chosen(self.split.train, number, self.settings.batch, self.seed)

    def _run_backward(self, number: int) -> tuple[float, float]:
        """Losses of a step, whose gradients are added to those of the network's parameters."""
        facts = self._facts(number)
        # What a fact's own prompt says is settled where the size of its change is.
        own = 0.5 if self.settings.until is None else 0.0
        rng = random.Random(f"{self.seed}/{number}")
        rows = Rows.drawn(facts, self.settings.neighbors, rng, own=own)
        return self._losses(self.network.propose(self.handle, facts), rows, facts)

    def _rate_of_rates(self) -> float:
        given = self.settings.rate_learning_rate
        return self.network.rate_learning_rate() if given is None else given

    def _losses(self, proposal: Proposal, rows: Rows, facts: Sequence[Fact]) -> tuple[float, float]:
        """Losses at the changed model; their gradients go back into the network."""
        handle, settings = self.handle, self.settings
        unsized = {
            layer: Factors(change.left.detach(), change.right.detach())
            for layer, change in proposal.changes.items()
        }
        changes, sizes = unsized, None
        if settings.until is not None:
            sizes = sizes_until(handle, facts, unsized, settings.until)
            changes = scaled(unsized, sizes)
        leaves = {
            layer: tuple(part.detach().requires_grad_() for part in (change.left, change.right))
            for layer, change in changes.items()
        }
        read = Continuations.of_pairs(handle, rows.asked)
        stays = read.row >= rows.inside
        others = Continuations.of_pairs(handle, rows.asked[rows.inside :])
        with torch.no_grad():
            before = logits_of(handle, others).log_softmax(-1)
        owner = torch.tensor(rows.owner, device=handle.device)
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            pairs = {layer: (left, right) for layer, (left, right) in leaves.items()}
            stack.enter_context(for_each_row(handle, pairs, owner))
            logits = logits_of(handle, read)
            edit = losses_of(logits, read)[: rows.inside].mean()
            after = logits[stays].log_softmax(-1)
            locality = F.kl_div(after, before, reduction="batchmean", log_target=True)
            (settings.edit_weight * edit + settings.locality_weight * locality).backward()
        gradients: Gradients = {
            layer: (_gradient(left), _gradient(right)) for layer, (left, right) in leaves.items()
        }
        if sizes is not None:
            gradients = dict(with_sizes_free(handle, facts, unsized, sizes, gradients))
        proposal.backward(gradients)
        return float(edit.detach()), float(locality.detach())

    def measure(self, progress: Progress = silent) -> Measures:
        """How edits of facts about subjects that are not trained on go."""
        self.network.eval()
        return self._measured(self.split.held_out, progress)

    def _measured(self, facts: Sequence[Fact], progress: Progress = silent) -> Measures:
        settings = self.settings
        return measure(
            self.handle, self.network, facts, settings.batch, progress, until=settings.until
        )

    def keep(self) -> None:
        """Remember the network as it is now as the best."""
        self._best = self._copied()

    def best(self) -> EditorNetwork:
        """The network with what was best."""
        self.network.load_state_dict(self._best)
        return self.network

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, on the CPU, ready for safetensors."""
        flat = {f"network/{name}": tensor for name, tensor in self._copied().items()}
        flat |= {f"best/{name}": tensor.clone() for name, tensor in self._best.items()}
        for number, values in self.adam.state_dict()["state"].items():
            for name, value in values.items():
                flat[f"adam/{number}/{name}"] = torch.as_tensor(value).detach().cpu().clone()
        return flat

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a `state`."""
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "best": {}, "adam": {}}
        for name, tensor in state.items():
            kind, _, rest = name.partition("/")
            parts[kind][rest] = tensor
        self.network.load_state_dict(parts["network"])
        self._best = parts["best"]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["adam"].items():
            number, _, field = name.partition("/")
            moments.setdefault(int(number), {})[field] = tensor
        groups = self.adam.state_dict()["param_groups"]
        self.adam.load_state_dict({"state": moments, "param_groups": groups})

    def _copied(self) -> dict[str, Tensor]:
        return {
            name: tensor.detach().cpu().clone()
            for name, tensor in self.network.state_dict().items()
        }


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _check(report: StepReport, number: int) -> None:
    values = torch.tensor([report.edit, report.locality, report.gradient])
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteError(
            f"Training blew up in step {number + 1}: the loss of edits is {report.edit:.3g}, the "
            f"KL of other prompts {report.locality:.3g}, the gradient {report.gradient:.3g}.",
            remedy="Lower learning_rate or rate, or raise floor.",
        )
    if report.gradient == 0:
        raise DataError(
            f"{NO_GRADIENT} in step {number + 1} (loss of edits {report.edit:.3g}): no change of "
            "these layers reaches the targets, or the model is certain of them already.",
            remedy="Look at the targets, and edit layers in front of the last one.",
        )
