"""How a next token is drawn: each request by a generator of its own, whatever runs beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.errors import NonFiniteError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of a request.

    Attributes:
        temperature: by which logits are divided; 0 takes the likeliest token.
        top_p: draw from the fewest tokens that have this probability together.
        top_k: draw from this many likeliest tokens; all if None.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0 or self.top_k == 1


class Sampler:
    """Draws the tokens of one request."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self._generator = torch.Generator().manual_seed(sampling.seed)

    def draw(self, logits: Tensor) -> int:
        """A token by its logits, [vocabulary] float32 on the CPU.

        Raises:
            NonFiniteError: they hold NaN or infinity.
        """
        if not bool(torch.isfinite(logits).all()):
            raise NonFiniteError(
                "The model's logits are not finite, so no text can be sampled from it.",
                remedy="Check the model's weights for NaN, or load it in float32.",
            )
        how = self.sampling
        count = min(how.top_k or len(logits), len(logits))
        values, index = logits.topk(count) if count < len(logits) else logits.sort(descending=True)
        # The largest comes first, and is taken off so that no temperature makes it infinite.
        p = ((values - values[0]) / how.temperature).softmax(-1)
        if how.top_p < 1:
            needed = p.cumsum(-1) - p < how.top_p
            needed[0] = True
            p = torch.where(needed, p, 0.0)
        return int(index[torch.multinomial(p, 1, generator=self._generator)])
