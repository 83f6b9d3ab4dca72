"""How edits move the hidden states of what was not edited (Fang et al. 2025, Figure 5, C.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from alphaedit.core.errors import ConfigError, DataError
from alphaedit.core.fact import Fact
from alphaedit.linalg import similarity
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import hidden_at

PROJECTIONS = ("pca", "tsne")


def hidden_states(handle: ModelHandle, facts: Sequence[Fact], layer: int) -> Tensor:
    """Hidden states leaving `layer` at each fact's last subject token, [n, d_out] float32."""
    encoded = [handle.tokens.encode_with_subject(f.text, f.subject_span) for f in facts]
    rows = [e.ids[: e.subject_last + 1] for e in encoded]
    last = [e.subject_last for e in encoded]
    return hidden_at(handle, rows, last, layer).float().cpu()


@dataclass(frozen=True)
class Shift:
    """Two paired sets of hidden states, compared.

    Attributes:
        points_before: [n, 2], points_after: [n, 2]: both sets in one projection.
        d1: overlap of the two marginal densities on the first axis, 0 to 1; d2: on the second.
        hausdorff: between the two sets of points.
        shift: mean distance between paired states; relative: as a share of their mean norm.
        cka: linear CKA; mmd: squared, unbiased. These four use no projection.
    """

    points_before: Tensor
    points_after: Tensor
    d1: float
    d2: float
    hausdorff: float
    shift: float
    relative: float
    cka: float
    mmd: float

    def numbers(self) -> dict[str, float]:
        """All numbers by name."""
        names = ("d1", "d2", "hausdorff", "shift", "relative", "cka", "mmd")
        return {name: float(getattr(self, name)) for name in names}


def compare(before: Tensor, after: Tensor, *, projection: str = "pca", seed: int = 0) -> Shift:
    """Compare paired hidden states [n, d].

    Args:
        projection: "pca" (deterministic) or "tsne", fitted on both sets together.

    Raises:
        ConfigError: an unknown projection.
        DataError: fewer than five pairs, or states that are not finite.
    """
    if projection not in PROJECTIONS:
        raise ConfigError(f"Unknown projection {projection!r}.", remedy="Give pca or tsne.")
    if before.shape != after.shape or len(before) < 5:
        raise DataError(
            f"Hidden states of shapes {tuple(before.shape)} and {tuple(after.shape)} cannot be "
            "compared.",
            remedy="Give at least five facts, the same before and after.",
        )
    both = torch.cat([before, after]).double()
    if not bool(torch.isfinite(both).all()):
        raise DataError("Hidden states are not finite.", remedy="The model has collapsed.")
    if projection == "pca":
        flat = PCA(2, svd_solver="full").fit_transform(both.numpy())
    else:
        perplexity = min(30.0, (len(both) - 1) / 3)
        flat = TSNE(2, random_state=seed, perplexity=perplexity, init="pca").fit_transform(
            both.numpy()
        )
    points = torch.from_numpy(flat).double()
    points_before, points_after = points[: len(before)], points[len(before) :]
    moved, relative = similarity.mean_shift(before.double(), after.double())
    return Shift(
        points_before=points_before,
        points_after=points_after,
        d1=similarity.overlap(points_before[:, 0], points_after[:, 0]),
        d2=similarity.overlap(points_before[:, 1], points_after[:, 1]),
        hausdorff=similarity.hausdorff(points_before, points_after),
        shift=moved,
        relative=relative,
        cka=similarity.linear_cka(before, after),
        mmd=similarity.mmd(before, after),
    )
