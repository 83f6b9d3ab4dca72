"""Whether a prompt asks for what an edit is about, by distances of texts as the model reads them.

A text's features are the mean key of its tokens at one layer (`steps.encoder`), standardised and of
length 1. Weights and a projection that were trained for it bring paraphrases together and part
neighbors: e is the weighted features beside the projected ones. The score of an edit is
exp(-|e(edit) - e(prompt)|^2), above 0.5 in scope (Mitchell et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from alphaedit.core.errors import EditFileError
from alphaedit.methods.steps.encoder import best_encoder, embed, mean_key
from alphaedit.model.handle import ModelHandle

UNTRAINED = "untrained"
NAMES = ("mean", "scale", "weights", "projection")
LARGEST = 60.0
"""Squared distances behind which a score counts as 0."""


@dataclass(frozen=True, eq=False)
class Scope:
    """An encoder for scopes.

    Attributes:
        layer: whose keys are read.
        mean: of the features of texts, [d] float32.
        scale: by which they are divided, [d].
        weights: of features that are standardised and of length 1, [d].
        projection: of those, [d, k].
    """

    layer: int
    mean: Tensor
    scale: Tensor
    weights: Tensor
    projection: Tensor

    @classmethod
    def untrained(cls, handle: ModelHandle, layers: Sequence[int] | None = None) -> Scope:
        """The model's keys as they are, 0.5 at the distance that leaves neighbors alone."""
        layer, border = best_encoder(handle, layers)
        mean = mean_key(handle, layer)
        # Between texts of length 1, |a - b|^2 is twice the cosine distance.
        gain = math.sqrt(math.log(2) / (2 * max(border.distance, 1e-6)))
        ones = torch.ones_like(mean)
        return cls(layer, mean, ones, gain * ones, torch.zeros(len(mean), 1))

    @classmethod
    def of(cls, layer: int, tensors: Mapping[str, Tensor], where: str) -> Scope:
        """From what `tensors` gave.

        Raises:
            EditFileError: a tensor is missing, of another shape, or not finite.
        """
        try:
            parts = [tensors[name].float() for name in NAMES]
        except KeyError as error:
            raise EditFileError(f"{where} lacks tensor {error}.", remedy=_ANEW) from None
        mean, scale, weights, projection = parts
        alike = mean.ndim == 1 and scale.shape == mean.shape == weights.shape
        fits = alike and projection.ndim == 2 and projection.shape[0] == len(mean)
        if not fits or not bool((scale > 0).all()):
            raise EditFileError(f"{where}: shapes of tensors do not fit.", remedy=_ANEW)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise EditFileError(f"{where} holds NaN or infinity.", remedy=_ANEW)
        return cls(layer, mean, scale, weights, projection)

    def tensors(self) -> dict[str, Tensor]:
        """All but the layer."""
        parts = (self.mean, self.scale, self.weights, self.projection)
        return dict(zip(NAMES, parts, strict=True))

    def vectors(self, handle: ModelHandle, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, [n, d + k] float32; hooks and memories are silent."""
        return self.project(standardised(embed(handle, texts, self.layer), self.mean, self.scale))

    def project(self, features: Tensor) -> Tensor:
        """Standardised features [n, d] to [n, d + k]."""
        return vectors_of(features, self.weights, self.projection)


_ANEW = "Train it again, or take it from a backup."


def vectors_of(features: Tensor, weights: Tensor, projection: Tensor) -> Tensor:
    """Features [n, d] by weights [d], beside those that a projection [d, k] makes, [n, d + k]."""
    return torch.cat([features * weights, features @ projection], 1)


def standardised(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Features [n, d] less their mean, by their scale, and of length 1."""
    return normalize((features - mean) / scale, dim=1)


def scores(prompts: Tensor, edits: Tensor) -> Tensor:
    """exp(-|a - b|^2) of vectors [p, k] and [n, k]: [p, n]."""
    return torch.exp(-distances(prompts, edits))


def distances(first: Tensor, second: Tensor) -> Tensor:
    """|a - b|^2 of rows, [p, n], at most `LARGEST`; of equal rows exactly 0."""
    apart = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.square().clamp_max(LARGEST)
