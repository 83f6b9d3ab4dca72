"""Second moments of a loss's gradients where edited matrices end: G of K-FAC's A ⊗ G."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.errors import StatsError
from alphaedit.core.progress import Progress, silent
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_output
from alphaedit.model.route import plain
from alphaedit.stats.corpus import Corpus
from alphaedit.stats.second_moment import packed

TOKENS = 4096
SEQUENCE = 128


@contextmanager
def _marks(handle: ModelHandle, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Zeros that are added to what leaves the edited matrices, whose gradients are those there."""
    marks: dict[int, Tensor] = {}

    def see(layer: int, out: Tensor) -> Tensor:
        marks[layer] = torch.zeros_like(out, requires_grad=True)
        return out + marks[layer]

    with ExitStack() as stack:
        for layer in layers:
            hook = lambda out, layer=layer: see(layer, out)  # noqa: E731
            stack.enter_context(on_output(handle.edited_module(layer), hook))
        yield marks


def output_moments(
    handle: ModelHandle,
    corpus: Corpus,
    layers: Sequence[int],
    *,
    tokens: int = TOKENS,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[int, Tensor]:
    """E[g g^T] at the outputs of the edited matrices of `layers`, [d_out, d_out] float32 each.

    g are gradients of the log-likelihood of next tokens that are drawn from the model's own
    predictions, so that the mean is the Gauss-Newton matrix's factor and not that of the labels.

    Raises:
        StatsError: the corpus has no tokens.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {
        layer: torch.zeros(handle.d_out(layer), handle.d_out(layer), dtype=torch.float64)
        for layer in layers
    }
    seen = 0
    length = min(SEQUENCE, handle.max_positions or SEQUENCE)
    for row in packed(handle, corpus, length):
        if seen >= tokens or len(row.ids) < 2:
            break
        ids, mask = handle.tokens.pad([row.ids], "right")
        with torch.enable_grad(), plain(), _marks(handle, layers) as marks:
            logits = handle.forward(ids, mask)[0].float()
            with torch.no_grad():
                drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)[:, 0]
            loss = F.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
            gradients = torch.autograd.grad(loss, [marks[layer] for layer in layers])
        for layer, gradient in zip(layers, gradients, strict=True):
            flat = gradient.reshape(-1, gradient.shape[-1]).double().cpu()
            sums[layer] += flat.T @ flat
        seen += len(row.ids)
        progress("curvature", min(seen, tokens), tokens)
    if not seen:
        raise StatsError(
            f"The corpus {corpus.name} has no text of two tokens.", remedy="Give another one."
        )
    return {layer: (total / seen).float() for layer, total in sums.items()}
