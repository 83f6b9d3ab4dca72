"""The sequences of a target search, and what each says of its fact's delta."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from alphaedit.core.fact import Fact
from alphaedit.methods.steps.parts import targets_of
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.capture import TailPass
from alphaedit.model.passes.prefix_cache import keys_and_values_of, rows_of_cache

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
    weights: tuple[float, ...]
    is_bare: bool = False

    @property
    def is_kl(self) -> bool:
        """Whether this is the "{subject} is a" row, which must not move."""
        return not self.targets

    @property
    def tail(self) -> int:
        """Tokens from the subject's last on."""
        return len(self.ids) - self.subject_last


def rows_of(
    handle: ModelHandle,
    index: int,
    fact: Fact,
    contexts: Sequence[str],
    *,
    end_of_text: bool = False,
) -> list[Row]:
    """The rows of one fact: bare prompt, prompt after each context, and the KL prompt."""
    tokens = handle.tokens
    rows = []
    start, end = fact.subject_span
    for context in ("", *contexts):
        prompt = context + fact.text
        span = (start + len(context), end + len(context))
        prompt_ids, target_ids, weights = targets_of(handle, fact, prompt, end_of_text=end_of_text)
        encoded = tokens.encode_with_subject(prompt, span)
        rows.append(
            Row(
                fact=index,
                ids=[*prompt_ids, *target_ids[:-1]],
                subject_last=encoded.subject_last,
                prompt_end=len(prompt_ids) - 1,
                targets=tuple(target_ids),
                weights=tuple(weights),
                is_bare=not context,
            )
        )
    kl_text = KL_PROMPT.format(fact.subject)
    encoded = tokens.encode_with_subject(kl_text, (0, len(fact.subject)))
    rows.append(Row(index, encoded.ids, encoded.subject_last, len(encoded.ids) - 1, (), ()))
    return rows


def in_turns(rows: Sequence[Row], turns: int) -> list[list[Row]]:
    """Rows in as many parts, each with its share of every fact's prompts; no part is empty.

    Rows that must not move are in the first part.
    """
    parts: list[list[Row]] = [[] for _ in range(turns)]
    prompts: Counter[int] = Counter()
    for row in rows:
        if row.is_kl:
            parts[0].append(row)
            continue
        parts[prompts[row.fact] % turns].append(row)
        prompts[row.fact] += 1
    return [part for part in parts if part]


class Group:
    """Rows run together: by number of tokens after the subject, so that nothing is padded.

    Rows of facts that are done leave it by `keep`.
    """

    def __init__(self, tail: TailPass, rows: Sequence[Row], weights: Mapping[int, float]) -> None:
        self.suffix = tail
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

    def _take(self, indices: list[int]) -> None:
        rows = [self.rows[i] for i in indices]
        self.active = self._indices(indices)
        self.fact = self._indices([r.fact for r in rows])
        reads = [(i, r, step) for i, r in enumerate(rows) for step in range(len(r.targets))]
        self.row = self._indices([i for i, _, _ in reads])
        self.position = self._indices([r.prompt_end - r.subject_last + s for _, r, s in reads])
        self.target = self._indices([r.targets[step] for _, r, step in reads])
        weights = [self.weights[r.fact] * r.weights[step] / len(r.targets) for _, r, step in reads]
        self.weight = torch.tensor(
            weights, device=self.active.device, dtype=self.suffix.handle.wide
        )
        kl = [i for i, r in enumerate(rows) if r.is_kl]
        self.kl_row = self._indices(kl)
        self.kl_position = self._indices([rows[i].prompt_end - rows[i].subject_last for i in kl])
        row = torch.cat([self.row, self.kl_row])
        position = torch.cat([self.position, self.kl_position])
        self.reads = (row * self.suffix.clean.shape[1] + position).unique()

    def moved(self, delta: Tensor) -> Tensor:
        """What leaves the last block at the places that are read, with `delta` [u, d_out]."""
        hidden = self.suffix.clean[self.active]
        first = (hidden[:, :1] + delta[self.fact][:, None]).to(hidden.dtype)
        moved = torch.cat([first, hidden[:, 1:]], dim=1)
        # Of a model on several devices, the last block may lie elsewhere.
        out = self.suffix.run(moved, rows=self.active, reads=self.reads).to(hidden.device)
        return torch.cat([out[self.row, self.position], out[self.kl_row, self.kl_position]])

    def add_losses(
        self, loss: Tensor, logits: Tensor, kl_factor: float, wrong: Tensor | None
    ) -> Tensor:
        """`loss` [u] plus what these rows say, by the `logits` of what `moved` gave.

        `wrong` [u] counts up by the tokens of the targets that are not the most likely ones.
        """
        target_logits, kl_logits = logits.split([len(self.row), len(self.kl_row)])
        if len(target_logits):
            if wrong is not None:
                missed = (target_logits.detach().argmax(-1) != self.target).long()
                wrong.index_add_(0, self.fact[self.row], missed)
            nll = F.cross_entropy(target_logits, self.target, reduction="none") * self.weight
            loss = loss.index_add(0, self.fact[self.row], nll.to(loss.dtype))
        if len(kl_logits):
            now = kl_logits.log_softmax(-1)
            if self.kl_clean is None:
                self.kl_clean = now.new_zeros(len(self.rows), now.shape[1])
                self.kl_clean[self.active[self.kl_row]] = now.detach()
            before = self.kl_clean[self.active[self.kl_row]]
            kl = F.kl_div(now, before, log_target=True, reduction="none").sum(-1)
            loss = loss.index_add(0, self.fact[self.kl_row], kl_factor * kl)
        return loss


def add_losses(
    groups: Sequence[Group],
    loss: Tensor,
    delta: Tensor,
    kl_factor: float,
    wrong: Tensor | None = None,
) -> Tensor:
    """`loss` [u] plus what all rows say about `delta`, with one pass through the head."""
    running = [group for group in groups if len(group.active)]
    reads = [group.moved(delta) for group in running]
    logits = running[0].suffix.logits(torch.cat(reads)).to(loss)
    parts = logits.split([len(read) for read in reads])
    for group, part in zip(running, parts, strict=True):
        loss = group.add_losses(loss, part, kl_factor, wrong)
    return loss


MakeGroup = Callable[[TailPass, Sequence[Row], Mapping[int, float]], Group]


def groups_of(
    handle: ModelHandle,
    rows: Sequence[Row],
    layer: int,
    *,
    check: bool,
    make: MakeGroup = Group,
) -> list[Group]:
    """Rows in groups of one length from the subject's last token on.

    Args:
        make: makes a group.
        check: compare one row with a plain pass through the model; see `TailPass.build`.
    """
    prompts = Counter(r.fact for r in rows if not r.is_kl)
    weights = {fact: 1 / count for fact, count in prompts.items()}
    before = [row.ids[: row.subject_last] for row in rows]
    prefix = keys_and_values_of(handle, before, upto=handle.n_layers - 1) if any(before) else None
    by_tail: dict[int, list[int]] = {}
    few = sum(row.tail for row in rows) < FEW_TOKENS
    for index, row in enumerate(rows):
        by_tail.setdefault(0 if few else row.tail, []).append(index)
    groups: list[Group] = []
    for same in by_tail.values():
        ids, lasts = [rows[i].ids for i in same], [rows[i].subject_last for i in same]
        cache = None
        if prefix is not None and any(lasts):
            cache = rows_of_cache(prefix, torch.tensor(same), max(lasts))
        checked = check and not groups
        tail = TailPass.build(handle, ids, lasts, layer, prefix=cache, check=checked)
        groups.append(make(tail, [rows[i] for i in same], weights))
    return groups
