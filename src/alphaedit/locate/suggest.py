"""Choose layers and scale for a model that no preset knows, by what the model shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, DataError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.locate.trace import LAST, LAST_SUBJECT, Trace
from alphaedit.model.handle import ModelHandle
from alphaedit.model.partial import Suffix

MOST_FACTS = 16
READ = 0.8
"""A layer is early enough if this share of the strongest effect still comes after it."""
ARRIVED = 0.2
"""A layer is too late if more than this share of the strongest effect is at the last token."""
MOST_LAYERS = 5


@dataclass(frozen=True)
class ReadOut:
    """How much of a model's answer still depends on the subject's last token, after each layer.

    Attributes:
        effect: for each block the mean drop, 0 to 1, of the answer's probability when the hidden
            state that leaves it at the subject's last token is exchanged for another subject's.
        layer: the last block after which nearly all is still to be read: edit up to here.
        norms: mean norm of those hidden states, by block.
    """

    effect: tuple[float, ...]
    layer: int
    norms: tuple[float, ...]


def _exchange(clean: Tensor, seed: int) -> Tensor:
    """Another row's vector for each row of [n, d_out]; a random one of equal norm if n = 1."""
    if clean.shape[0] > 1:
        return clean.roll(1, dims=0)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = noise.to(clean) * (clean.norm() / noise.norm())
    return scaled


@torch.no_grad()
def read_out(
    handle: ModelHandle, facts: Sequence[Fact], *, seed: int = 0, progress: Progress = silent
) -> ReadOut:
    """Find where the subject's last token is read, by interchange (causal tracing without noise).

    For each block the hidden state at the subject's last token is exchanged between facts, all
    else kept, and the drop of the model's own first answer token is measured (compare Meng et al.
    2022, section 2; exchange in place of noise needs no scale).
    """
    chosen = list(facts[:MOST_FACTS])
    encoded = [handle.tokens.encode_with_subject(f.text, f.subject_span) for f in chosen]
    rows, starts = [e.ids for e in encoded], [e.subject_last for e in encoded]
    ends = torch.tensor([len(r) - 1 - s for r, s in zip(rows, starts, strict=True)])
    effect, norms = [], []
    for layer in range(handle.n_layers - 1):
        progress("layers", layer, handle.n_layers - 1)
        suffix = Suffix.build(handle, rows, starts, layer)
        index = torch.arange(len(rows), device=suffix.clean.device)
        last = ends.to(index.device)

        def answers(
            hidden: Tensor, suffix: Suffix = suffix, index: Tensor = index, last: Tensor = last
        ) -> Tensor:
            return suffix.logits(suffix.run(hidden)[index, last]).float().softmax(-1)

        before = answers(suffix.clean)
        top = before.argmax(-1)
        changed = suffix.clean.clone()
        changed[:, 0] = _exchange(suffix.clean[:, 0], seed)
        kept = answers(changed)[index, top] / before[index, top]
        effect.append(float((1 - kept).clamp(0, 1).mean()))
        norms.append(float(suffix.clean[:, 0].float().norm(dim=1).mean()))
    progress("layers", handle.n_layers - 1, handle.n_layers - 1)
    strongest = max(effect[1:] or effect)
    early = [i for i, e in enumerate(effect) if e >= READ * strongest]
    return ReadOut(tuple(effect), max(early) if strongest > 0 else 0, tuple(norms))


def window(last: int, n_layers: int) -> tuple[int, ...]:
    """Layers to edit: a stretch that ends at `last`, 2 to 5 long by the depth of the model."""
    length = min(5, max(2, round(0.12 * n_layers) + 2))
    return tuple(range(max(0, last - length + 1), last + 1))


def suggest_layers(traced: Trace) -> tuple[int, ...]:
    """Layers to edit, from a trace of hidden states: a stretch of at most five.

    It ends at the last layer at which the effect at the subject's last token is still high, and
    that at the prompt's last token is still low: what has been read from the subject by then, no
    later edit of it changes. It goes back as long as the former stays high.

    Raises:
        ConfigError: other states than hidden ones were traced.
        DataError: the trace shows no such layer.
    """
    if traced.kind != "hidden":
        raise ConfigError(
            f"Layers are suggested from a trace of hidden states, not of {traced.kind}.",
            remedy="Trace kind 'hidden'.",
        )
    effect = traced.indirect_effect.nan_to_num(0.0)
    subject, last = effect[LAST_SUBJECT], effect[LAST]
    high = subject >= READ * subject.max()
    early = last <= ARRIVED * last.max()
    found = (high & early).nonzero()[:, 0].tolist()
    if not subject.max() > 0 or not last.max() > 0 or not found:
        raise DataError(
            "The trace shows no layer at which the answer is still at the subject's last token.",
            remedy="Trace more facts, such as the model knows, with prompts that go on after the "
            "subject.",
        )
    stretch = [found[-1]]
    while stretch[0] > 0 and bool(high[stretch[0] - 1]) and len(stretch) < MOST_LAYERS:
        stretch.insert(0, stretch[0] - 1)
    return tuple(stretch)
