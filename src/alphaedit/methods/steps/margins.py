"""Margins by which a side memory moves what it is for and leaves alone what it is not (WISE)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alphaedit.core.change import Change
from alphaedit.core.fact import Fact
from alphaedit.methods.steps.rest_pass import Clean
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import keys_at
from alphaedit.model.route import plain
from alphaedit.stats.phrasings import border, phrasings, texts_of

DEPTHS = (0.5, 0.625, 0.75, 0.875)
SHARE = 0.05
"""The unit of margins, as a share of the usual norm of the matrix's output: the second margin, as
published, is then that norm."""


def keys_at_ends(handle: ModelHandle, texts: Sequence[str], layer: int) -> Tensor:
    """What enters the output projection at the last token of each text, [n, d_in] float32."""
    rows = [handle.tokens.encode(text) for text in texts]
    with plain():
        return keys_at(handle, rows, [len(row) - 1 for row in rows], [layer])[layer].float()


def best_keys(handle: ModelHandle, given: Sequence[int] | None = None) -> tuple[int, float]:
    """The layer whose keys part paraphrases from neighbors best, and a unit for margins there.

    Args:
        handle: the model.
        given: layers to choose from; by default some of its second half.
    """
    last = handle.n_layers - 1
    layers = sorted(given or {min(last, int(depth * (last + 1))) for depth in DEPTHS})
    asked, shares = phrasings(handle), {}
    keys = {layer: keys_at_ends(handle, texts_of(asked), layer) for layer in layers}
    for layer in layers:
        limit = border(asked, keys[layer], lambda a, b: (a - b).norm(dim=1))
        shares[layer] = limit.inside
    layer = max(layers, key=lambda candidate: shares[candidate])
    norms = handle.times_weight(layer, keys[layer].T).norm(dim=0)
    return layer, SHARE * float(norms.median())


def other_prompts(handle: ModelHandle, facts: Sequence[Fact], count: int) -> list[str]:
    """Prompts about up to `count` other things, none of which names a subject of `facts`."""
    subjects = {fact.subject.lower() for fact in facts}
    texts = texts_of(phrasings(handle, count=count))
    return [text for text in texts if not any(subject in text.lower() for subject in subjects)]


class Margins:
    """The activation loss: how far a change of the matrix moves outputs at the ends of prompts.

    Args:
        cleans: rows of the facts.
        others: keys of prompts about other things, [n, d_in].
        earlier: memories of edits in force: what they are for is not for this one, and where they
            would answer this one's prompts, it must move them further.
        margins: most for others, least for the facts, least difference (alpha, beta, gamma).
        unit: what the margins are measured in.
    """

    def __init__(
        self,
        cleans: Sequence[Clean],
        others: Tensor,
        earlier: Sequence[Change],
        margins: tuple[float, float, float],
        unit: float,
    ) -> None:
        ends = torch.cat([clean.at_ends() for clean in cleans])
        fact = torch.cat([clean.fact for clean in cleans])
        bare = torch.cat([clean.bare for clean in cleans])
        self.inside = ends.to(others)
        self.bare = self.inside[bare][fact[bare].argsort()]
        earlier_keys = [change.rows["key"].to(others) for change in earlier]
        self.outside = torch.cat([others, *earlier_keys])
        self.margins, self.unit = margins, unit

    def loss(self, delta: Tensor) -> Tensor:
        """The sum of three hinges, each the mean of those that are above zero."""
        most, least, apart = self.margins
        outside = (self.outside @ delta.T).norm(dim=1) / self.unit
        inside = (self.inside @ delta.T).norm(dim=1) / self.unit
        between = apart - (inside[:, None] - outside[None])
        return _positive(outside - most) + _positive(least - inside) + _positive(between)


def _positive(values: Tensor) -> Tensor:
    """The mean of the values above zero; 0 if there are none."""
    above = values.clamp_min(0)
    return above.sum() / (values > 0).sum().clamp_min(1)
