"""Target values: the residual-stream vectors that make the model say the new objects.

All facts of a batch are optimised together, with what PERFORMANCE savings allow: only the layers
after the edited one, only positions from the subject's last token on, the head only where a loss is
read, and a fact that has converged leaves the batch. The loss of a fact depends on its own delta
alone and Adam works element by element, so the result equals the fact-by-fact computation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.relational import Free, Maker
from alphaedit.model.handle import ModelHandle
from alphaedit.model.partial import Suffix
from alphaedit.model.stems import keys_and_values_of, pass_tokens, rows_of_cache

KL_PROMPT = "{} is a"
FEW_TOKENS = 256
"""Below this, one padded pass takes less time than a pass for each length."""


@dataclass(frozen=True)
class Row:
    """One sequence of the search: tokens, where its subject ends, and what is read from it."""

    fact: int
    ids: list[int]
    subject_last: int
    prompt_end: int
    targets: tuple[int, ...]
    is_bare: bool = False

    @property
    def is_kl(self) -> bool:
        """Whether this is the "{subject} is a" row, which must not move."""
        return not self.targets

    @property
    def tail(self) -> int:
        """Tokens from the subject's last on."""
        return len(self.ids) - self.subject_last


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
                is_bare=not context,
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


class _Group:
    """Rows run together: by number of tokens after the subject, so that nothing is padded.

    Rows of facts that are done leave it by `keep`.
    """

    def __init__(self, suffix: Suffix, rows: Sequence[Row], weights: Mapping[int, float]) -> None:
        self.suffix = suffix
        self.rows = rows
        self.weights = weights
        self.of_fact = self._indices([r.fact for r in rows])
        self.kl_clean: Tensor | None = None  # [rows, vocabulary] log-probabilities
        self._take(list(range(len(rows))))

    def _indices(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.suffix.clean.device)

    def keep(self, alive: Tensor) -> None:
        """Go on with the rows of the facts that are `alive` [u] only."""
        self._take(alive[self.of_fact].nonzero().flatten().tolist())

    def _take(self, kept: list[int]) -> None:
        rows = [self.rows[i] for i in kept]
        self.kept = self._indices(kept)
        self.fact = self._indices([r.fact for r in rows])
        reads = [(i, r, step) for i, r in enumerate(rows) for step in range(len(r.targets))]
        self.row = self._indices([i for i, _, _ in reads])
        self.position = self._indices([r.prompt_end - r.subject_last + s for _, r, s in reads])
        self.target = self._indices([r.targets[step] for _, r, step in reads])
        weights = [self.weights[r.fact] / len(r.targets) for _, r, _ in reads]
        self.weight = torch.tensor(weights, device=self.kept.device)
        kl = [i for i, r in enumerate(rows) if r.is_kl]
        self.kl_row = self._indices(kl)
        self.kl_position = self._indices([rows[i].prompt_end - rows[i].subject_last for i in kl])

    def add_losses(self, loss: Tensor, delta: Tensor, kl_factor: float, wrong: Tensor) -> Tensor:
        """`loss` [u] plus what these rows say about `delta` [u, d_out].

        `wrong` [u] counts up by the tokens of the targets that are not the most likely ones.
        """
        if not len(self.kept):
            return loss
        hidden = self.suffix.clean[self.kept]
        moved = hidden[:, :1] + delta[self.fact].to(hidden.dtype)[:, None]
        out = self.suffix.run(torch.cat([moved, hidden[:, 1:]], dim=1), rows=self.kept)
        if len(self.row):
            logits = self.suffix.logits(out[self.row, self.position]).float()
            missed = (logits.detach().argmax(-1) != self.target).long()
            wrong.index_add_(0, self.fact[self.row], missed)
            nll = F.cross_entropy(logits, self.target, reduction="none") * self.weight
            loss = loss.index_add(0, self.fact[self.row], nll)
        if len(self.kl_row):
            now = self.suffix.logits(out[self.kl_row, self.kl_position]).float().log_softmax(-1)
            if self.kl_clean is None:
                self.kl_clean = now.new_zeros(len(self.rows), now.shape[1])
                self.kl_clean[self.kept[self.kl_row]] = now.detach()
            before = self.kl_clean[self.kept[self.kl_row]]
            kl = F.kl_div(now, before, log_target=True, reduction="none").sum(-1)
            loss = loss.index_add(0, self.fact[self.kl_row], kl_factor * kl)
        return loss


def find_targets(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    hp: Hyperparameters,
    *,
    reference: Tensor | None = None,
    maker: Maker | None = None,
    progress: Progress = silent,
) -> Targets:
    """Target values of all `facts` at block `layer` (METHODS.md step 2; MEMIT eq. 16).

    Minimises, for each fact on its own, the mean over contexts of the mean token negative
    log-likelihood of the target, plus kl_factor x KL(clean || edited) after "{subject} is a", plus
    weight_decay x |delta| / |h|^2, by Adam with |delta| clamped to clamp x |h|.

    Args:
        reference: [u, d_out] vectors whose norms replace |h| in clamp and weight decay (ROME takes
            the MLP's output).
        maker: where deltas come from in place of free vectors; for one fact.

    Returns:
        Targets with `values` [d_out, u].
    """
    if not facts:
        raise ConfigError("No facts were given.", remedy="Give at least one fact.")
    rows = [rows_of(handle, i, fact, contexts) for i, fact in enumerate(facts)]
    parts: list[tuple[list[int], Targets]] = []
    chunks = _chunks(rows, pass_tokens(handle))
    for number, chunk in enumerate(chunks):

        def report(name: str, step: int, steps: int, done: int = number) -> None:
            progress(name, done * steps + step, len(chunks) * steps)

        chosen = [replace(row, fact=i) for i, fact in enumerate(chunk) for row in rows[fact]]
        groups = _groups(handle, chosen, layer, check=number == 0)
        norms = None if reference is None else reference[chunk]
        parts.append((chunk, _search(groups, len(chunk), hp, norms, maker, report)))
    back = torch.tensor([i for chunk, _ in parts for i in chunk]).argsort()
    losses = [row for _, part in parts for row in part.losses]
    return Targets(
        values=torch.cat([part.values for _, part in parts], dim=1)[:, back],
        clean=torch.cat([part.clean for _, part in parts], dim=1)[:, back],
        losses=[losses[i] for i in back.tolist()],
    )


def _chunks(rows: Sequence[Sequence[Row]], budget: int) -> list[list[int]]:
    """Facts to search together: of similar length, at most `budget` tokens after the subject."""
    length = [sum(r.tail for r in of_fact) for of_fact in rows]
    chunks: list[list[int]] = []
    tokens = 0
    for fact in sorted(range(len(rows)), key=lambda i: length[i]):
        if not chunks or tokens + length[fact] > budget:
            chunks.append([])
            tokens = 0
        chunks[-1].append(fact)
        tokens += length[fact]
    return chunks


def _groups(handle: ModelHandle, rows: Sequence[Row], layer: int, *, check: bool) -> list[_Group]:
    prompts = Counter(r.fact for r in rows if not r.is_kl)
    weights = {fact: 1 / count for fact, count in prompts.items()}
    before = [row.ids[: row.subject_last] for row in rows]
    prefix = keys_and_values_of(handle, before, upto=handle.n_layers - 1) if any(before) else None
    by_tail: dict[int, list[int]] = {}
    few = sum(row.tail for row in rows) < FEW_TOKENS
    for index, row in enumerate(rows):
        by_tail.setdefault(0 if few else row.tail, []).append(index)
    groups: list[_Group] = []
    for same in by_tail.values():
        ids, lasts = [rows[i].ids for i in same], [rows[i].subject_last for i in same]
        cache = None
        if prefix is not None and any(lasts):
            cache = rows_of_cache(prefix, torch.tensor(same), max(lasts))
        checked = check and not groups
        suffix = Suffix.build(handle, ids, lasts, layer, prefix=cache, check=checked)
        groups.append(_Group(suffix, [rows[i] for i in same], weights))
    return groups


def _clean(groups: Sequence[_Group], facts: int) -> Tensor:
    """Hidden states at the end of each fact's subject in its bare prompt, [u, d_out] float32."""
    found: dict[int, Tensor] = {}
    for group in groups:
        for row, clean in zip(group.rows, group.suffix.clean[:, 0], strict=True):
            if row.is_bare:
                found[row.fact] = clean
    return torch.stack([found[fact] for fact in range(facts)]).float()


def _search(
    groups: Sequence[_Group],
    facts: int,
    hp: Hyperparameters,
    reference: Tensor | None,
    maker: Maker | None,
    progress: Progress,
) -> Targets:
    """`find_targets` of a chunk."""
    clean = _clean(groups, facts)
    device = clean.device
    norm = (clean if reference is None else reference.to(device).float()).norm(dim=1)
    made = maker or Free(clean)
    adam = torch.optim.Adam(list(made.parameters), lr=hp.learning_rate)
    alive = torch.ones(facts, dtype=torch.bool, device=device)
    losses: list[list[float]] = [[] for _ in range(facts)]
    frozen = torch.zeros_like(clean)
    right = torch.zeros(facts, dtype=torch.long, device=device)
    for step in range(hp.steps):
        progress("target values", step, hp.steps)
        delta = made.delta()
        loss = hp.weight_decay * delta.norm(dim=1) / norm.square()
        wrong = torch.zeros_like(right)
        for group in groups:
            loss = group.add_losses(loss, delta, hp.kl_factor, wrong)
        right = torch.where(wrong == 0, right + 1, 0)
        values = loss.detach().tolist()
        for i in alive.nonzero().flatten().tolist():
            losses[i].append(values[i])
        done = alive & (loss.detach() < hp.stop_loss)
        if hp.top1_steps is not None:
            done |= alive & (right >= hp.top1_steps)
        if done.any():
            frozen = torch.where(done[:, None], delta.detach(), frozen)
            alive = alive & ~done
        if step == hp.steps - 1 or not alive.any():
            break
        adam.zero_grad(set_to_none=True)
        loss[alive].sum().backward()
        adam.step()
        made.restrain(hp.clamp * norm)
        if done.any():
            for group in groups:
                group.keep(alive)
    final = torch.where(alive[:, None], delta.detach(), frozen)
    progress("target values", hp.steps, hp.steps)
    return Targets(values=(clean + final).T.contiguous(), clean=clean.T.contiguous(), losses=losses)
