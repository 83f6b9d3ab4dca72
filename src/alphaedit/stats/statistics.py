"""What is known of a model's preserved keys: computed once, kept in memory and on disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from alphaedit.core.errors import AlphaEditWarning, ConfigError, FingerprintError
from alphaedit.core.progress import Progress, silent
from alphaedit.core.ranks import ALONE, Ranks
from alphaedit.core.site import Expert, Site, layer_of
from alphaedit.linalg.massive import MASSIVE, Massive
from alphaedit.linalg.subspace import (
    Spectrum,
    Subspace,
    SubspaceReport,
    null_space,
    report,
    spectrum,
    spectrum_with,
)
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.cache import MomentCache
from alphaedit.stats.corpus import Corpus, open_corpus, usual
from alphaedit.stats.output_moment import output_moments
from alphaedit.stats.second_moment import collect

TOKENS_PER_DIRECTION = 40
TOKENS_OF_GENERAL = 20
"""The same for the package's text, which is denser: half of it covers as much as other text."""
MOST_TOKENS = 1_000_000
SHOWN = 8
"""Most experts that a warning names."""
ROUGH_TOKENS = 4096
"""Enough to see what trial edits do to the rest."""


class ModelStatistics:
    """Second moments, spectra and null spaces of one model as it was at construction.

    Args:
        handle: the unedited model; its fingerprints are taken when first needed, so ask for
            statistics (`prepare`) before the first edit.
        corpus: see `open_corpus`; by default what suits the model, see `usual`.
        tokens: token budget; by default 40 a direction of the keys (20 of the package's own text),
            as many more for a mixture of experts as each of its experts sees less, at most a
            million.
        ranks: processes that share the work; the first one writes the cache.
    """

    names = False
    """Whether second moments are over the last tokens of names alone."""
    outputs = False
    """Whether moments of outputs are prepared, too."""

    def __init__(
        self,
        handle: ModelHandle,
        corpus: str | None = None,
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
        self._given, self._budget = corpus, tokens
        self.seed = seed
        self.cache = MomentCache(cache_dir)
        self.tolerance = tolerance
        self.progress = progress
        self.model = handle.fingerprint()
        self.on_disk = True
        self._moments: dict[Site, Tensor] = {}
        self._counted: dict[Site, int] = {}
        self._warned = False
        self._massive: dict[Site, Massive] = {}
        self._spectra: dict[Site, Spectrum] = {}
        self._with_names: dict[float, ModelStatistics] = {}
        self._output_moments: dict[int, Tensor] = {}
        self._output_spectra: dict[int, Spectrum] = {}

    @cached_property
    def spec(self) -> str:
        """Name of the corpus; what suits the model is kept on disk."""
        if self._given:
            return self._given
        key = {"kind": "corpus", "model": self.model}
        # All ranks ask the model, or none does.
        alone = self.handle.sharded
        choice = None if alone else self.ranks.from_first(self.cache.load_json(key))
        if choice is None:
            choice = {"corpus": usual(self.handle)}
            if self.ranks.first and not alone:
                self.cache.save_json(key, choice)
        return str(choice["corpus"])

    @cached_property
    def tokens(self) -> int:
        """The token budget."""
        each = TOKENS_OF_GENERAL if self.spec == "general" else TOKENS_PER_DIRECTION
        return self._budget or min(MOST_TOKENS, each * widest(self.handle))

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
        short.on_disk = False
        return short

    def with_names(self, share: float) -> ModelStatistics:
        """The same, with so large a share of the second moments over the ends of names alone.

        Where no names are in the text, it is these statistics themselves, and a warning says so.
        """
        if share not in self._with_names:
            from alphaedit.stats.mixed import MixedStatistics

            self._with_names[share] = MixedStatistics(self, share)
        return self._with_names[share]

    def with_outputs(self) -> Self:
        """The same, with what was measured; moments of outputs are prepared with those of keys."""
        twin = copy(self)
        twin.outputs = True
        return twin

    def forget(self) -> None:
        """Let go of all second moments in memory."""
        tables = (self._moments, self._counted, self._massive, self._spectra, self._with_names)
        for table in (*tables, self._output_moments, self._output_spectra):
            table.clear()

    def _key(self, layer: Site, kind: str) -> dict[str, str]:
        return {
            "kind": kind,
            "model": self.model,
            "layer": str(layer),
            "corpus": self.corpus.fingerprint,
            "tokens": str(self.tokens),
            "tolerance": str(self.tolerance),
            "massive": f"{MASSIVE:g}",
        }

    def sites(self, layers: Sequence[Site]) -> list[Site]:
        """`layers`, with all experts of those that are mixtures in their place."""
        return [
            site
            for layer in layers
            for site in (self.handle.sites(layer) if isinstance(layer, int) else (layer,))
        ]

    def ready(self, layers: Sequence[Site]) -> bool:
        """Whether the second moments of `layers` are in memory."""
        known = all(site in self._moments for site in self.sites(layers))
        return known and (not self.outputs or set(layers) <= self._output_moments.keys())

    def prepare(self, layers: Sequence[Site]) -> None:
        """Make sure of the second moments of `layers`, computing what is missing in one pass."""
        if self.ready(layers):
            return
        if self.outputs:
            self._prepare_outputs(layers)
        lacking = set[int]()
        for site in self.sites(layers):
            if site in self._moments or layer_of(site) in lacking:
                continue
            saved = self.cache.load(self._key(site, "moment")) if self.on_disk else None
            if saved is None:
                lacking.add(layer_of(site))
            else:
                self._moments[site] = saved["matrix"]
                self._massive[site] = _massive(saved)
                self._counted[site] = int(saved.get("tokens", self.tokens))
        missing = sorted(set().union(*self.ranks.objects(lacking)))
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
            names=self.names,
            resume=partial if self.on_disk and self.cache.writable() else None,
            progress=self.progress,
            ranks=self.ranks,
        )
        for site, moment in moments.items():
            counted = torch.tensor(moment.tokens)
            if self.ranks.first and self.on_disk:
                self.cache.save(
                    self._key(site, "moment"),
                    {"matrix": moment.matrix, "tokens": counted, **_tensors(moment.massive)},
                )
            self._moments[site] = moment.matrix
            self._massive[site] = moment.massive
            self._counted[site] = moment.tokens
        self._warn_of_few(layers)

    def _warn_of_few(self, layers: Sequence[Site]) -> None:
        """Say once that a second moment cannot tell which directions matter."""
        sites = self.sites(layers)
        few = [site for site in sites if self._counted[site] < self.handle.d_in(site)]
        if not few or self._warned:
            return
        self._warned = True
        count, wide = self._counted[few[0]], self.handle.d_in(few[0])
        if isinstance(few[0], Expert):
            shown = ", ".join(f"{site} ({self._counted[site]})" for site in few[:SHOWN])
            more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
            what = (
                f"Fewer tokens were routed to {len(few)} of {len(sites)} experts than their keys "
                f"have entries ({wide}): {shown}{more}, by layer.expert. What lacks counts as mean "
                "energy in all directions: of what was not seen, little is free."
            )
            wide = widest(self.handle)
        else:
            what = (
                f"The second moment of layer {few[0]} averages over {count} tokens and so has rank "
                f"{count} at most, of {wide}: most of what the model knows counts as null space."
            )
        best = f"Give more text or a larger token budget, best {TOKENS_PER_DIRECTION * wide:,}."
        warnings.warn(AlphaEditWarning(f"{what} {best}"), stacklevel=3)

    def second_moment(self, site: Site) -> Tensor:
        """C = E[k k^T] at a layer or expert, [d_in, d_in] float32."""
        self.prepare([site])
        return self._moments[site]

    def massive(self, site: Site) -> Massive:
        """Massive activations among the keys of a layer or expert."""
        self.prepare([site])
        return self._massive[site]

    def counted(self, site: Site) -> int:
        """Tokens that the second moment averages over; of a layer of experts, the least."""
        self.prepare([site])
        return min(self._counted[member] for member in self.sites([site]))

    def busiest(self, layer: int) -> Site:
        """`layer`, or the one of its experts that most tokens were routed to."""
        sites = self.sites([layer])
        self.prepare(sites)
        return max(sites, key=lambda site: self._counted[site])

    def spectrum(self, site: Site) -> Spectrum:
        """Eigendecomposition of C at a layer or expert, float32."""
        if site not in self._spectra:
            self._spectra[site] = self._shared_spectrum(site)
        return self._spectra[site]

    def _shared_spectrum(self, layer: Site) -> Spectrum:
        """The first rank's, from its cache or computed there."""
        moment = self.second_moment(layer)
        if not self.ranks.first:
            made = Spectrum(moment.new_zeros(len(moment)), torch.zeros_like(moment))
        else:
            key = self._key(layer, "spectrum")
            saved = self.cache.load(key)
            if saved is None:
                self.progress("null space", 0, 1)
                made = spectrum_with(moment, self.massive(layer))
                self.cache.save(key, {"values": made.values, "vectors": made.vectors})
                self.progress("null space", 1, 1)
            else:
                made = Spectrum(saved["values"], saved["vectors"])
        get = self.ranks.tensor_from_first
        exact = self.massive(layer).directions.shape[1]
        return Spectrum(get(made.values), get(made.vectors), exact)

    def output_spectrum(self, layer: int) -> Spectrum:
        """Eigendecomposition of G = E[g g^T], g the loss's gradients where the edited matrix ends.

        Of [d_out, d_out] float32, over a few thousand tokens of the corpus; see `output_moments`.
        """
        self._prepare_outputs([layer])
        if layer not in self._output_spectra:
            self._output_spectra[layer] = spectrum(self._output_moments[layer])
        return self._output_spectra[layer]

    def _prepare_outputs(self, layers: Sequence[Site]) -> None:
        """Make sure of the moments of outputs, as `prepare` does of those of keys.

        Raises:
            ConfigError: a layer is a mixture of experts.
            FingerprintError: one is not known yet, and the model has been edited.
        """
        lacking = set[int]()
        for layer in {layer_of(site) for site in layers} - self._output_moments.keys():
            if self.handle.experts(layer) is not None:
                raise ConfigError(
                    f"Layer {layer} is a mixture of experts: the curvature at a whole layer's "
                    "output says nothing of one of them.",
                    remedy="Leave the plug-in curvature out.",
                )
            saved = self.cache.load(self._key(layer, "outputs")) if self.on_disk else None
            if saved is None:
                lacking.add(layer)
            else:
                self._output_moments[layer] = saved["matrix"]
        missing = sorted(set().union(*self.ranks.objects(lacking)))
        if missing and self.handle.fingerprint() != self.model:
            raise FingerprintError(
                f"The curvature of layers {missing} is needed, and the model has been edited.",
                remedy="Revert the edits, or give the plug-in to the first edit.",
            )
        if missing:
            made = output_moments(
                self.handle, self.corpus, missing, seed=self.seed, progress=self.progress
            )
            for layer, moment in made.items():
                self._output_moments[layer] = self.ranks.tensor_from_first(moment)
                if self.on_disk and self.ranks.first:
                    self.cache.save(self._key(layer, "outputs"), {"matrix": moment})

    def subspace(
        self, site: Site, *, threshold: float | None = None, energy: float | None = None
    ) -> Subspace:
        """The null space at a layer or expert; see `null_space`."""
        return null_space(self.spectrum(site), threshold=threshold, energy=energy)

    def report(
        self,
        sites: Sequence[Site],
        *,
        threshold: float | None = None,
        energy: float | None = None,
    ) -> list[SubspaceReport]:
        """Size and leak of the null space of each layer or expert."""
        return [
            report(
                self.spectrum(site),
                self.subspace(site, threshold=threshold, energy=energy),
                self.massive(site),
            )
            for site in sites
        ]


def widest(handle: ModelHandle) -> int:
    """Entries of the keys of a layer, the most there are; an expert's for each token it sees."""
    sizes = []
    for layer in range(handle.n_layers):
        experts, firing = handle.experts(layer), handle.structure.firing[layer]
        size = handle.d_in(layer)
        sizes.append(size if experts is None else size // firing)
    return max(sizes)


def _tensors(massive: Massive) -> dict[str, Tensor]:
    """What is massive, as kept in the cache."""
    about = torch.tensor([massive.share, massive.energy, min(massive.limit, 3e38)])
    return {"directions": massive.directions, "energies": massive.energies, "massive": about}


def _massive(tensors: Mapping[str, Tensor]) -> Massive:
    share, energy, limit = tensors["massive"].tolist()
    return Massive(tensors["directions"], tensors["energies"], share, energy, limit)
