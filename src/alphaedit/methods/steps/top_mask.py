"""Masks of the largest entries of mean keys, by which MEMOIR tells prompts apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alphaedit.methods.steps.encoder import embed
from alphaedit.methods.steps.rest_pass import Clean
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.phrasings import border, phrasings, texts_of

DEPTHS = (0.125, 0.25, 0.5, 0.75)
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 2 / 7)
"""Sizes of masks that are tried, as shares of a key; 2/7 is as published."""
DENSE = 0.5
"""Share of a key that must be active for its entries to be exchanged."""


def permutation_of(size: int, seed: int, *, permute: bool) -> Tensor:
    """The place in a mask of each entry of a key, [size] int64."""
    if not permute:
        return torch.arange(size)
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def top_masks(features: Tensor, k: int, permutation: Tensor) -> Tensor:
    """Where the k largest entries of each feature [n, d] go, [n, d] bool."""
    top = features.abs().topk(min(k, features.shape[1]), dim=1).indices
    masks = torch.zeros_like(features, dtype=torch.bool)
    return masks.scatter_(1, permutation.to(features.device)[top], value=True)


def relative_squares(cleans: Sequence[Clean]) -> Tensor:
    """Mean square of each entry of a key, as a share of that of the residual stream [d_in]."""
    entering = torch.cat([clean.entering[clean.tokens] for clean in cleans])
    hidden = torch.cat([clean.hidden[clean.tokens] for clean in cleans])
    return entering.square().mean(0) / hidden.square().sum(1).mean()


def best_masks(
    handle: ModelHandle, given: Sequence[int] | None, k: int | None
) -> tuple[int, int, float, bool]:
    """The layer and size of masks that part paraphrases from neighbors best.

    Args:
        handle: the model.
        given: layers to choose from; by default some of its first three quarters.
        k: the size, if it is given.

    Returns:
        Layer, size, the overlap (a share of the size) from which masks are of one thing, and
        whether keys are dense enough there for their entries to be exchanged.
    """
    asked = phrasings(handle)
    candidates = []
    for layer in sorted(given or {int(depth * handle.n_layers) for depth in DEPTHS}):
        keys = embed(handle, texts_of(asked), layer)
        size = keys.shape[1]
        dense = float((keys.abs() > 1e-3 * keys.abs().amax(1, keepdim=True)).float().mean())
        for count in [k] if k else sorted({max(1, round(share * size)) for share in SHARES}):
            masks = top_masks(keys - keys.mean(0), count, torch.arange(size)).float()
            parted = border(asked, masks, lambda a, b: 1 - (a * b).sum(1) / a.sum(1))
            candidates.append((parted.inside, layer, count, 1 - parted.distance, dense > DENSE))
    _, layer, count, overlap, permute = max(candidates, key=lambda candidate: candidate[0])
    return layer, count, overlap, permute
