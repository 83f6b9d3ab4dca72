"""Directions of a matrix in which a loss hardly bends: K-FAC's Gauss-Newton in its eigenbasis.

The curvature of the loss in a matrix W [d_out, d_in] is about A ⊗ G, A = E[k k^T] of what enters it
and G = E[g g^T] of the loss's gradients at what leaves it. In their eigenvectors it is diagonal:
the direction u_i v_j^T bends the loss by the product of the two eigenvalues (CrispEdit, Ikram et
al. 2026, arXiv 2602.15823; K-FAC, Martens and Grosse 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.errors import SubspaceError
from alphaedit.linalg.subspace import Spectrum

STEPS = 60
"""Of the bisection of the threshold."""
MARGIN = 1e-9
"""By which the threshold is less than the least curvature above it."""


@dataclass(frozen=True)
class Curvature:
    """A and G by their eigenvalues and eigenvectors.

    Attributes:
        inputs: of A, [d_in]; directions of massive activations are never free.
        outputs: of G, [d_out].
    """

    inputs: Spectrum
    outputs: Spectrum

    def held_above(self, threshold: float) -> float:
        """Share of the curvature that is in directions above `threshold`."""
        a, g = self._values()
        sums = torch.cat([a.new_zeros(1), a.cumsum(0)])
        # Of each g the a's with a g > threshold are the last ones.
        first = torch.searchsorted(a, threshold / g.clamp_min(1e-300), right=True)
        above = (g * (sums[-1] - sums[first])).sum()
        return float(above / (a.sum() * g.sum()))

    def threshold(self, energy: float) -> float:
        """The largest curvature of a free direction: those above it hold `energy` of all.

        Raises:
            SubspaceError: there is no curvature.
        """
        a, g = self._values()
        low, high = 0.0, float(a.max() * g.max())
        if high == 0:
            raise SubspaceError(
                "The loss does not bend at all in this matrix.",
                remedy="Give other text, or other layers.",
            )
        for _ in range(STEPS):
            middle = (low + high) / 2
            if self.held_above(middle) >= energy:
                low = middle
            else:
                high = middle
        return low * (1 - MARGIN)

    def projection(self, energy: float) -> Callable[[Tensor], Tensor]:
        """From a change [d_out, d_in] to it without the directions that hold `energy` of all."""
        a, g = self._values()
        free = g[:, None] * a <= self.threshold(energy)
        free = torch.nn.functional.pad(free, (0, self.inputs.exact))

        def project(delta: Tensor) -> Tensor:
            left, right = self.outputs.vectors.to(delta), self.inputs.vectors.to(delta)
            turned = left.T @ delta @ right
            return left @ torch.where(free.to(delta.device), turned, 0.0) @ right.T

        return project

    def _values(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ascending, but for those of massive activations, which are always kept."""
        a = self.inputs.rest.double().clamp_min(0)
        return a, self.outputs.values.double().clamp_min(0)
