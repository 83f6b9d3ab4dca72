"""Second moments of running text and of the ends of its names, in one.

What edits must leave alone is stored where facts are: under the last tokens of names (Fang et al.
2025, section 3.1, take the keys of 100,000 triplets). Running text alone hardly describes those.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from alphaedit.core.errors import AlphaEditWarning, FingerprintError, StatsError
from alphaedit.core.site import Site
from alphaedit.stats.statistics import ModelStatistics


class _Like(ModelStatistics):
    """Statistics of the same model and text as others."""

    def __init__(self, text: ModelStatistics) -> None:
        super().__init__(
            text.handle,
            text.spec,
            tokens=text.tokens,
            cache_dir=text.cache.folder,
            seed=text.seed,
            tolerance=text.tolerance,
            progress=text.progress,
            ranks=text.ranks,
        )
        self.model, self.on_disk, self.corpus = text.model, text.on_disk, text.corpus


class _OfNames(_Like):
    """Statistics over the ends of names."""

    names = True

    def _key(self, layer: Site, kind: str) -> dict[str, str]:
        return {**super()._key(layer, kind), "positions": "names"}

    def _warn_of_few(self, layers: Sequence[Site]) -> None:
        """Fewer tokens than dimensions do no harm here: they are added to others."""


class MixedStatistics(_Like):
    """C = (1 - share) C_text + share C_names, of the same text and budget of tokens.

    Massive activations are those of the text; names at its first tokens are none.

    Args:
        text: statistics of running text.
        share: 0 to 1.
    """

    def __init__(self, text: ModelStatistics, share: float) -> None:
        super().__init__(text)
        self.text, self.share = text, share
        self._names = _OfNames(text)

    def _key(self, layer: Site, kind: str) -> dict[str, str]:
        return {**super()._key(layer, kind), "names": f"{self.share:g}"}

    def prepare(self, layers: Sequence[Site]) -> None:
        """See `ModelStatistics.prepare`."""
        if self.ready(layers):
            return
        if self.outputs:
            self._prepare_outputs(layers)
        self.text.prepare(layers)
        share = self.share
        try:
            self._names.prepare(layers)
        except FingerprintError:
            raise
        except StatsError:
            share = 0.0
            warnings.warn(
                AlphaEditWarning(
                    f"There are no names in the text {self.corpus.name!r}, as far as capital "
                    "letters tell: running text alone says what is preserved."
                ),
                stacklevel=3,
            )
        for site in self.sites(layers):
            own, massive = self.text.second_moment(site), self.text.massive(site)
            mixed = own if not share else own.lerp(self._names.second_moment(site), share)
            self._moments[site] = mixed
            self._massive[site] = replace(massive, energies=massive.energies * (1 - share))
            self._counted[site] = self.text.counted(site)
        self._names.forget()  # what is mixed takes as much memory again
