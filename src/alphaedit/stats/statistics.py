"""What is known of a model's preserved keys: computed once, kept in memory and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from alphaedit.core.errors import AlphaEditWarning, FingerprintError
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.linalg.massive import MASSIVE, Massive
from alphaedit.linalg.subspace import (
    Spectrum,
    Subspace,
    SubspaceReport,
    null_space,
    report,
    spectrum_with,
)
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.cache import MomentCache
from alphaedit.stats.corpus import Corpus, open_corpus
from alphaedit.stats.second_moment import collect

TOKENS_PER_DIRECTION = 40
TOKENS_OF_GENERAL = 20
"""The same for the package's text, which is denser: half of it covers as much as other text."""
MOST_TOKENS = 1_000_000
ROUGH_TOKENS = 4096
"""Enough to see what trial edits do to the rest."""


class ModelStatistics:
    """Second moments, spectra and null spaces of one model as it was at construction.

    Args:
        handle: the unedited model; its fingerprints are taken when first needed, so ask for
            statistics (`prepare`) before the first edit.
        corpus: see `open_corpus`.
        tokens: token budget; by default 40 a direction of the keys (20 of the package's own text),
            at most a million.
        ranks: processes that share the work; the first one writes the cache.
    """

    def __init__(
        self,
        handle: ModelHandle,
        corpus: str,
        *,
        tokens: int | None = None,
        cache_dir: str | Path | None = None,
        seed: int = 0,
        tolerance: float | None = None,
        progress: Progress = silent,
        ranks: Ranks = ALONE,
    ) -> None:
        self.handle = handle
        self.ranks = ranks
        self.spec = corpus
        self.seed = seed
        widest = max(handle.d_in(layer) for layer in range(handle.n_layers))
        each = TOKENS_OF_GENERAL if corpus == "general" else TOKENS_PER_DIRECTION
        self.tokens = tokens or min(MOST_TOKENS, each * widest)
        self.cache = MomentCache(cache_dir)
        self.tolerance = tolerance
        self.progress = progress
        self.model = handle.fingerprint()
        self.kept = True
        self._moments: dict[int, Tensor] = {}
        self._counted: dict[int, int] = {}
        self._warned = False
        self._massive: dict[int, Massive] = {}
        self._spectra: dict[int, Spectrum] = {}

    @cached_property
    def corpus(self) -> Corpus:
        """The corpus, opened when first needed."""
        return open_corpus(self.spec, self.handle, seed=self.seed, model=self.model)

    def rough(self) -> ModelStatistics:
        """The same over few tokens and in memory only, for trials."""
        short = ModelStatistics(
            self.handle,
            self.spec,
            tokens=min(self.tokens, ROUGH_TOKENS),
            cache_dir=self.cache.folder,
            seed=self.seed,
            progress=self.progress,
            ranks=self.ranks,
        )
        short.corpus = self.corpus
        short.kept = False
        return short

    def forget(self) -> None:
        """Let go of all second moments in memory."""
        for held in (self._moments, self._counted, self._massive, self._spectra):
            held.clear()

    def _key(self, layer: int, kind: str) -> dict[str, str]:
        return {
            "kind": kind,
            "model": self.model,
            "layer": str(layer),
            "corpus": self.corpus.fingerprint,
            "tokens": str(self.tokens),
            "tolerance": str(self.tolerance),
            "massive": f"{MASSIVE:g}",
        }

    def ready(self, layers: Sequence[int]) -> bool:
        """Whether the second moments of `layers` are in memory."""
        return all(layer in self._moments for layer in layers)

    def prepare(self, layers: Sequence[int]) -> None:
        """Make sure of the second moments of `layers`, computing what is missing in one pass."""
        if self.ready(layers):
            return
        missing = []
        for layer in layers:
            if layer in self._moments:
                continue
            found = self.cache.load(self._key(layer, "moment")) if self.kept else None
            if found is None:
                missing.append(layer)
            else:
                self._moments[layer] = found["matrix"]
                self._massive[layer] = _massive(found)
                self._counted[layer] = int(found.get("tokens", self.tokens))
        lacking = self.ranks.objects([layer for layer in layers if layer in missing])
        missing = sorted({layer for one in lacking for layer in one})
        if not missing:
            self._warn_of_few(layers)
            return
        self.ranks.agree({"corpora": self.corpus.fingerprint, "models": self.model})
        if self.handle.fingerprint() != self.model:
            raise FingerprintError(
                f"Second moments of layers {missing} are needed, and the model has been edited.",
                remedy="Revert the edits, or prepare these layers before the first edit.",
            )
        partial = self.cache.path({**self._key(max(missing), "partial"), "layers": str(missing)})
        moments = collect(
            self.handle,
            self.corpus,
            missing,
            tokens=self.tokens,
            tolerance=self.tolerance,
            resume=partial if self.kept and self.cache.writable() else None,
            progress=self.progress,
            ranks=self.ranks,
        )
        for layer, moment in moments.items():
            counted = torch.tensor(moment.tokens)
            if self.ranks.first and self.kept:
                self.cache.save(
                    self._key(layer, "moment"),
                    {"matrix": moment.matrix, "tokens": counted, **_tensors(moment.massive)},
                )
            self._moments[layer] = moment.matrix
            self._massive[layer] = moment.massive
            self._counted[layer] = moment.tokens
        self._warn_of_few(layers)

    def _warn_of_few(self, layers: Sequence[int]) -> None:
        """Say once that a second moment cannot tell which directions matter."""
        few = [layer for layer in layers if self._counted[layer] < self.handle.d_in(layer)]
        if not few or self._warned:
            return
        self._warned = True
        count, wide = self._counted[few[0]], self.handle.d_in(few[0])
        warnings.warn(
            AlphaEditWarning(
                f"The second moment of layer {few[0]} averages over {count} tokens and so has rank "
                f"{count} at most, of {wide}: most of what the model knows counts as null space. "
                f"Give more text or a larger token budget, best {TOKENS_PER_DIRECTION * wide:,}."
            ),
            stacklevel=3,
        )

    def second_moment(self, layer: int) -> Tensor:
        """C = E[k k^T] at `layer`, [d_in, d_in] float32."""
        self.prepare([layer])
        return self._moments[layer]

    def massive(self, layer: int) -> Massive:
        """Massive activations among the keys of `layer`."""
        self.prepare([layer])
        return self._massive[layer]

    def counted(self, layer: int) -> int:
        """Tokens that the second moment at `layer` averages over."""
        self.prepare([layer])
        return self._counted[layer]

    def spectrum(self, layer: int) -> Spectrum:
        """Eigendecomposition of C at `layer`, float32."""
        if layer not in self._spectra:
            self._spectra[layer] = self._shared_spectrum(layer)
        return self._spectra[layer]

    def _shared_spectrum(self, layer: int) -> Spectrum:
        """The first rank's, from its cache or computed there."""
        moment = self.second_moment(layer)
        if not self.ranks.first:
            made = Spectrum(moment.new_zeros(len(moment)), torch.zeros_like(moment))
        else:
            key = self._key(layer, "spectrum")
            found = self.cache.load(key)
            if found is None:
                self.progress("null space", 0, 1)
                made = spectrum_with(moment, self.massive(layer))
                self.cache.save(key, {"values": made.values, "vectors": made.vectors})
                self.progress("null space", 1, 1)
            else:
                made = Spectrum(found["values"], found["vectors"])
        get = self.ranks.tensor_from_first
        exact = self.massive(layer).directions.shape[1]
        return Spectrum(get(made.values), get(made.vectors), exact)

    def subspace(
        self, layer: int, *, threshold: float | None = None, energy: float | None = None
    ) -> Subspace:
        """The null space at `layer`; see `null_space`."""
        return null_space(self.spectrum(layer), threshold=threshold, energy=energy)

    def report(
        self,
        layers: Sequence[int],
        *,
        threshold: float | None = None,
        energy: float | None = None,
    ) -> list[SubspaceReport]:
        """Size and leak of the null space of each layer."""
        return [
            report(
                self.spectrum(layer),
                self.subspace(layer, threshold=threshold, energy=energy),
                self.massive(layer),
            )
            for layer in layers
        ]


def _tensors(massive: Massive) -> dict[str, Tensor]:
    """What is massive, as kept in the cache."""
    about = torch.tensor([massive.share, massive.energy, min(massive.limit, 3e38)])
    return {"directions": massive.directions, "energies": massive.energies, "massive": about}


def _massive(kept: Mapping[str, Tensor]) -> Massive:
    share, energy, limit = kept["massive"].tolist()
    return Massive(kept["directions"], kept["energies"], share, energy, limit)
