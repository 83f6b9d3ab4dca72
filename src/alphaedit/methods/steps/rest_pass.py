"""What lies behind a change inside one block, run at the tokens that may change.

A hook changes what leaves one module, or one block, from a prompt's last token on (or everywhere).
What enters it does not depend on the rows that are learned: it is computed once, and each step runs
only the rest of the model (`TailPass`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphaedit.core.errors import ConfigError
from alphaedit.core.fact import Fact
from alphaedit.methods.steps.rows import Row
from alphaedit.model.handle import ModelHandle
from alphaedit.model.hooks import on_input, on_output
from alphaedit.model.passes.prefix_cache import keys_and_values_of, pass_tokens
from alphaedit.model.passes.tail_pass import TailPass

Start = Literal["end", "all"]
"""What may change: tokens from a prompt's last one on, or all."""


@dataclass(frozen=True, eq=False)
class Clean:
    """What the unchanged model shows at the tokens of some rows that may change.

    B rows (a fact's prompt and target, bare or after a context), S tokens; floats are float32
    (float64 in a float64 model).

    Attributes:
        entering: [B, S, d_in] what enters the module.
        leaving: [B, S, d_out] what leaves it.
        hidden: [B, S, h] what leaves its block.
        behind: [B, S] int64, how far each token lies behind its prompt's last one; less than 0 in
            front of it.
        tokens: [B, S] bool, false at padding.
        fact: [B] int64, the number of each row's fact.
        bare: [B] bool, whether no context stands in front.
    """

    entering: Tensor
    leaving: Tensor
    hidden: Tensor
    behind: Tensor
    tokens: Tensor
    fact: Tensor
    bare: Tensor

    def at_ends(self) -> Tensor:
        """What enters the module at the last tokens of the prompts, [B, d_in]."""
        return self.entering[self.behind == 0]


Change = Callable[[Clean], Tensor]
"""Gives, by the parameters that are learned, what stands in the place of `leaving` or `hidden`."""


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Rows of one pass; n tokens of targets are read at `row` and `position`, [n] each."""

    clean: Clean
    tail: TailPass
    row: Tensor
    position: Tensor
    target: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class RestPasses:
    """Rows of `count` facts, run once up to what is changed. Made by `prepare`."""

    handle: ModelHandle
    layer: int
    module: nn.Module
    at: Literal["module", "block"]
    count: int
    chunks: Sequence[_Chunk]

    @property
    def clean(self) -> list[Clean]:
        """What each pass shows; all rows of all facts stand in one of them."""
        return [chunk.clean for chunk in self.chunks]

    def losses(self, change: Change, smoothing: float = 0.0) -> Iterator[Tensor]:
        """Mean token cross-entropy over each fact's rows, by chunk: parts [facts] of the whole.

        The gradients of a part must be taken before the next is asked for.
        """
        for chunk in self.chunks:
            out = self._behind(chunk, change(chunk.clean))
            row, position = chunk.row.to(out.device), chunk.position.to(out.device)
            logits = self.handle.logits(out[row, position]).to(self.handle.wide)
            target = chunk.target.to(logits.device)
            nll = F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
            fact = chunk.clean.fact[chunk.row].to(nll.device)
            zero = torch.zeros(self.count, dtype=nll.dtype, device=nll.device)
            yield zero.index_add(0, fact, nll * chunk.weight.to(nll))

    def _behind(self, chunk: _Chunk, changed: Tensor) -> Tensor:
        """What leaves the last block with `changed` in its place."""
        clean, tail = chunk.clean, chunk.tail
        reads = (chunk.row * clean.hidden.shape[1] + chunk.position).unique()
        if tail.layer == self.layer:
            moved = changed - (clean.hidden if self.at == "block" else clean.leaving)
            return tail.run((clean.hidden + moved).to(tail.clean.dtype), reads=reads)

        def put(leaving: Tensor) -> Tensor:
            return changed.reshape(leaving.shape).to(leaving)

        # The last block's MLP may be run at the places that are read only: not where it is changed.
        last = self.layer == self.handle.n_layers - 1
        with on_output(self.module, put):
            return tail.run(tail.clean, reads=None if last else reads)


@torch.no_grad()
def prepare(
    handle: ModelHandle,
    facts: Sequence[Fact],
    layer: int,
    *,
    contexts: Sequence[str] = (),
    start: Start = "end",
    at: Literal["module", "block"] = "module",
    module: nn.Module | None = None,
) -> RestPasses:
    """Run each fact's prompt and target, bare and after each context, up to block `layer`.

    Args:
        start: which tokens may change.
        at: whether what leaves the module is changed, or what leaves the block.
        module: in that block; by default the MLP's output projection.

    Raises:
        ConfigError: no facts, or a layer that does not exist or is a mixture of experts.
        ModelError: a row is longer than the model reads.
        ArchitectureError: the model cannot be run in parts.
    """
    if not facts:
        raise ConfigError("No facts were given.", remedy="Give at least one fact.")
    if module is None and handle.experts(layer) is not None:
        raise ConfigError(
            f"Layer {layer} is a mixture of experts, each of which sees some tokens only.",
            remedy="Choose a layer without experts, or another method.",
        )
    rows = []
    for number, fact in enumerate(facts):
        for context in ("", *contexts):
            prompt, target = handle.tokens.encode_continuation(context + fact.text, fact.target)
            end = len(prompt) - 1
            first = 0 if start == "all" else end
            ids, ones = [*prompt, *target[:-1]], (1.0,) * len(target)
            rows.append(Row(number, ids, first, end, tuple(target), ones, is_bare=not context))
    rows.sort(key=lambda row: row.tail)
    module = module or handle.edited_module(layer)
    # Where a norm or a gate follows the module, its block is run again.
    runs = layer if at == "block" or handle.adds_directly else layer - 1
    chunks, budget = [], pass_tokens(handle)
    while rows:
        size = sum((n + 1) * row.tail <= budget for n, row in enumerate(rows)) or 1
        chunks.append(_chunk(handle, rows[:size], layer, module, runs, len(contexts) + 1))
        rows = rows[size:]
    return RestPasses(handle, layer, module, at, len(facts), chunks)


def _chunk(
    handle: ModelHandle,
    rows: Sequence[Row],
    layer: int,
    module: nn.Module,
    runs: int,
    rows_of_fact: int,
) -> _Chunk:
    """A pass over some rows; the rest is run from what leaves block `runs` on."""
    ids, starts = [row.ids for row in rows], [row.subject_last for row in rows]
    before = [row.ids[: row.subject_last] for row in rows]
    prefix = keys_and_values_of(handle, before, upto=handle.n_layers - 1) if any(before) else None
    seen: list[list[Tensor]] = [[], []]
    with on_input(module, seen[0].append), on_output(module, seen[1].append):
        tail = TailPass.build(handle, ids, starts, layer, prefix=prefix)
    length, device, wide = tail.clean.shape[1], tail.clean.device, handle.wide
    columns = torch.arange(length, device=device)
    ends = torch.tensor([row.prompt_end - row.subject_last for row in rows], device=device)
    # The first pass is that of all rows; those that follow check one of them.
    entering, leaving = (part[0].to(device).reshape(len(rows), length, -1) for part in seen)
    clean = Clean(
        entering.to(wide),
        leaving.to(wide),
        tail.clean.to(wide),
        columns - ends[:, None],
        columns < tail.lengths.to(device)[:, None],
        torch.tensor([row.fact for row in rows], device=device),
        torch.tensor([row.is_bare for row in rows], device=device),
    )
    if runs != layer:
        tail = TailPass.build(handle, ids, starts, runs, prefix=prefix)
    reads = [
        (at, row.prompt_end - row.subject_last + step, token, len(row.targets) * rows_of_fact)
        for at, row in enumerate(rows)
        for step, token in enumerate(row.targets)
    ]
    at, position, target, share = torch.tensor(reads, device=device).unbind(1)
    return _Chunk(clean, tail, at, position, target, 1 / share.to(wide))
