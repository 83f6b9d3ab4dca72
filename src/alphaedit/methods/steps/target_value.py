"""Target values: the residual-stream vectors that make the model say the new objects.

All facts of a batch are optimised together, with what PERFORMANCE savings allow: only the layers
after the edited one, only positions from the subject's last token on, the head and the last MLP
only where a loss is read, and a fact that has converged leaves the batch. The loss of a fact
depends on its own delta alone and Adam works element by element, so the result equals the
fact-by-fact computation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from alphaedit.core.errors import ConfigError, ModelError
from alphaedit.core.fact import Fact
from alphaedit.core.progress import Progress, silent
from alphaedit.methods.config import Hyperparameters
from alphaedit.methods.steps.descent import descent
from alphaedit.methods.steps.relational import Free, Maker
from alphaedit.methods.steps.rows import (
    Group,
    MakeGroup,
    Row,
    add_losses,
    groups_of,
    in_turns,
    rows_of,
)
from alphaedit.model.handle import ModelHandle
from alphaedit.model.memory import affordable, is_out_of_memory, kept_for_gradients
from alphaedit.model.passes.prefix_cache import pass_tokens
from alphaedit.model.precision import computing_in

FIRST_TOKENS = 2048
"""Tokens after the subjects in the first pass, by which the memory of the others is measured."""
WORTH_LEAVING = 0.05
"""Share of the facts of a pass that are done before they leave it: the rest must be copied."""


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
    weight_decay x |delta| / |h|^2, with |delta| clamped to clamp x |h|, by `hp.optimizer`.

    Args:
        reference: [u, d_out] vectors whose norms replace |h| in clamp and weight decay (ROME takes
            the MLP's output).
        maker: where deltas come from in place of free vectors; for one fact.

    Returns:
        Targets with `values` [d_out, u].
    """
    if not facts:
        raise ConfigError("No facts were given.", remedy="Give at least one fact.")
    ends = hp.end_of_text
    rows = [rows_of(handle, i, f, contexts, end_of_text=ends) for i, f in enumerate(facts)]
    search = Chunks(handle, layer, hp, rows, reference, maker, progress)
    with computing_in(handle, hp.search_dtype, after=layer):
        return in_order(search.run())


def in_order(parts: Sequence[tuple[list[int], Targets]]) -> Targets:
    """The targets of chunks, in the order of the facts."""
    back = torch.tensor([i for chunk, _ in parts for i in chunk]).argsort()
    losses = [row for _, part in parts for row in part.losses]
    return Targets(
        values=torch.cat([part.values for _, part in parts], dim=1)[:, back],
        clean=torch.cat([part.clean for _, part in parts], dim=1)[:, back],
        losses=[losses[i] for i in back.tolist()],
    )


class Chunks:
    """The facts in chunks of the size that suits the device, smaller where memory does not do."""

    def __init__(
        self,
        handle: ModelHandle,
        layer: int,
        hp: Hyperparameters,
        rows: Sequence[Sequence[Row]],
        reference: Tensor | None,
        maker: Maker | None,
        progress: Progress,
    ) -> None:
        self.handle, self.layer, self.hp, self.rows = handle, layer, hp, rows
        self.reference, self.maker, self.progress = reference, maker, progress
        # With Adam alone: quasi-Newton steps compare losses of the same prompts.
        self.turns = hp.turns if hp.optimizer == "adam" else 1
        self.tokens = [
            max(sum(r.tail for r in part) for part in in_turns(of_fact, self.turns))
            for of_fact in rows
        ]
        self.done = 0

    def run(self) -> list[tuple[list[int], Targets]]:
        """Facts of each chunk, and what was found for them."""
        most = pass_tokens(self.handle)
        budget = min(most, FIRST_TOKENS)
        waiting = sorted(range(len(self.rows)), key=lambda i: self.tokens[i])
        parts: list[tuple[list[int], Targets]] = []
        while waiting:
            chunk = self._chunk(waiting, budget)
            try:
                targets, pass_bytes = self._searched(chunk, first=not parts)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                budget = self._halved(chunk, error)
                continue
            parts.append((chunk, targets))
            self.done += len(chunk)
            waiting = waiting[len(chunk) :]
            tokens = sum(self.tokens[i] for i in chunk)
            budget = min(most, affordable(self.handle.device, tokens, pass_bytes))
        self.progress("target values", len(self.rows), len(self.rows))
        return parts

    def _chunk(self, facts: Sequence[int], budget: int) -> list[int]:
        """The first of `facts`, at least one, of at most `budget` tokens after the subjects."""
        total = itertools.accumulate(self.tokens[i] for i in facts)
        return list(facts[: max(1, sum(tokens <= budget for tokens in total))])

    def _halved(self, chunk: Sequence[int], error: Exception) -> int:
        """Tokens of a pass after `chunk` did not fit."""
        if len(chunk) == 1:
            raise ModelError(
                "The target search of one fact does not fit into memory.",
                remedy="Nothing was changed. Give a larger device, fewer contexts, or load the "
                "model as bfloat16.",
            ) from error
        if self.handle.device.type == "cuda":
            torch.cuda.empty_cache()
        return sum(self.tokens[i] for i in chunk) // 2

    def _groups(
        self, chunk: Sequence[int], *, first: bool, make: MakeGroup = Group
    ) -> list[list[Group]]:
        """What each turn of a search for `chunk` runs, its facts counted from 0."""
        chosen = [replace(r, fact=i) for i, fact in enumerate(chunk) for r in self.rows[fact]]
        return [
            groups_of(self.handle, part, self.layer, check=first and not number, make=make)
            for number, part in enumerate(in_turns(chosen, self.turns))
        ]

    def _searched(self, chunk: Sequence[int], *, first: bool) -> tuple[Targets, int]:
        """Targets of `chunk`, and the bytes that a pass kept."""
        groups = self._groups(chunk, first=first)
        norms = None if self.reference is None else self.reference[list(chunk)]
        done = self.done

        def say(step: int) -> None:
            now = done + len(chunk) * step // self.hp.steps
            self.progress("target values", now, len(self.rows))

        return search(groups, len(chunk), self.hp, norms, self.maker, say)


def _clean(groups: Iterable[Group], facts: int) -> Tensor:
    """Hidden states at the end of each fact's subject in its bare prompt, [u, d_out] in `wide`."""
    by_fact: dict[int, Tensor] = {}
    for group in groups:
        for row, clean in zip(group.rows, group.suffix.clean[:, 0], strict=True):
            if row.is_bare:
                by_fact[row.fact] = clean
            handle = group.suffix.handle
    return torch.stack([by_fact[i] for i in range(facts)]).to(handle.wide)


class _Enough:
    """Which facts need no further step: all turns, one after the other, say that it is enough.

    Enough is a low loss, or, where that is asked for, a target that was the most likely for so many
    rounds of turns.

    Attributes:
        waiting: [u] facts whose loss was low: their deltas stay until the other turns were asked.
    """

    def __init__(self, hp: Hyperparameters, turns: int, alive: Tensor) -> None:
        self.hp, self.turns = hp, turns
        self.low = torch.zeros_like(alive, dtype=torch.long)
        self.right = torch.zeros_like(self.low)
        self.waiting = torch.zeros_like(alive)

    def __call__(self, loss: Tensor, wrong: Tensor | None) -> Tensor:
        """By the losses [u] of a step, and the tokens [u] that were not the most likely in it."""
        self.low = torch.where(loss < self.hp.stop_loss, self.low + 1, 0)
        self.waiting = self.low > 0
        done = self.low >= self.turns
        if wrong is not None and self.hp.top1_steps is not None:
            self.right = torch.where(wrong == 0, self.right + 1, 0)
            done |= self.right >= self.hp.top1_steps * self.turns
        return done


def search(
    turns: Sequence[Sequence[Group]],
    facts: int,
    hp: Hyperparameters,
    reference: Tensor | None,
    maker: Maker | None,
    say: Callable[[int], None],
    clean: Tensor | None = None,
) -> tuple[Targets, int]:
    """`find_targets` of a chunk, and the bytes that its first pass kept.

    Args:
        turns: what the first step runs, the second and so on, and then from the front again.
        clean: [u, d] what deltas are added to, where that is not a hidden state of these rows.
    """
    every = [group for groups in turns for group in groups]
    clean = _clean(every, facts) if clean is None else clean
    device = clean.device
    norm = (clean if reference is None else reference.to(clean)).norm(dim=1)
    made = maker or Free(clean)
    down = descent(hp, made, norm, free=made.delta() is made.parameters[0])
    alive = torch.ones(facts, dtype=torch.bool, device=device)
    in_passes = facts
    losses: list[list[float]] = [[] for _ in range(facts)]
    frozen = torch.zeros_like(clean)
    enough = _Enough(hp, len(turns), alive)
    handle, pass_bytes = every[0].suffix.handle, 0
    for step in range(hp.steps):
        say(step)
        delta = made.delta()
        loss = hp.weight_decay * delta.norm(dim=1) / norm.square()
        wrong = None if hp.top1_steps is None else torch.zeros_like(alive, dtype=torch.long)
        with ExitStack() as counting:
            count = None
            if step == 0 and not handle.sharded:
                count = counting.enter_context(kept_for_gradients(handle.model.parameters()))
            # Rows that must not move are in the first of the turns only.
            groups, kl_factor = turns[step % len(turns)], hp.kl_factor * len(turns)
            loss = add_losses(groups, loss, delta, kl_factor, wrong)
        pass_bytes = pass_bytes if count is None else count.bytes
        running = alive.nonzero().flatten().tolist()
        for i, value in zip(running, loss.detach()[alive].tolist(), strict=True):
            losses[i].append(value)
        done = alive & enough(loss.detach(), wrong)
        if done.any():
            frozen = torch.where(done[:, None], delta.detach(), frozen)
            alive = alive & ~done
        left = int(alive.sum())
        if step == hp.steps - 1 or not left:
            break
        down.step(loss, alive, enough.waiting)
        made.restrain(hp.clamp * norm)
        if left <= (1 - WORTH_LEAVING) * in_passes:
            in_passes = left
            for group in every:
                group.keep(alive)
    final = torch.where(alive[:, None], down.result(delta.detach(), loss.detach()), frozen)
    say(hp.steps)
    targets = Targets((clean + final).T.contiguous(), clean.T.contiguous(), losses)
    return targets, pass_bytes
