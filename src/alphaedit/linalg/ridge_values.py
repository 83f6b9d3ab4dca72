"""Value differences of many keys at once as one change of a matrix, and gradients back through it.

    Delta^T = (U^T U + e^l I)^-1 U^T D = U^T (U U^T + e^l I)^-1 D

for keys U [n, d_in] and value differences D [n, d_out] (MALMEN, Tan et al. 2024, equation 6). The
second form makes Delta a product of rank n whose right factor are the keys themselves, and needs
n x n numbers in place of d_in x d_in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, SubspaceError


class RidgeValues:
    """Keys [n, d_in] and a ridge e^l, factored once.

    Everything is solved in float64; what is given back has the keys' dtype.

    Raises:
        SubspaceError: keys and ridge make no positive definite system.
        ConfigError: the keys are no matrix, or the ridge is not finite.
    """

    def __init__(self, keys: Tensor, log_ridge: float) -> None:
        if keys.ndim != 2:
            raise ConfigError(
                f"Keys of shape {tuple(keys.shape)} are no matrix.", remedy="Give [n, d_in]."
            )
        self.keys = keys.detach()
        wide = self.keys.double()
        self.ridge = float(torch.tensor(log_ridge, dtype=torch.float64).exp())
        identity = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
        factor, info = torch.linalg.cholesky_ex(wide @ wide.T + self.ridge * identity)
        if int(info) != 0 or not bool(torch.isfinite(factor).all()):
            raise SubspaceError(
                f"Keys and a ridge of {self.ridge:.3g} make a singular system.",
                remedy="Raise the ridge, or leave out facts that are given twice.",
            )
        self._factor = factor

    def _solved(self, rows: Tensor) -> Tensor:
        return torch.cholesky_solve(rows.detach().double(), self._factor)

    def left(self, values: Tensor) -> Tensor:
        """The left factor [d_out, n] of Delta for value differences [n, d_out]."""
        return self._solved(values).T.to(self.keys)

    def backward(self, left: Tensor, left_gradient: Tensor) -> tuple[Tensor, float]:
        """From the gradient of the left factor to those of the value differences and of l.

        The gradient of the left factor is G U^T, of which passes that add the product to outputs
        never form G, the gradient of the matrix.

        Args:
            left: [d_out, n], as `left` gave it; `left_gradient` the loss's gradient there.

        Returns:
            [n, d_out], and that of l = log ridge.
        """
        values_gradient = self._solved(left_gradient.T)
        inner = (values_gradient * left.detach().T.double()).sum()
        return values_gradient.to(self.keys), -self.ridge * float(inner)
