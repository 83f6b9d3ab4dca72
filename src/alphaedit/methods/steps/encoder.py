"""Sentence encoders for free: mean keys of the model at an early layer, or pieces of words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import StopForward, on_input, stoppable
from alphaedit.model.route import plain
from alphaedit.stats.phrasings import Border, border, phrasings, texts_of

ROWS = 64
PIECES = 1024
DEPTHS = (0.125, 0.25, 0.5, 0.75)


def best_encoder(handle: ModelHandle, given: Sequence[int] | None = None) -> tuple[int, Border]:
    """The layer whose keys part paraphrases from neighbors best, and its border.

    Args:
        handle: the model.
        given: layers to choose from; by default some of its first three quarters.
    """
    asked, candidates = phrasings(handle), []
    for layer in sorted(given or {int(depth * handle.n_layers) for depth in DEPTHS}):
        vectors = embed(handle, texts_of(asked), layer)
        candidates.append((layer, border(asked, vectors - vectors.mean(0), cosine_distance)))
    return max(candidates, key=lambda candidate: candidate[1].inside)


def mean_key(handle: ModelHandle, layer: int) -> Tensor:
    """Mean of `embed` over texts that have nothing to do with what is edited, [d_in]."""
    return embed(handle, texts_of(phrasings(handle)), layer).mean(0)


@torch.no_grad()
def embed(handle: ModelHandle, texts: Sequence[str], layer: int) -> Tensor:
    """Mean input of the edited module of `layer` over each text's tokens, [n, d_in] float32."""
    rows = [handle.tokens.encode(text) for text in texts]
    means = []
    for at in range(0, len(rows), ROWS):
        ids, mask = handle.tokens.pad(rows[at : at + ROWS], "right")
        seen: list[Tensor] = []

        def keep(tensor: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(tensor)
            raise StopForward

        with plain(), stoppable(), on_input(handle.edited_module(layer), keep):
            handle.forward(ids, mask)
        # Some families run their MLP on [rows * length, d].
        states = seen[0].reshape(*ids.shape, -1).float()
        weight = mask.to(states)[..., None]
        means.append(((states * weight).sum(1) / weight.sum(1)).cpu())
    return torch.cat(means)


def pieces(texts: Sequence[str]) -> Tensor:
    """How often pieces of words of two to four letters occur in each text, [n, PIECES] float32.

    Hashed, with length 1: an encoder that needs no model, and knows no meaning.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    counted = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), n_features=PIECES, dtype=np.float32
    )
    return torch.from_numpy(counted.transform(list(texts)).toarray())


def cosine_distance(first: Tensor, second: Tensor) -> Tensor:
    """1 - cosine of rows [n, d] and [n, d] (or one of [1, d]): [n]."""
    return 1 - torch.cosine_similarity(first, second, dim=-1)
