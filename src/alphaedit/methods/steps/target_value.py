"""Target values: the residual-stream vectors that make the model say the new objects.

All facts of a batch are optimised together, with what PERFORMANCE savings allow: only the layers
after the edited one, only positions from the subject's last token on, the head only where a loss is
read, and a fact that has converged leaves the batch. The loss of a fact depends on its own delta
alone and Adam works element by element, so the result equals the fact-by-fact computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.config import Hyperparameters
from alphaedit.model.handle import ModelHandle
from alphaedit.model.partial import Suffix

KL_PROMPT = "{} is a"


@dataclass(frozen=True)
class Row:
    """One sequence of the search: tokens, where its subject ends, and what is read from it."""

    fact: int
    ids: list[int]
    subject_last: int
    prompt_end: int
    targets: tuple[int, ...]

    @property
    def is_kl(self) -> bool:
        """Whether this is the "{subject} is a" row, which must not move."""
        return not self.targets


def rows_of(handle: ModelHandle, index: int, fact: Fact, contexts: Sequence[str]) -> list[Row]:
    """The rows of one fact: bare prompt, prompt after each context, and the KL prompt."""
    tokens = handle.tokens
    rows = []
    start, end = fact.subject_span
    for context in ("", *contexts):
        prompt = context + fact.text
        span = (start + len(context), end + len(context))
        prompt_ids, target_ids = tokens.encode_continuation(prompt, fact.target)
        encoded = tokens.encode_with_subject(prompt, span)
        rows.append(
            Row(
                fact=index,
                ids=[*prompt_ids, *target_ids[:-1]],
                subject_last=encoded.subject_last,
                prompt_end=len(prompt_ids) - 1,
                targets=tuple(target_ids),
            )
        )
    kl_text = KL_PROMPT.format(fact.subject)
    encoded = tokens.encode_with_subject(kl_text, (0, len(fact.subject)))
    rows.append(Row(index, encoded.ids, encoded.subject_last, len(encoded.ids) - 1, ()))
    return rows


@dataclass(frozen=True)
class Targets:
    """Result of the search.

    Attributes:
        values: z = h + delta at the edited layer, [d_out, u] float32.
        clean: h of the bare prompts, [d_out, u] float32.
        losses: for each fact its loss at every step taken.
    """

    values: Tensor
    clean: Tensor
    losses: list[list[float]]


@dataclass(frozen=True)
class _Readout:
    """Where losses are read, flattened over the rows kept: (row, position, target, weight)."""

    row: Tensor
    position: Tensor
    target: Tensor
    weight: Tensor
    kl_row: Tensor
    kl_position: Tensor


def _readout(rows: Sequence[Row], device: torch.device) -> _Readout:
    row, position, target, weight, kl_row, kl_position = [], [], [], [], [], []
    contexts: dict[int, int] = {}
    for r in rows:
        contexts[r.fact] = contexts.get(r.fact, 0) + (not r.is_kl)
    for i, r in enumerate(rows):
        if r.is_kl:
            kl_row.append(i)
            kl_position.append(r.prompt_end - r.subject_last)
        for step, token in enumerate(r.targets):
            row.append(i)
            position.append(r.prompt_end - r.subject_last + step)
            target.append(token)
            weight.append(1.0 / (len(r.targets) * contexts[r.fact]))

    def indices(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return _Readout(
        row=indices(row),
        position=indices(position),
        target=indices(target),
        weight=torch.tensor(weight, dtype=torch.float32, device=device),
        kl_row=indices(kl_row),
        kl_position=indices(kl_position),
    )


def _clamp(delta: Tensor, limit: Tensor) -> Tensor:
    norm = delta.norm(dim=1)
    return delta * torch.where(norm > limit, limit / norm.clamp_min(1e-30), 1.0)[:, None]


def find_targets(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    hp: Hyperparameters,
    *,
    reference: Tensor | None = None,
    progress: Progress = silent,
) -> Targets:
    """Target values of all `facts` at block `layer` (METHODS.md step 2; MEMIT eq. 16).

    Minimises, for each fact on its own, the mean over contexts of the mean token negative
    log-likelihood of the target, plus kl_factor x KL(clean || edited) after "{subject} is a", plus
    weight_decay x |delta| / |h|^2, by Adam with |delta| clamped to clamp x |h|.

    Args:
        reference: [u, d_out] vectors whose norms replace |h| in clamp and weight decay (ROME takes
            the MLP's output).

    Returns:
        Targets with `values` [d_out, u].
    """
    rows = [row for i, fact in enumerate(facts) for row in rows_of(handle, i, fact, contexts)]
    suffix = Suffix.build(handle, [r.ids for r in rows], [r.subject_last for r in rows], layer)
    device = suffix.clean.device
    of_fact = torch.tensor([r.fact for r in rows], device=device)
    bare = torch.tensor([i * (len(contexts) + 2) for i in range(len(facts))], device=device)
    clean = suffix.clean[bare, 0].float()
    norm = (clean if reference is None else reference.to(device).float()).norm(dim=1)
    delta = torch.zeros_like(clean, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=hp.learning_rate)
    alive = torch.ones(len(facts), dtype=torch.bool, device=device)
    losses: list[list[float]] = [[] for _ in facts]
    kl_clean: dict[int, Tensor] = {}
    selected, kept, read = rows, torch.arange(len(rows), device=device), _readout(rows, device)
    frozen = delta.detach().clone()
    for step in range(hp.steps):
        progress("target values", step, hp.steps)
        hidden = suffix.clean[kept].clone()
        added = delta[of_fact[kept]].to(hidden.dtype)
        hidden = torch.cat([hidden[:, :1] + added[:, None], hidden[:, 1:]], dim=1)
        out = suffix.run(hidden, rows=kept)
        logits = suffix.logits(out[read.row, read.position]).float()
        nll = F.cross_entropy(logits, read.target, reduction="none") * read.weight
        fact_of = of_fact[kept]
        loss = torch.zeros(len(facts), device=device).index_add(0, fact_of[read.row], nll)
        kl_logits = suffix.logits(out[read.kl_row, read.kl_position]).float()
        kl_now = kl_logits.log_softmax(-1)
        kl_facts = fact_of[read.kl_row]
        if step == 0:
            kl_clean = dict(zip(kl_facts.tolist(), kl_now.detach(), strict=True))
        before = torch.stack([kl_clean[i] for i in kl_facts.tolist()])
        kl = F.kl_div(kl_now, before, log_target=True, reduction="none").sum(-1)
        loss = loss.index_add(0, kl_facts, hp.kl_factor * kl)
        loss = loss + hp.weight_decay * delta.norm(dim=1) / norm.square()
        live = alive.nonzero().flatten().tolist()
        values = loss.detach().tolist()
        for i in live:
            losses[i].append(values[i])
        done = alive & (loss.detach() < hp.stop_loss)
        if done.any():
            frozen = torch.where(done[:, None], delta.detach(), frozen)
            alive = alive & ~done
        if step == hp.steps - 1 or not alive.any():
            break
        adam.zero_grad(set_to_none=True)
        loss[alive].sum().backward()
        adam.step()
        with torch.no_grad():
            delta.copy_(_clamp(delta, hp.clamp * norm))
        if done.any():
            kept = alive[of_fact].nonzero().flatten()
            selected = [rows[i] for i in kept.tolist()]
            read = _readout(selected, device)
    final = torch.where(alive[:, None], delta.detach(), frozen)
    progress("target values", hp.steps, hp.steps)
    return Targets(values=(clean + final).T.contiguous(), clean=clean.T.contiguous(), losses=losses)
