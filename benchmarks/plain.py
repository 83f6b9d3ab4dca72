"""The honest yardstick: target values one fact at a time, full forward passes, as published code.

Every step runs all layers over all tokens of all prompts, and the head over all positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.rows import rows_of
from alphaedit.model.handle import ModelHandle


def plain_target(
    handle: ModelHandle, fact: Fact, layer: int, contexts: Sequence[str], hp: Hyperparameters
) -> tuple[Tensor, list[float]]:
    """Target value [d_out] of one fact and its loss at every step (METHODS.md step 2)."""
    rows = rows_of(handle, 0, fact, contexts)
    ids, mask = handle.tokens.pad([row.ids for row in rows], "right")
    last = torch.tensor([row.subject_last for row in rows])
    index = torch.arange(len(rows))
    seen: dict[str, Tensor] = {}
    delta: Tensor | None = None

    def hook(module: object, args: object, output: object) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        assert isinstance(hidden, Tensor)
        seen.setdefault("clean", hidden[0, last[0]].detach().clone())
        if delta is None:
            return output
        hidden = hidden.index_put((index, last), hidden[index, last] + delta)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    registered = handle.block(layer).register_forward_hook(hook)
    try:
        with torch.no_grad():
            first = handle.model(input_ids=ids, attention_mask=mask).logits.to(handle.wide)
        clean = seen["clean"].to(handle.wide)
        kl_row = next(i for i, row in enumerate(rows) if row.is_kl)
        kl_clean = first[kl_row, rows[kl_row].prompt_end].log_softmax(-1)
        delta = torch.zeros_like(clean, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=hp.learning_rate)
        losses: list[float] = []
        low = 0
        prompts = [i for i, row in enumerate(rows) if not row.is_kl]
        for step in range(hp.steps):
            logits = handle.model(input_ids=ids, attention_mask=mask).logits.to(handle.wide)
            log_p = logits.log_softmax(-1)
            turn = step % hp.turns
            read = [(i, rows[i]) for i in prompts[turn :: hp.turns]]
            nll = torch.stack(
                [
                    -log_p[i, torch.arange(len(r.targets)) + r.prompt_end, list(r.targets)].mean()
                    for i, r in read
                ]
            ).mean()
            now = log_p[kl_row, rows[kl_row].prompt_end]
            kl = F.kl_div(now, kl_clean, log_target=True, reduction="sum")
            kl_factor = 0.0 if turn else hp.kl_factor * hp.turns
            loss = nll + kl_factor * kl + hp.weight_decay * delta.norm() / clean.norm() ** 2
            losses.append(loss.item())
            low = low + 1 if loss.item() < hp.stop_loss else 0
            if low >= hp.turns or step == hp.steps - 1:
                break
            adam.zero_grad(set_to_none=False)
            if not low:
                loss.backward()
            before = delta.detach().clone()
            adam.step()
            with torch.no_grad():
                if low:
                    delta.copy_(before)
                limit = hp.clamp * clean.norm()
                if delta.norm() > limit:
                    delta.mul_(limit / delta.norm())
        return clean + delta.detach(), losses
    finally:
        registered.remove()
