"""Train the bundled models: `alphaedit world train`.

A small transformer does not by itself store facts the way large ones do. Three augmentations of
training (inference is plain) make it gather an entity at the name's last token, look it up there in
early layers and read it out in later ones:

- *bottleneck*: tokens after a name see only the name's last token;
- *delay*: in the first `delay` layers they do not see the name at all;
- *noise*: Gaussian noise on the residual stream that leaves the early layers gives facts a margin.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from alphaedit.core.files import atomic_folder, whole_file
from alphaedit.world.batches import GIVEN, NAME, OBJECT, Batch, Batches
from alphaedit.world.facts import World
from alphaedit.world.muon import Muon, fast_dtype
from alphaedit.world.recipe import RECIPES, Recipe
from alphaedit.world.tokenizer import train_tokenizer

__all__ = ["RECIPES", "Batches", "Recipe", "train"]


def build_model(recipe: Recipe, vocabulary: int, bos: int) -> Any:
    """A fresh model of the recipe's family, seeded."""
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices):
        torch.random.manual_seed(recipe.seed)
        if recipe.family == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=vocabulary,
                    n_positions=recipe.positions,
                    n_embd=recipe.width,
                    n_layer=recipe.layers,
                    n_head=recipe.heads,
                    n_inner=recipe.inner,
                    activation_function=recipe.activation,
                    embd_pdrop=0.0,
                    attn_pdrop=0.0,
                    resid_pdrop=0.0,
                    bos_token_id=bos,
                    eos_token_id=bos,
                )
            )
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=recipe.width,
                intermediate_size=recipe.inner,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                max_position_embeddings=recipe.positions,
                tie_word_embeddings=True,
                bos_token_id=bos,
                eos_token_id=bos,
            )
        )


def masks(last: Tensor, bottleneck: Tensor, delayed: Tensor) -> tuple[Tensor, Tensor]:
    """Attention masks [rows, 1, length, length] (True: may see) for early and late layers.

    Args:
        last: index of the last token of the name a token belongs to, -1 outside names.
        bottleneck: rows [rows] in which only a name's last token is seen from after it.
        delayed: rows [rows] in which early layers do not see the name at all from after it.
    """
    length = last.shape[1]
    query = torch.arange(length)[None, :, None]
    key = torch.arange(length)[None, None, :]
    end = last[:, None, :]
    causal = key <= query
    inside = (end < 0) | (query <= end)
    late = causal & (inside | (key == end) | ~bottleneck[:, None, None])
    early = late & (inside | ~delayed[:, None, None])
    return early[:, None], late[:, None]


@contextmanager
def augmented(blocks: nn.ModuleList, recipe: Recipe, state: dict[str, Any]) -> Iterator[None]:
    """Hooks that give the first `delay` blocks the early mask and add noise to what leaves them."""

    def early_mask(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if len(args) > 2:
            args = (*args[:2], state["early"], *args[3:])
        kwargs = (
            {**kwargs, "attention_mask": state["early"]} if "attention_mask" in kwargs else kwargs
        )
        return args, kwargs

    def noisy(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        scale = state["noise"] * hidden.detach().float().pow(2).mean(-1, keepdim=True).sqrt()
        shaken = hidden + scale * torch.randn(hidden.shape, generator=state["generator"])
        return (shaken, *output[1:]) if isinstance(output, tuple) else shaken

    handles = [
        block.register_forward_pre_hook(early_mask, with_kwargs=True)
        for block in blocks[: recipe.delay]
    ]
    handles.append(blocks[recipe.delay - 1].register_forward_hook(noisy))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    blocks = [
        p for n, p in model.named_parameters() if p.ndim == 2 and ("h." in n or "layers." in n)
    ]
    chosen = {id(p) for p in blocks}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(blocks, lr=recipe.learning_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.learning_rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def set_rate(opts: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Give all optimizers this learning rate."""
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = rate


def step_all(opts: Sequence[torch.optim.Optimizer]) -> None:
    """One step of every optimizer; gradients are gone behind it."""
    for opt in opts:
        opt.step()
        opt.zero_grad(set_to_none=True)


def schedule(done: float, warmup: float, decay: float) -> float:
    """Learning-rate factor: linear warm-up, level, then over the last `decay` linear to 1/50."""
    if done < warmup:
        return done / warmup
    return 0.02 + 0.98 * min(1.0, (1.0 - done) / decay)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, -1e9)


def _step_loss(model: Any, recipe: Recipe, batch: Batch, state: dict[str, Any]) -> Tensor:
    """Mean cross entropy; of the tokens inside names only a share `name_share` counts."""
    ids, last, kind = batch
    generator = state["generator"]
    draw = torch.rand(ids.shape[0], generator=generator)
    early, late = masks(last, draw < recipe.bottleneck, draw < recipe.delayed)
    dtype = fast_dtype()
    state["early"] = _additive(early, dtype)
    targets = ids[:, 1:]
    luck = torch.rand(targets.shape, generator=generator) < recipe.name_share
    kind = kind[:, 1:]
    counted = (kind != GIVEN) & ((kind != NAME) | luck)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = model.base_model(
            input_ids=ids, attention_mask=_additive(late, dtype), use_cache=False
        ).last_hidden_state
        logits = model.get_output_embeddings()(hidden[:, :-1][counted])
    known = kind[counted] == OBJECT
    with torch.no_grad():
        state["recall"] = (
            (logits[known].argmax(-1) == targets[counted][known]).float().mean().item()
        )
    return F.cross_entropy(logits.float(), targets[counted])


@torch.no_grad()
def hidden_norm(model: Any, recipe: Recipe, batches: Batches) -> float:
    """Mean norm of hidden states that leave the last delayed block."""
    batch = next(iter(batches))
    hidden = model.base_model(input_ids=batch.ids, output_hidden_states=True).hidden_states
    norm: Tensor = hidden[recipe.delay][batch.kind != GIVEN].norm(dim=-1).mean()
    return float(norm)


@torch.no_grad()
def rescale(model: Any, factor: float) -> None:
    """Multiply the residual stream by `factor` and divide it out in the final norm.

    What the model computes stays the same; hidden states get the size that they have in published
    models, so that published learning rates of the target search fit.
    """
    embed = model.get_input_embeddings().weight
    embed.mul_(factor)
    for name, parameter in model.named_parameters():
        if parameter is embed:
            continue
        if "wpe" in name or any(part in name for part in (".c_proj.", ".o_proj.", ".down_proj.")):
            parameter.mul_(factor)
        elif ".ln_f." in name or name == "model.norm.weight":
            parameter.div_(factor)


@torch.no_grad()
def begin_with(model: Any, folder: Path) -> None:
    """Give `model` the weights of a trained model, with the residual stream at its training size.

    That size is where the final norm's weights are 1 on average, as in a fresh model.
    """
    trained = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    model.load_state_dict(trained.state_dict())
    base = model.base_model
    norm = base.ln_f if hasattr(base, "ln_f") else base.norm
    rescale(model, float(norm.weight.mean()))


def _tokenizer(world: World, recipe: Recipe, folder: Path, start: Path | None) -> Any:
    """The tokenizer that a resumed or earlier run began with, or a new one, written first."""
    if (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    tokenizer: Any
    if start is None:
        tokenizer = train_tokenizer(world, recipe.vocabulary)
    else:
        tokenizer = AutoTokenizer.from_pretrained(start, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(
    recipe: Recipe,
    folder: Path,
    *,
    start: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda row: None,
    checkpoint_every: float = 120.0,
) -> None:
    """Train by `recipe` into `folder` (a Hugging Face model directory), resuming what is there.

    With `start`, a model that this module trained before, training goes on from its weights.
    Checkpoints every `checkpoint_every` seconds, atomically; a resumed run continues with the same
    weights, optimizer and schedule (the text goes on with a fresh seed).
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = World.load().largest(recipe.subjects)
    tokenizer = _tokenizer(world, recipe, folder, start)
    model = build_model(recipe, len(tokenizer), tokenizer.bos_token_id)
    # On a CPU, plain attention is faster than the fused kernel at these lengths.
    model.set_attn_implementation("eager")
    opts = optimizers(model, recipe)
    steps = recipe.tokens // recipe.batch_tokens
    step, path = 0, folder / "checkpoint.safetensors"
    if start is not None:
        begin_with(model, start)
    if path.exists():
        step = _resume(path, model, opts)
    batches = Batches(world, tokenizer, recipe)
    batches.corpus.rng.seed(recipe.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    state: dict[str, Any] = {"generator": generator, "noise": 0.0}
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    began = saved_at = time.monotonic()
    recent, recall = 0.0, 0.0
    model.train()
    with augmented(blocks, recipe, state):
        for batch in batches:
            if step >= steps:
                break
            done = step / steps
            grown = 1.0 if start else min(1.0, max(0.0, (done - 0.2) / 0.3))
            state["noise"] = recipe.noise * grown
            set_rate(opts, recipe.learning_rate * schedule(done, recipe.warmup, recipe.decay))
            loss = _step_loss(model, recipe, batch, state)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            step_all(opts)
            step += 1
            recent = loss.item() if recent == 0.0 else 0.95 * recent + 0.05 * loss.item()
            recall = 0.95 * recall + 0.05 * state["recall"]
            if step % 20 == 0:
                spent = round(time.monotonic() - began, 1)
                row = {"step": step, "steps": steps, "loss": round(recent, 4)}
                report({**row, "recall": round(recall, 3), "seconds": spent})
            if time.monotonic() - saved_at > checkpoint_every:
                saved_at = time.monotonic()
                with whole_file(path) as part:
                    _keep(part, model, opts, step)
    _finish(model, tokenizer, recipe, batches, world, folder, recent)


def _finish(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    batches: Batches,
    world: World,
    folder: Path,
    loss: float,
) -> None:
    """Write a trained model in the place of what its training kept."""
    model.eval()
    rescale(model, recipe.hidden_norm / hidden_norm(model, recipe, batches))
    model.to(torch.float16 if recipe.family == "gpt2" else torch.bfloat16)
    model.config.alphaedit_world = world.fingerprint()[:16]
    model.config.alphaedit_subjects = len(world.subjects)
    about = {"recipe": asdict(recipe), "world": world.fingerprint(), "loss": loss}
    with atomic_folder(folder, last="model.safetensors") as new:
        model.save_pretrained(new, safe_serialization=True)
        tokenizer.save_pretrained(new)
        (new / "world.json").write_text(json.dumps(about, indent=1) + "\n")


def _keep(path: Path, model: nn.Module, opts: Sequence[torch.optim.Optimizer], step: int) -> None:
    """Write weights, optimizers and step."""
    # Clones, as safetensors refuses tied weights.
    tensors = {f"model/{name}": value.clone() for name, value in model.state_dict().items()}
    groups, scalars = [], {}
    for number, opt in enumerate(opts):
        saved = opt.state_dict()
        groups.append(saved["param_groups"])
        for index, state in saved["state"].items():
            for name, value in state.items():
                key = f"optimizer/{number}/{index}/{name}"
                if isinstance(value, torch.Tensor):
                    tensors[key] = value.clone(memory_format=torch.contiguous_format)
                else:
                    scalars[key] = value
    about = {"step": step, "groups": groups, "scalars": scalars}
    save_file(tensors, path, {"about": json.dumps(about)})


def _resume(path: Path, model: nn.Module, opts: Sequence[torch.optim.Optimizer]) -> int:
    """Read what `_keep` wrote; the step."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
    own = {name: value for name, value in tensors.items() if name.startswith("model/")}
    model.load_state_dict({name.removeprefix("model/"): value for name, value in own.items()})
    states: list[dict[int, dict[str, Any]]] = [{} for _ in opts]
    for key, value in {**tensors, **about["scalars"]}.items():
        if key.startswith("optimizer/"):
            _, number, index, name = key.split("/")
            states[int(number)].setdefault(int(index), {})[name] = value
    for opt, state, groups in zip(opts, states, about["groups"], strict=True):
        opt.load_state_dict({"state": state, "param_groups": groups})
    step: int = about["step"]
    return step
