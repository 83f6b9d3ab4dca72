"""Causal tracing: which states carry a fact (Meng et al. 2022, section 2).

The subject's embeddings are corrupted by noise; then a clean state is put back at one token, and
what returns of the answer's probability is its indirect effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor, nn

from alphaedit.core.errors import ConfigError, DataError, unknown_name
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.locate.rerun import Rerun, Restoring, probabilities, record
from alphaedit.locate.sites import attention_outputs, mlp_outputs
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.prefix_cache import pass_tokens
from alphaedit.model.passes.tail_pass import check_rows
from alphaedit.model.tokens import Encoded

POSITIONS = ("first subject", "middle subject", "last subject", "further", "last")
FIRST, MIDDLE, LAST_SUBJECT, FURTHER, LAST = range(len(POSITIONS))
KINDS = ("hidden", "mlp", "attention")
"""What can be restored: hidden states that leave a block, outputs of its MLP or its attention."""

LARGEST_WINDOW, SMALLEST_WINDOW = 10, 3
NOISE, SAMPLES = 3.0, 10
RESAMPLES = 1000


@dataclass(frozen=True)
class Trace:
    """Causal tracing of some facts. Probabilities are those of the model's own answers.

    Attributes:
        kind: what was restored, see KINDS.
        window: in how many layers at a time; 1 for hidden states.
        clean_by_fact: [facts], probability without noise.
        corrupted_by_fact: [facts], with noise on the subject's embeddings, mean over noises.
        restored_by_fact: [facts, 5, layers], the same with clean states put back at one token,
            mean over tokens of the same kind of position (POSITIONS); NaN where a fact has none.
            For windows, a layer is the middle of its window.
    """

    kind: str
    window: int
    clean_by_fact: Tensor
    corrupted_by_fact: Tensor
    restored_by_fact: Tensor

    @property
    def facts(self) -> int:
        """Number of facts."""
        return len(self.clean_by_fact)

    @property
    def clean(self) -> float:
        """Mean probability of the answers."""
        return float(self.clean_by_fact.mean())

    @property
    def corrupted(self) -> float:
        """Mean probability of the answers with noise on the subjects."""
        return float(self.corrupted_by_fact.mean())

    @property
    def restored(self) -> Tensor:
        """[5, layers]: mean probability with states restored, NaN where no fact has the place."""
        return self.restored_by_fact.nanmean(0)

    @property
    def effect_by_fact(self) -> Tensor:
        """[facts, 5, layers]: restored minus corrupted."""
        return self.restored_by_fact - self.corrupted_by_fact[:, None, None]

    @property
    def indirect_effect(self) -> Tensor:
        """[5, layers]: mean of restored minus corrupted over the facts that have the position."""
        return self.effect_by_fact.nanmean(0)

    @cached_property
    def band(self) -> tuple[Tensor, Tensor]:
        """Low and high end of the 95 % interval of `indirect_effect`, [5, layers] each.

        Percentiles over means of facts drawn again with replacement, with a seed of its own.
        """
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(self.facts, (RESAMPLES, self.facts), generator=generator)
        counts = torch.zeros(RESAMPLES, self.facts, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones_like(counts))
        effect = self.effect_by_fact.flatten(1)
        total, present = counts @ effect.nan_to_num(0.0), counts @ (~effect.isnan()).double()
        ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
        low, high = (total / present).nanquantile(ends, dim=0).unflatten(1, (len(POSITIONS), -1))
        return low, high


@dataclass(frozen=True)
class _Row:
    """One fact, ready to be traced."""

    index: int
    encoded: Encoded
    noise: Tensor

    @property
    def first(self) -> int:
        return self.encoded.subject_first

    @property
    def length(self) -> int:
        return len(self.encoded.ids)

    def kinds(self) -> list[int]:
        """The kind of position of each token from the subject's first on."""
        kinds = []
        for position in range(self.first, self.length):
            if position == self.length - 1:
                kinds.append(LAST)
            elif position > self.encoded.subject_last:
                kinds.append(FURTHER)
            elif position == self.encoded.subject_last:
                kinds.append(LAST_SUBJECT)
            else:
                kinds.append(FIRST if position == self.first else MIDDLE)
        return kinds


def default_window(n_layers: int) -> int:
    """Layers in which MLP or attention outputs are restored together.

    10 as published for models of 48 layers; about a fifth of the layers of smaller ones.
    """
    fifth = max(SMALLEST_WINDOW, round(n_layers / 5))
    return min(LARGEST_WINDOW, fifth, n_layers)


def windows(n_layers: int, width: int) -> tuple[range, ...]:
    """For each layer the `width` layers around it, fewer at the ends, as published."""
    half = width // 2
    return tuple(
        range(max(0, layer - half), min(n_layers, layer - half + width))
        for layer in range(n_layers)
    )


@torch.no_grad()
def draw_noise(
    handle: ModelHandle,
    encoded: Sequence[Encoded],
    *,
    noise: float = NOISE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> list[Tensor]:
    """Gaussian noise for the subject of each fact, [samples, tokens, width] in float32.

    Args:
        handle: The model.
        encoded: The facts.
        noise: Its standard deviation, in standard deviations of the subjects' embeddings.
        samples: Noises for each fact.
        seed: Of the noise.
    """
    spans = [e.ids[e.subject_first : e.subject_last + 1] for e in encoded]
    ids = torch.tensor([[token for span in spans for token in span]], device=handle.device)
    embedded = handle.embed(ids).float()
    scale, width = noise * float(embedded.std()), embedded.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((samples, len(s), width), generator=generator) * scale for s in spans]


@torch.no_grad()
def trace(
    handle: ModelHandle,
    facts: Sequence[Fact],
    *,
    kind: str = "hidden",
    window: int | None = None,
    noise: float = NOISE,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: Progress = silent,
) -> Trace:
    """Causal tracing of `facts`, for the model's own answers.

    Facts of equal length, noises and layers are run together. Kinds of a seed see the same noise.

    Args:
        handle: The model.
        facts: Prompts and subjects; targets do not matter.
        kind: What is restored, see KINDS.
        window: Number of layers restored together, for MLP and attention.
        noise: Standard deviation of the noise, in standard deviations of subject embeddings.
        samples: Noises for each fact.
        seed: Of the noise.
        progress: Told of token positions.

    Raises:
        UnknownNameError: no such kind.
        ConfigError: a number out of range, or a window for hidden states.
        DataError: `facts` is empty.
        ModelError: a prompt is longer than the model can read, or it cannot be run in parts.
    """
    what, width = _restoring(handle, kind, window)
    if not facts:
        raise DataError("There is no fact to trace.", remedy="Give at least one fact.")
    if not noise > 0 or samples < 1:
        raise ConfigError(
            f"Noise of {noise} standard deviations and {samples} samples corrupt nothing.",
            remedy="Give a noise above 0, and at least one sample.",
        )
    encoded = [handle.tokens.encode_with_subject(f.text, f.subject_span) for f in facts]
    check_rows(handle, [e.ids for e in encoded], [e.subject_last for e in encoded])
    drawn = draw_noise(handle, encoded, noise=noise, samples=samples, seed=seed)
    rows = [_Row(i, e, n) for i, (e, n) in enumerate(zip(encoded, drawn, strict=True))]
    lots = list(_lots(rows, max(1, pass_tokens(handle) // samples)))
    clean, corrupted = torch.zeros(2, len(rows), dtype=torch.float64)
    restored = torch.full((len(rows), len(POSITIONS), handle.n_layers), torch.nan).double()
    total = sum(lot[0].length - lot[0].first for lot in lots)
    done = itertools.count()
    checked: set[int] = set()
    for lot in lots:
        rerun, index = _corrupted(handle, lot, what.modules), [row.index for row in lot]
        clean[index] = _ends(rerun, rerun.clean.entering[-1], 1)
        corrupted[index] = _ends(rerun, rerun.corrupted.entering[-1], samples)
        if lot[0].length not in checked:
            rerun.check(lot[0].first)
            checked.add(lot[0].length)
        told = lambda: progress(f"tracing {kind}", next(done), total)  # noqa: E731
        restored[index] = _restored(handle, lot, rerun, what, told)
    progress(f"tracing {kind}", total, total)
    return Trace(kind, width, clean, corrupted, restored)


@dataclass(frozen=True)
class PromptTrace:
    """Causal tracing of one prompt, token by token.

    Attributes:
        kind: what is restored, see KINDS.
        window: in how many layers at a time.
        tokens: texts of the tokens, from the subject's first to the prompt's last.
        subject: how many of them are the subject's.
        answer: the token that the model says.
        clean: its probability.
        corrupted: the same with noise on the subject, mean over noises.
        rows: for each token, as it is computed, [layers]: the probability with clean states put
            back there, mean over noises.
    """

    kind: str
    window: int
    tokens: tuple[str, ...]
    subject: int
    answer: str
    clean: float
    corrupted: float
    rows: Iterator[Tensor]


@torch.no_grad()
def trace_prompt(
    handle: ModelHandle,
    fact: Fact,
    *,
    kind: str = "hidden",
    window: int | None = None,
    noise: float = NOISE,
    samples: int = SAMPLES,
    seed: int = 0,
) -> PromptTrace:
    """Causal tracing of one prompt, told token by token; arguments and errors as for `trace`."""
    what, width = _restoring(handle, kind, window)
    encoded = handle.tokens.encode_with_subject(fact.text, fact.subject_span)
    check_rows(handle, [encoded.ids], [encoded.subject_last])
    (drawn,) = draw_noise(handle, [encoded], noise=noise, samples=samples, seed=seed)
    row = _Row(0, encoded, drawn)
    rerun = _corrupted(handle, [row], what.modules)
    rerun.check(row.first)

    def rows() -> Iterator[Tensor]:
        for place in range(row.first, row.length):
            with torch.no_grad():
                restored = rerun.restored(what, place, 1)
            yield restored[:, 0].cpu().double()

    decode = handle.tokens.decode
    return PromptTrace(
        kind=kind,
        window=width,
        tokens=tuple(decode([token]) for token in encoded.ids[row.first :]),
        subject=encoded.subject_last - encoded.subject_first + 1,
        answer=decode([int(rerun.answers[0])]),
        clean=float(_ends(rerun, rerun.clean.entering[-1], 1)),
        corrupted=float(_ends(rerun, rerun.corrupted.entering[-1], samples)),
        rows=rows(),
    )


def _restored(
    handle: ModelHandle,
    lot: Sequence[_Row],
    rerun: Rerun,
    what: Restoring,
    told: Callable[[], None],
) -> Tensor:
    """p(answer) with one state put back, for each row of a lot [rows, positions, layers].

    Args:
        handle: the model.
        lot: rows of one length.
        rerun: their runs, clean and corrupted.
        what: which states.
        told: called before each token.
    """
    restored = torch.full((len(lot), len(POSITIONS), handle.n_layers), torch.nan).double()
    by_place = torch.full((lot[0].length, handle.n_layers, len(lot)), torch.nan).double()
    for place in range(lot[0].first, lot[0].length):
        told()
        count = sum(row.first <= place for row in lot)
        by_place[place, :, :count] = rerun.restored(what, place, count).cpu().double()
    for number, row in enumerate(lot):
        kinds = torch.tensor(row.kinds())
        for position in kinds.unique().tolist():
            places = row.first + (kinds == position).nonzero()[:, 0]
            restored[number, position] = by_place[places, :, number].mean(0)
    return restored


def _restoring(handle: ModelHandle, kind: str, window: int | None) -> tuple[Restoring, int]:
    n_layers = handle.n_layers
    if kind not in KINDS:
        raise unknown_name("kind of state", kind, KINDS)
    if kind == "hidden":
        if window not in (None, 1):
            raise ConfigError(
                "Hidden states are restored in one layer: a window is for MLP and attention.",
                remedy="Leave out the window, or trace mlp or attention.",
            )
        return Restoring(windows(n_layers, 1)), 1
    width = default_window(n_layers) if window is None else window
    if not 1 <= width <= n_layers:
        raise ConfigError(
            f"A window of {width} layers is impossible.",
            remedy=f"The model has {n_layers} layers: give 1 to {n_layers}.",
        )
    modules: tuple[nn.Module, ...]
    modules = mlp_outputs(handle) if kind == "mlp" else attention_outputs(handle)
    return Restoring(windows(n_layers, width), modules), width


def _lots(rows: Sequence[_Row], tokens: int) -> Iterator[list[_Row]]:
    """Facts of equal length, at most `tokens` tokens together, by their first subject token."""
    order = sorted(rows, key=lambda row: (row.length, row.first, row.index))
    for length, group in groupby(order, key=lambda row: row.length):
        same, size = list(group), max(1, tokens // length)
        yield from (same[i : i + size] for i in range(0, len(same), size))


def _corrupted(handle: ModelHandle, lot: Sequence[_Row], watched: tuple[nn.Module, ...]) -> Rerun:
    """The clean and the corrupted pass over facts of equal length."""
    ids = torch.tensor([row.encoded.ids for row in lot], device=handle.device)
    samples = len(lot[0].noise)

    def corrupt(embedded: Tensor) -> Tensor:
        copy = embedded.clone()
        for number, row in enumerate(lot):
            own = slice(number * samples, (number + 1) * samples)
            copy[own, row.first : row.encoded.subject_last + 1] += row.noise.to(copy)
        return copy

    clean = record(handle, ids, watched)
    noisy = record(handle, ids.repeat_interleave(samples, 0), corrupt=corrupt)
    logits = handle.logits(clean.entering[-1][:, -1])
    return Rerun(handle, ids, clean, noisy, samples, logits.argmax(-1))


def _ends(rerun: Rerun, leaving: Tensor, samples: int) -> Tensor:
    """Probability of the answers [facts] after a whole pass, mean over `samples`."""
    answers = rerun.answers.repeat_interleave(samples)
    p = probabilities(rerun.handle, leaving[:, -1], answers)
    return p.view(-1, samples).mean(1).cpu().double()
