"""Prompts with their targets, as methods that follow gradients read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alphaedit.core.fact import Fact
from alphaedit.methods.steps.parts import targets_of
from alphaedit.model.handle import ModelHandle
from alphaedit.model.passes.tail_pass import check_rows


@dataclass(frozen=True)
class Continuations:
    """Facts in one padded batch, and the tokens from which their targets are read.

    Attributes:
        ids: [u, length] int64, on the right padded; `mask` is 1 for tokens.
        row: [n] fact of each target token; `position` [n], where it is read.
        target: [n] the tokens.
    """

    ids: Tensor
    mask: Tensor
    row: Tensor
    position: Tensor
    target: Tensor

    @classmethod
    def of(
        cls,
        handle: ModelHandle,
        facts: Sequence[Fact],
        *,
        end_of_text: bool = False,
        fronts: Sequence[str] | None = None,
    ) -> Continuations:
        """The prompts and targets of `facts`.

        Args:
            end_of_text: the end-of-text token stands behind the targets.
            fronts: text in front of each fact's prompt.

        Raises:
            ModelError: a prompt and its target are longer than the model reads.
        """
        prompts = [
            f"{front}{f.text}" for front, f in zip(fronts or [""] * len(facts), facts, strict=True)
        ]
        pairs = [
            targets_of(handle, fact, prompt, end_of_text=end_of_text)[:2]
            for fact, prompt in zip(facts, prompts, strict=True)
        ]
        return cls._of_ids(handle, pairs)

    @classmethod
    def of_pairs(cls, handle: ModelHandle, asked: Sequence[tuple[str, str]]) -> Continuations:
        """Prompts and what follows them.

        Raises:
            ModelError: a prompt and its target are longer than the model reads.
        """
        encode = handle.tokens.encode_continuation
        return cls._of_ids(handle, [encode(prompt, target) for prompt, target in asked])

    @classmethod
    def _of_ids(
        cls, handle: ModelHandle, pairs: Sequence[tuple[list[int], list[int]]]
    ) -> Continuations:
        rows = [[*prompt, *target[:-1]] for prompt, target in pairs]
        check_rows(handle, rows, [len(prompt) - 1 for prompt, _ in pairs])
        ids, mask = handle.tokens.pad(rows, "right")
        reads = [
            (row, len(prompt) - 1 + step, token)
            for row, (prompt, target) in enumerate(pairs)
            for step, token in enumerate(target)
        ]
        row, position, tokens = torch.tensor(reads, device=handle.device).unbind(1)
        return cls(ids, mask, row, position, tokens)
