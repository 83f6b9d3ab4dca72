"""LoRA: fine-tuning of factors of low rank beside MLP output matrices, by PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from alphaedit.core.errors import ConfigError
from alphaedit.core.patch import LowRank
from alphaedit.methods.base import Method, Needs, Problem, Solution
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.fine_tune import finished
from alphaedit.methods.plugin import chain
from alphaedit.methods.solving import Changes, check_layers, refuse_mixtures
from alphaedit.methods.steps.finetune import Schedule, descend
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

ADAPTER = "edit"
Factors = dict[int, tuple[Tensor, Tensor]]
"""By layer: A [r, d_in] and B [d_out, r], float32."""


class LoraHyperparameters(Hyperparameters):
    """Settings of factors of low rank."""

    rank: int = Field(8, ge=1, description="rank of each layer's change")
    alpha: int = Field(16, ge=1, description="the change is B A, alpha / rank times")
    batch: int = Field(8, ge=1, description="facts in a step")


@contextmanager
def adapted(
    handle: ModelHandle, layers: tuple[int, ...], hp: LoraHyperparameters, seed: int
) -> Iterator[Factors]:
    """PEFT's factors beside the edited matrices, in every pass; the model is itself again after it.

    Raises:
        ConfigError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(
            "LoRA needs the package peft.", remedy="pip install 'alphaedit[peft]'"
        ) from error
    names = {layer: handle.edited_name(layer).removesuffix(".weight") for layer in layers}
    modules = {layer: handle.edited_module(layer) for layer in layers}
    config = LoraConfig(
        r=hp.rank,
        lora_alpha=hp.alpha,
        target_modules=list(names.values()),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in modules.values()),
    )
    adapters = hasattr(handle.model, "peft_config")
    learned = {name: p.requires_grad for name, p in handle.model.named_parameters()}
    devices: list[int] = []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.random.manual_seed(seed)
            inject_adapter_in_model(config, handle.model, adapter_name=ADAPTER)
        beside = {layer: handle.model.get_submodule(name) for layer, name in names.items()}
        factors: Factors = {}
        for layer, module in beside.items():
            parts = (module.lora_A[ADAPTER], module.lora_B[ADAPTER])
            for part in parts:
                part.to(torch.float32)
            factors[layer] = (parts[0].weight, parts[1].weight)
        yield factors
    finally:
        for layer, name in names.items():
            parent, _, child = name.rpartition(".")
            setattr(handle.model.get_submodule(parent), child, modules[layer])
        for name, parameter in handle.model.named_parameters():
            parameter.requires_grad_(learned[name])
        if not adapters and hasattr(handle.model, "peft_config"):
            del handle.model.peft_config


@dataclass(frozen=True)
class Lora(Method):
    """Adam on factors of low rank, on the facts' prompts."""

    @property
    def needs(self) -> Needs:
        """All layers, in one process; second moments only as a plug-in wants them."""
        return Needs(
            layers="all",
            second_moments=False,
            target_search=False,
            linear_system=False,
            whole_model=True,
        )

    def solve(self, problem: Problem[Any]) -> Solution:
        """Compute the patch for `problem.facts`; the model is left as it was, bit for bit."""
        hp: LoraHyperparameters = problem.hyperparameters
        handle = problem.handle
        check_layers(problem)
        refuse_mixtures(problem, self.name)
        if not hp.layers:
            raise ConfigError("LoRA needs layers.", remedy="Give some, such as --set layers=0,1.")
        chosen = chain(hp, method=self)
        timer = Timer()
        schedule = Schedule(
            epochs=hp.steps,
            batch=hp.batch,
            learning_rate=hp.learning_rate,
            stop_loss=hp.stop_loss,
            shuffle=True,
            end_of_text=hp.end_of_text,
        )
        with (
            timer.phase("fine-tuning"),
            adapted(handle, hp.layers, hp, problem.seed) as factors,
        ):
            losses = descend(
                handle,
                problem.facts,
                [factor for pair in factors.values() for factor in pair],
                schedule,
                seed=problem.seed,
                progress=problem.progress,
            )
        changes: Changes = {
            layer: LowRank(hp.alpha / hp.rank * b.detach(), a.detach())
            for layer, (a, b) in factors.items()
        }
        return finished(problem, chosen, changes, losses, timer)


METHOD = Lora(
    name="lora",
    title="LoRA",
    paper="https://arxiv.org/abs/2106.09685",
    summary="Adam on factors of low rank beside MLP output matrices: fine-tuning as practised.",
    config=LoraHyperparameters,
    defaults={"steps": 30, "learning_rate": 1e-3},
)
