"""A Hugging Face causal language model as an editor sees it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from alphaedit.core.errors import (
    ArchitectureError,
    ConfigError,
    FingerprintError,
    ModelError,
    NonFiniteError,
)
from alphaedit.core.patch import LowRank
from alphaedit.model.after_head import LOOKED_FOR
from alphaedit.model.fingerprint import fingerprint
from alphaedit.model.load import at_least_float32, check_finite, load_model
from alphaedit.model.quantised import check_quantisation, dequantised, is_quantised, opened
from alphaedit.model.sharded import is_sharded, put, settle, whole
from alphaedit.model.structure import find_structure, is_linear, is_transposed, linear_shape, turned
from alphaedit.model.tokens import Tokens

Snapshot = dict[str, Tensor]
"""Exact copies of parameters by name; see `ModelHandle.snapshot`."""

_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_sequence_length")


class ModelHandle:
    """A model, its tokenizer, and the parts of it that editing needs.

    Matrices are given and taken as [d_out, d_in] whichever way round the model stores them.

    Attributes:
        model: the model, in evaluation mode, its parameters without gradients.
        tokenizer: its tokenizer.
        tokens: the tokenizer as the one finder of subjects and targets.
        layers: the decoder blocks.
        n_layers: how many there are.
        structure: the parts of the model, see `Structure`.
        sharded: its weights are split over processes.

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
        self.layers = self.structure.layers
        self.n_layers = len(self.layers)
        self._modules = dict(model.named_modules())
        # In half precision, many small changes would be lost to rounding one after the other.
        self._masters: dict[str, Tensor] = {}
        # Quantised modules that stand aside while their matrix is edited.
        self._closed: dict[str, nn.Module] = {}
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

    @cached_property
    def adds_directly(self) -> bool:
        """Whether the edited modules' outputs reach the residual stream as they are; see `gain`."""
        from alphaedit.model.gain import adds_directly

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

    def edited_name(self, layer: int) -> str:
        """Parameter name of the edited matrix of `layer`: the MLP's output projection."""
        self.block(layer)
        return self.structure.edited[layer] + ".weight"

    def edited_module(self, layer: int) -> nn.Module:
        """The module of the edited matrix; its input is the key."""
        self.block(layer)
        module: nn.Module = self._modules[self.structure.edited[layer]]
        return module

    def d_in(self, layer: int) -> int:
        """Size of the keys of `layer`."""
        return linear_shape(self.edited_module(layer))[1]

    def d_out(self, layer: int) -> int:
        """Size of the residual stream at `layer`."""
        return linear_shape(self.edited_module(layer))[0]

    def weight(self, layer: int) -> Tensor:
        """A copy of the edited matrix of `layer`, [d_out, d_in] in `wide`."""
        name = self.edited_name(layer)
        module, stored = self._parameter(name)
        full = self._full(name, stored)
        return turned(full, module).to(self.wide, copy=True)

    @torch.no_grad()
    def set_weight(self, layer: int, weight: Tensor) -> None:
        """Put `weight`, [d_out, d_in], in place of the edited matrix of `layer`.

        Raises:
            ConfigError: it has another shape.
            NonFiniteError: it holds NaN or infinity in the model's dtype.
        """
        name = self.edited_name(layer)
        module, stored = self._parameter(name)
        if tuple(weight.shape) != linear_shape(module):
            raise ConfigError(
                f"A matrix of shape {tuple(weight.shape)} was given for {name}.",
                remedy=f"Give one of shape {linear_shape(module)}, [d_out, d_in].",
            )
        full = turned(weight, module).detach().to(stored.device)
        self._write({name: _checked(name, stored, full.to(at_least_float32(stored), copy=True))})

    def forward(
        self,
        ids: Tensor,
        mask: Tensor,
        *,
        positions: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
    ) -> Tensor:
        """Logits [rows, length, vocabulary] of the whole model.

        Only `input_ids` and `attention_mask` come from the tokenizer, never `token_type_ids`.
        Positions are passed where the model accepts them.
        """
        kwargs: dict[str, Any] = {"use_cache": use_cache}
        if positions is not None and "position_ids" in self._accepted:
            kwargs["position_ids"] = positions.to(self.device)
        if cache is not None:
            kwargs["past_key_values"] = cache
        out = self.model(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), **kwargs
        )
        logits: Tensor = out.logits
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states that left the last block, [..., d_out] to [..., vocabulary].

        Gradients flow.

        Raises:
            ArchitectureError: the model does more to its logits than the head does.
        """
        after = self.structure.after_head
        if after is None:
            raise ArchitectureError(
                f"{type(self.model).__name__} changes its logits after the head in a way that was "
                "not understood.",
                remedy=f"Looked for logits equal to head(final norm(hidden states)), or to that "
                f"after {LOOKED_FOR}.",
            )
        return after(self.structure.head(self.structure.final_norm(hidden)))

    def _parameter(self, name: str) -> tuple[nn.Module, Tensor]:
        if self.sharded:
            settle(self.model)
        module = self._modules.get(name.rpartition(".")[0])
        weight = getattr(module, "weight", None)
        if module is not None and is_quantised(module) and name.endswith(".weight"):
            return module, dequantised(module)
        if module is None or not isinstance(weight, Tensor) or not name.endswith(".weight"):
            raise FingerprintError(
                f"The model has no matrix {name}.", remedy="The edit belongs to another model."
            )
        return module, whole(weight.detach())

    def _full(self, name: str, stored: Tensor) -> Tensor:
        """The named matrix as last written, before it was rounded to the model's dtype."""
        master = self._masters.get(name)
        # Weights that somebody else has written since count as they are.
        if master is not None and torch.equal(master.to(stored.dtype), stored):
            return master
        return stored

    def _write(self, full: Mapping[str, Tensor]) -> None:
        for name, tensor in full.items():
            module, stored = self._parameter(name)
            if is_quantised(module):
                if torch.equal(stored, tensor.to(stored.dtype)) and tensor.dtype == stored.dtype:
                    continue
                stored = self._open(name, module)
                stored.copy_(tensor)
            else:
                put(module.weight.detach(), tensor)  # type: ignore[operator]
            if tensor.dtype == stored.dtype:
                self._masters.pop(name, None)
            else:
                self._masters[name] = tensor
            if name in self._closed and torch.equal(stored, dequantised(self._closed[name])):
                self._masters.pop(name, None)
                self._put(name, self._closed.pop(name))

    def _open(self, name: str, module: nn.Module) -> Tensor:
        """Let a plain module stand in for the quantised one of `name`; its weight."""
        self._closed[name] = module
        plain = opened(module)
        self._put(name, plain)
        return plain.weight.detach()

    def _put(self, name: str, module: nn.Module) -> None:
        path = name.removesuffix(".weight")
        parent, _, child = path.rpartition(".")
        setattr(self.model.get_submodule(parent), child, module)
        self._modules[path] = module

    @property
    def unquantised(self) -> list[str]:
        """Names of modules that an edit has taken out of quantisation."""
        return [name.removesuffix(".weight") for name in self._closed]

    @torch.no_grad()
    def add_delta(self, weights: Mapping[str, LowRank]) -> None:
        """Add low-rank changes, in float32 at least, rounded once to the model's dtype.

        Raises:
            FingerprintError: a matrix is not in the model or has another shape; nothing is changed.
            NonFiniteError: a sum is not finite; nothing is changed.
        """
        new: dict[str, Tensor] = {}
        for name, delta in weights.items():
            module, stored = self._parameter(name)
            if not is_linear(module) or delta.shape != linear_shape(module):
                raise FingerprintError(
                    f"The change of {name} has shape {delta.shape}, the matrix "
                    f"{tuple(stored.shape)}.",
                    remedy="The edit belongs to another model.",
                )
            full = self._full(name, stored).to(at_least_float32(stored))
            delta = delta.to(device=stored.device, dtype=full.dtype)
            left, right = delta.left, delta.right
            if is_transposed(module):
                left, right = right.T, left.T
            new[name] = _checked(name, stored, torch.addmm(full, left, right))
        self._write(new)

    def snapshot(self, names: Iterable[str]) -> Snapshot:
        """Exact copies of the named parameters, in full precision where that is kept."""
        return {name: self._full(name, self._parameter(name)[1]).clone() for name in names}

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Put back what `snapshot` copied, bit for bit."""
        # Where the model's dtype is another, what is written is kept as well.
        dtype = {name: self._parameter(name)[1].dtype for name in snapshot}
        own = {n: t if t.dtype == dtype[n] else t.clone() for n, t in snapshot.items()}
        self._write(own)

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


def _checked(name: str, stored: Tensor, full: Tensor) -> Tensor:
    rounded = full.to(stored.dtype)
    # One pass over memory tells most often; the sum of finite numbers may be infinite.
    if not bool(rounded.sum().isfinite()) and not bool(rounded.isfinite().all()):
        raise NonFiniteError(
            f"The edited {name} would hold NaN or infinity.",
            remedy="Nothing was changed. Raise the ridge, or edit in float32.",
        )
    return full
