"""Trial edits: which layers and how large a clamp carry facts to paraphrases and no further.

Layers from which a fact can be read are not those by which it is best written: what an edit does to
paraphrases and to neighbors is measured, from coarse to fine, over stretches of layers. Trials
search targets as the edits to come do, but for fewer contexts; they are closed-form, with a second
moment of few tokens: at few edits the layers matter, and the linear system hardly does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress
from alphaedit.locate.suggest import window
from alphaedit.locate.well_known import Probe, probes
from alphaedit.methods.base import Problem
from alphaedit.methods.config import build
from alphaedit.methods.registry import get_method
from alphaedit.methods.state import SequentialState
from alphaedit.methods.steps.contexts import generate_contexts
from alphaedit.methods.steps.outputs import outputs_at
from alphaedit.methods.systems import Systems
from alphaedit.model.devices import quick_bfloat16
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import capture
from alphaedit.model.quantised import is_quantised
from alphaedit.model.scoring import score
from alphaedit.stats.statistics import ModelStatistics

LOG = logging.getLogger(__name__)

CLAMPS = (1.5, 3.0, 6.0)
SCALES = ("clamp", "learning_rate", "steps", "optimizer", "turns", "search_dtype")
STEPS, TURNS = 20, 2
RATE = 0.107
"""Adam's rate as a share of clamp * |h| / sqrt(d)."""
TRIAL_CONTEXTS = 2
DEEPEST = 0.75
"""Share of the depth behind which no stretch ends."""
COARSE = 5
"""Stretches tried first."""
MOST_BYTES = 2 << 30
"""Second moments of all layers are made in one pass if they take no more than this."""
SHORT = 0.5
"""A mean loss behind which the clamp, and not the steps, keeps targets from being reached."""
ENOUGH = 0.02
"""What a larger clamp must bring, in score, to be taken."""


@dataclass(frozen=True)
class Trial:
    """What edits in one stretch of layers did, shares between 0 and 1.

    Attributes:
        layers: the stretch.
        clamp: of the target search.
        loss: mean over the facts that the search ended with.
        efficacy: mean of p(new) / (p(new) + p(true)) after the edited prompts.
        generalization: the same after paraphrases.
        specificity: mean of p(true) / (p(true) + p(new)) after neighbors' prompts.
    """

    layers: tuple[int, ...]
    clamp: float
    loss: float
    efficacy: float
    generalization: float
    specificity: float

    @property
    def score(self) -> float:
        """Harmonic mean."""
        shares = (self.efficacy, self.generalization, self.specificity)
        return 3 / sum(1 / max(share, 1e-6) for share in shares)


class Trials:
    """Trial edits of one model, which is left as it was, bit for bit.

    Args:
        handle: the unedited model.
        statistics: of it; a short version of them is used.
        one_layer: stretches are one layer long.
        over: hyperparameters that are given.
    """

    def __init__(
        self,
        handle: ModelHandle,
        statistics: ModelStatistics,
        *,
        one_layer: bool,
        over: Mapping[str, Any],
        seed: int,
        progress: Progress,
    ) -> None:
        self.handle = handle
        self.rough = statistics.rough()
        self.over = over
        self.seed, self.progress = seed, progress
        self.one_layer = one_layer
        self.probes = probes(handle, seed=seed)
        count = min(TRIAL_CONTEXTS, int(over.get("contexts", TRIAL_CONTEXTS)))
        self.contexts = generate_contexts(handle, count, 10, seed)
        self.done: dict[tuple[tuple[int, ...], float], Trial] = {}
        self.planned = COARSE + 4
        self.together = True

    def best(self) -> Trial:
        """The best stretch, and a larger clamp where targets are out of reach of the usual one."""
        given = self.over.get("layers")
        chosen = self._try(tuple(given), CLAMPS[0]) if given else self._best_stretch()
        if "clamp" not in self.over:
            for size in CLAMPS[1:]:
                if chosen.loss < SHORT:
                    break
                other = self._try(chosen.layers, size)
                if other.score < chosen.score + ENOUGH:
                    break
                chosen = other
        self.progress("trial edits", self.planned, self.planned)
        LOG.info("chosen by trial edits: %s", chosen)
        return chosen

    def _best_stretch(self) -> Trial:
        """From coarse to fine over the layers at which a stretch may end."""
        handle = self.handle
        # Behind the last layer nothing is left that would read what it writes at the subject.
        last = max(0, min(handle.n_layers - 2, round(DEEPEST * handle.n_layers)))
        usual = len(window(handle.n_layers, handle.n_layers))
        length = 1 if self.one_layer else min(usual, last + 1)
        ends = range(length - 1, last + 1)
        step = max(1, -(-len(ends) // COARSE))
        self.together = 4 * sum(handle.moment_size(i) for i in range(last + 1)) <= MOST_BYTES
        if self.together:
            self.rough.prepare(range(last + 1))
        tried = {end: self._at(end, length) for end in ends[::step]}
        while step > 1:
            step = (step + 1) // 2 if step > 2 else 1
            top = max(tried, key=lambda end: tried[end].score)
            for end in (top - step, top + step):
                if end in ends and end not in tried:
                    tried[end] = self._at(end, length)
        return max(tried.values(), key=lambda trial: trial.score)

    def _at(self, end: int, length: int) -> Trial:
        return self._try(tuple(range(end - length + 1, end + 1)), CLAMPS[0])

    def settings(self, layers: Sequence[int], clamp: float) -> dict[str, Any]:
        """Settings of the target search that go with `layers` and `clamp`; what is given stays."""
        values = search_settings(self.handle, self.probes, layers, clamp)
        return {**values, **{k: self.over[k] for k in SCALES if k in self.over}}

    def _try(self, layers: tuple[int, ...], clamp: float) -> Trial:
        if (layers, clamp) in self.done:
            return self.done[(layers, clamp)]
        self.progress("trial edits", min(len(self.done), self.planned - 1), self.planned)
        # The search of the edits to come: targets only just reached do not show what spills over.
        values = self.settings(layers, float(self.over.get("clamp", clamp)))
        hp = build(
            {
                **values,
                "turns": self.over.get("turns", TURNS),
                "steps": min(STEPS, values["steps"]),
                "layers": layers,
                "moment_weight": moment_weight(self.handle, layers),
                "contexts": len(self.contexts),
            },
            "trial edits",
        )
        # Here and not while some of the layers are edited.
        self.rough.prepare(layers)
        solution = get_method("memit").solve(
            Problem(
                handle=self.handle,
                facts=[probe.fact for probe in self.probes],
                hyperparameters=hp,
                statistics=self.rough,
                state=SequentialState(contexts=self.contexts),
                seed=self.seed,
                systems=Systems(),
            )
        )
        with self.handle.temporarily(solution.patch.weights):
            shares = measured(self.handle, self.probes)
        losses = solution.patch.metadata["losses"]
        trial = Trial(layers, values["clamp"], sum(losses) / len(losses), *shares)
        LOG.info("%s, score %.3f", trial, trial.score)
        self.done[(layers, clamp)] = trial
        if not self.together:
            self.rough.forget()
        return trial


def search_settings(
    handle: ModelHandle, asked: Sequence[Probe], layers: Sequence[int], clamp: float
) -> dict[str, Any]:
    """Settings of a target search, its rate relative to the hidden states of what is `asked`.

    Adam's steps move all coordinates alike; what they find reaches paraphrases better than what
    quasi-Newton steps find, and touches neighbors more.
    """
    norm = mean_norm(handle, [probe.fact for probe in asked], layers)
    rate = RATE * clamp * norm / handle.d_out(layers[-1]) ** 0.5
    values = {"clamp": clamp, "steps": STEPS, "learning_rate": rate, "optimizer": "adam"}
    # Targets that must be reached through a norm or factor want all prompts in every step.
    values["turns"] = TURNS if handle.adds_directly else 1
    if (half := half_precision(handle)) is not None:
        values["search_dtype"] = half
    return values


def moment_weight(handle: ModelHandle, layers: Sequence[int]) -> float:
    """Weight of the second moment: a tenth of the entries of a key, of an expert's at experts."""
    return handle.d_in(handle.sites(layers[-1])[0]) / 10


def mean_norm(handle: ModelHandle, facts: Sequence[Fact], layers: Sequence[int]) -> float:
    """Mean norm of the hidden states (or of the matrices' outputs) that deltas are added to."""
    if not handle.adds_directly:
        given = outputs_at(handle, facts, layers)
        return float(torch.stack([v.norm(dim=0) for v in given.values()]).mean())
    ids, lasts = [], []
    for fact in facts:
        encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
        ids.append(encoded.ids[: encoded.subject_last + 1])
        lasts.append(encoded.subject_last)
    _, hidden = capture(handle, ids, lasts, hidden_layers=[layers[-1]])
    # The median: a subject at the very first position may have a massive activation.
    return float(hidden[layers[-1]].float().norm(dim=1).median())


def measured(handle: ModelHandle, facts: Sequence[Probe]) -> tuple[float, float, float]:
    """Efficacy, generalization and specificity as `Trial` has them, of the model as it is now."""
    asked: list[tuple[int, str, str, str]] = []
    for probe in facts:
        new, true = probe.fact.target, str(probe.fact.truth)
        asked.append((0, probe.fact.text, new, true))
        asked += [(1, prompt, new, true) for prompt in probe.fact.paraphrases]
        asked += [(2, prompt, own, new) for prompt, own in probe.neighbors if own != new]
    pairs = [(prompt, answer) for _, prompt, *both in asked for answer in both]
    p = [s.p for s in score(handle, pairs)]
    shares: list[list[float]] = [[], [], []]
    for i, (kind, *_) in enumerate(asked):
        wanted, other = p[2 * i], p[2 * i + 1]
        shares[kind].append(wanted / max(wanted + other, 1e-30))
    means = [sum(part) / len(part) if part else 1.0 for part in shares]
    return means[0], means[1], means[2]


def half_precision(handle: ModelHandle) -> str | None:
    """bfloat16 where it is quicker than the model's own dtype; None elsewhere."""
    whole = not any(is_quantised(module) for module in handle.model.modules())
    if handle.dtype != torch.float32 or handle.sharded or not whole:
        return None
    return "bfloat16" if quick_bfloat16(handle.device) else None
