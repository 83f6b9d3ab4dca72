"""A Hugging Face causal language model as an editor sees it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alphaedit.core.errors import ArchitectureError, ConfigError, ModelError
from alphaedit.core.patch import LowRank
from alphaedit.core.site import Expert, Site, layer_of
from alphaedit.model.experts import OUT, Experts, numbered
from alphaedit.model.fingerprint import fingerprint
from alphaedit.model.load import at_least_float32, check_finite, load_model
from alphaedit.model.logit_transform import LOOKED_FOR
from alphaedit.model.quantised import check_quantisation
from alphaedit.model.responder import Responder
from alphaedit.model.route import Render, inside, is_plain
from alphaedit.model.sharded import is_sharded, settle
from alphaedit.model.structure import find_structure, linear_shape
from alphaedit.model.tokens import Tokens
from alphaedit.model.weights import Snapshot, Weights, checked

__all__ = ["ModelHandle", "Snapshot"]

_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length")


class ModelHandle:
    """A model, its tokenizer, and the parts of it that editing needs.

    Matrices are given and taken as [d_out, d_in] whichever way round the model stores them. A layer
    that is a mixture of experts counts as one matrix, those of its experts side by side, and one
    key, see `model.experts`; each expert is a site of its own besides.

    Attributes:
        model: the model, in evaluation mode, its parameters without gradients.
        tokenizer: its tokenizer.
        tokens: the tokenizer as the one finder of subjects and targets.
        layers: the decoder blocks.
        n_layers: how many there are.
        structure: the parts of the model, see `Structure`.
        sharded: its weights are split over processes.
        memories: put what they know in front of prompts, one after the other.
        routers: each answers in the place of the one before it, the first in the model's.
        hooked: hooks in force act on requests.
        decided_at_ends: some of them decide at the end of a prompt.
        companions: models that answer requests for it, by where they were loaded from.
        rewritten: one of them changes what lies in front of a prompt's last token.
        composed: what hooks made of their rows, to go on from with the next edit.
        changed_by: whose hooks and memories are in force.

    Raises:
        ModelError: the model is not causal.
        ArchitectureError: its parts were not found.
        NonFiniteError: a weight is NaN or infinite, or what the model computes.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(
                f"{type(model).__name__} is an encoder-decoder model.",
                remedy="Give a decoder-only language model.",
            )
        table: Any = model.get_input_embeddings().weight
        self.tokens = Tokens(tokenizer, table.shape[0])
        check_quantisation(model.config)
        self.sharded = is_sharded(model)
        if self.sharded:
            settle(model)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        check_finite(model)
        self.structure = find_structure(model)
        if self.sharded and any(self.structure.firing):
            raise ModelError(
                f"{type(model).__name__} is a mixture of experts split over processes, and experts "
                "are edited whole only.",
                remedy="Load it on one device, or spread over those of one process "
                "(--device auto).",
            )
        self.layers = self.structure.layers
        self.n_layers = len(self.layers)
        self._weights = Weights(model, sharded=self.sharded)
        self.memories: list[Render] = []
        self.routers: list[Responder] = []
        self.hooked = False
        self.decided_at_ends = False
        self.companions: dict[str, ModelHandle] = {}
        self.rewritten = False
        self.composed: dict[str, Any] = {}
        self.changed_by: object | None = None
        self._accepted = set(inspect.signature(model.forward).parameters)

    @classmethod
    def load(
        cls,
        source: Any,
        tokenizer: Any = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> ModelHandle:
        """Load a model from a directory, a hub name, "bundled", or take one that is loaded.

        Args:
            source: where it is, or a causal language model of transformers.
            tokenizer: needed with a loaded model.
            device: where to put it ("auto": over all there are); by default it stays, or the CPU.
            dtype: "float32", "bfloat16", ...; by default as stored, but float32 on a CPU. "4bit"
                and "8bit" quantise by bitsandbytes.
            trust_remote_code: run Python code that comes with the model.

        Raises:
            ConfigError: there is no such device or dtype; found before anything is loaded.
            ModelError: the model cannot be found, loaded or edited; the message has the remedy.
        """
        if isinstance(source, ModelHandle):
            return source
        model, tokenizer = load_model(
            source,
            tokenizer,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
        return cls(model, tokenizer)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embeddings."""
        return self.structure.embed.weight.device  # type: ignore[return-value]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the model's weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def wide(self) -> torch.dtype:
        """float32, or float64 in a float64 model."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def embed(self) -> nn.Module:
        """Token ids to vectors."""
        return self.structure.embed

    @property
    def final_norm(self) -> nn.Module:
        """What stands between the last block and the head."""
        return self.structure.final_norm

    @property
    def head(self) -> nn.Module:
        """Hidden states to logits."""
        return self.structure.head

    @property
    def is_bundled(self) -> bool:
        """Whether this is a bundled model, by its config."""
        return getattr(self.model.config, "alphaedit_world", None) is not None

    @cached_property
    def adds_directly(self) -> bool:
        """Whether outputs of the edited modules reach the residual stream as they are."""
        from alphaedit.model.residual_gain import adds_directly

        return adds_directly(self)

    @property
    def max_positions(self) -> int | None:
        """The longest text the model reads, in tokens, if it says so."""
        config = self.model.config.get_text_config()
        for name in _POSITION_FIELDS:
            value = getattr(config, name, None)
            if isinstance(value, int) and value > 0:
                return value
        return None

    def block(self, layer: int) -> nn.Module:
        """Decoder block number `layer`, from 0.

        Raises:
            ConfigError: there is no such layer.
        """
        if not 0 <= layer < self.n_layers:
            raise ConfigError(
                f"Layer {layer} is out of range.",
                remedy=f"The model has layers 0 to {self.n_layers - 1}.",
            )
        block: nn.Module = self.layers[layer]
        return block

    def experts(self, layer: int) -> Experts | None:
        """The routed experts that are edited at `layer`; None where all tokens go one way."""
        module = self.edited_module(layer)
        return Experts(module) if self.structure.firing[layer] else None

    def sites(self, layer: int) -> tuple[Site, ...]:
        """Where the edited matrices of `layer` lie: the layer itself, or each of its experts."""
        experts = self.experts(layer)
        if experts is None:
            return (layer,)
        return tuple(Expert(layer, number) for number in range(experts.count))

    def edited_name(self, site: Site) -> str:
        """Parameter name of the edited matrix of a layer or expert: the MLP's output projection.

        Of a layer of experts it is that of their common parameter, which is no matrix.
        """
        layer = layer_of(site)
        self.block(layer)
        path = self.structure.edited[layer]
        name = f"{path}.{OUT}" if self.structure.firing[layer] else f"{path}.weight"
        return numbered(name, site.expert) if isinstance(site, Expert) else name

    def edited_module(self, layer: int) -> nn.Module:
        """The module of the edited matrix, whose input is the key; or of the routed experts."""
        self.block(layer)
        module: nn.Module = self._weights.modules[self.structure.edited[layer]]
        return module

    def weight_device(self, layer: int) -> torch.device:
        """Where the edited matrices of `layer` lie."""
        experts, module = self.experts(layer), self.edited_module(layer)
        return experts.device if experts else module.weight.device  # type: ignore[return-value]

    def d_in(self, site: Site) -> int:
        """Size of the keys of a layer or expert; those of a layer of experts are long."""
        experts = self.experts(layer_of(site))
        if experts is None:
            return linear_shape(self.edited_module(layer_of(site)))[1]
        return experts.d_in * (1 if isinstance(site, Expert) else experts.count)

    def moment_size(self, layer: int) -> int:
        """Entries of the second moments of `layer`: one of its keys, or one of each expert's."""
        return sum(self.d_in(site) ** 2 for site in self.sites(layer))

    def d_out(self, layer: int) -> int:
        """Size of the residual stream at `layer`."""
        experts = self.experts(layer)
        return experts.d_out if experts else linear_shape(self.edited_module(layer))[0]

    def weight(self, site: Site) -> Tensor:
        """A copy of the edited matrix of a layer or expert, [d_out, d_in] in `wide`."""
        if isinstance(site, int) and self.experts(site) is not None:
            return torch.cat([self.weight(expert) for expert in self.sites(site)], dim=1)
        name = self.edited_name(site)
        matrix = self._weights.find(name)
        full = self._weights.full(name, matrix.stored)
        return matrix.turned(full).to(self.wide, copy=True)

    def times_weight(self, layer: int, keys: Tensor) -> Tensor:
        """What the edited matrix of `layer` gives for keys [d_in, n], [d_out, n] in `wide`."""
        experts = self.experts(layer)
        if experts is None:
            return self.weight(layer) @ keys
        given = keys.new_zeros(experts.d_out, keys.shape[1], dtype=self.wide)
        for number in experts.fired(keys):
            given += self.weight(Expert(layer, number)) @ keys[experts.rows(number)].to(given)
        return given

    @torch.no_grad()
    def set_weight(self, site: Site, weight: Tensor) -> None:
        """Put `weight`, [d_out, d_in], in place of the edited matrix of a layer or expert.

        Raises:
            ConfigError: it has another shape.
            FingerprintError: it is a layer of experts.
            NonFiniteError: it holds NaN or infinity in the model's dtype.
        """
        name = self.edited_name(site)
        matrix = self._weights.find(name)
        if tuple(weight.shape) != matrix.shape:
            raise ConfigError(
                f"A matrix of shape {tuple(weight.shape)} was given for {name}.",
                remedy=f"Give one of shape {matrix.shape}, [d_out, d_in].",
            )
        stored = matrix.stored
        full = matrix.turned(weight).detach().to(stored.device)
        full = full.to(at_least_float32(stored), copy=True)
        self._weights.write({name: checked(name, stored, full)})

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        positions: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
        last_only: bool = False,
    ) -> Tensor:
        """Logits [rows, length, vocabulary] of the whole model.

        With `last_only` those of the last token alone, [rows, 1, vocabulary], which on long rows
        spares a large vocabulary most of its work and memory.

        Only `input_ids` and `attention_mask` come from the tokenizer, never `token_type_ids`.
        Positions are passed where the model accepts them.
        """
        kwargs: dict[str, Any] = {"use_cache": use_cache}
        if positions is not None and "position_ids" in self._accepted:
            kwargs["position_ids"] = positions.to(self.device)
        if cache is not None:
            kwargs["past_key_values"] = cache
        if last_only and "logits_to_keep" in self._accepted:
            kwargs["logits_to_keep"] = 1
        with inside():
            out = self.model(
                input_ids=ids.to(self.device), attention_mask=mask.to(self.device), **kwargs
            )
        logits: Tensor = out.logits
        return logits[:, -1:] if last_only else logits

    def rendered(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as the memories in force put them."""
        texts = list(prompts)
        if texts and not is_plain():
            for render in self.memories:
                texts = render(texts)
        return texts

    @property
    def routed(self) -> Responder | None:
        """What answers requests in the model's place now, if a change in force sends some away."""
        return self.routers[-1] if self.routers and not is_plain() else None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states that left the last block, [..., d_out] to [..., vocabulary].

        Gradients flow.

        Raises:
            ArchitectureError: the model does more to its logits than the head does.
        """
        after = self.structure.logit_transform
        if after is None:
            raise ArchitectureError(
                f"{type(self.model).__name__} changes its logits after the head in a way that was "
                "not understood.",
                remedy=f"Looked for logits equal to head(final norm(hidden states)), or to that "
                f"after {LOOKED_FOR}.",
            )
        return after(self.structure.head(self.structure.final_norm(hidden)))

    @property
    def unquantised(self) -> list[str]:
        """Names of modules that an edit has taken out of quantisation."""
        return self._weights.unquantised

    def add_delta(self, weights: Mapping[str, LowRank]) -> None:
        """Add low-rank changes, in float32 at least, rounded once to the model's dtype.

        Raises:
            FingerprintError: a matrix is not in the model or has another shape; nothing is changed.
            NonFiniteError: a sum is not finite; nothing is changed.
        """
        self._weights.add(weights)

    def snapshot(self, names: Iterable[str]) -> Snapshot:
        """Exact copies of the named parameters, in full precision where that is kept."""
        return self._weights.snapshot(names)

    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` copied, bit for bit."""
        self._weights.restore(snapshot)

    @contextmanager
    def temporarily(self, weights: Mapping[str, LowRank]) -> Iterator[None]:
        """Apply changes for the length of a block, then restore the weights bit for bit."""
        saved = self.snapshot(weights)
        try:
            self.add_delta(weights)
            yield
        finally:
            self.restore(saved)

    def fingerprint(self, upto_layer: int | None = None) -> str:
        """SHA-256 of the config and the weights.

        Args:
            upto_layer: leave out the blocks after this one, the final norm and the head, on which
                nothing that this layer computes depends.
        """
        return fingerprint(self.model, self.structure, upto_layer)
