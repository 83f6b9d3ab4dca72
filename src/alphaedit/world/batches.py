"""Batches of training tokens, with where each name ends and what is learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphaedit.world.corpus import Corpus
from alphaedit.world.facts import World
from alphaedit.world.phrasing import Piece
from alphaedit.world.recipe import Recipe

GIVEN, PLAIN, NAME, OBJECT = range(4)


class Batch(NamedTuple):
    """Token ids, the last token of the name a token is in (or -1), kind; all [rows, length]."""

    ids: Tensor
    last: Tensor
    kind: Tensor


class Batches:
    """Token batches with the position of each name's last token.

    Every row is one text that begins with BOS; rows of a batch have one length, drawn from
    `lengths`, so that bare prompts and long contexts are both common.
    """

    lengths = (24, 48, 96, 192, 256)

    def __init__(self, world: World, tokenizer: Any, recipe: Recipe) -> None:
        self.corpus = Corpus(world, seed=recipe.seed, zipf=recipe.zipf, mix=recipe.mix)
        self.tokenizer = tokenizer
        self.recipe = recipe

    def _encode(self, texts: list[list[Piece]], length: int) -> Batch:
        encoded = self.tokenizer(
            ["".join(p.text for p in text) for text in texts], return_offsets_mapping=True
        )
        shape = (len(texts), length)
        ids = torch.full(shape, self.tokenizer.pad_token_id)
        last, kind = torch.full(shape, -1), torch.full(shape, GIVEN)
        for row, text in enumerate(texts):
            tokens = encoded["input_ids"][row][:length]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            offsets, at, token = encoded["offset_mapping"][row], 0, 1
            for piece in text:
                end, first = at + len(piece.text), token
                while token < len(offsets) and offsets[token][1] <= end:
                    token += 1
                if piece.name:
                    last[row, first:token] = token - 1
                kind[row, first:token] = (
                    GIVEN
                    if piece.given
                    else NAME
                    if piece.name and not piece.seen
                    else OBJECT
                    if piece.object
                    else PLAIN
                )
                at = end
            kind[row, len(tokens) :] = GIVEN
        return Batch(ids, last, kind)

    def __iter__(self) -> Iterator[Batch]:
        """Endless batches."""
        while True:
            length = self.corpus.rng.choice(self.lengths)
            rows = max(1, self.recipe.batch_tokens // length)
            items = max(1, length // 14 + 1)
            stream = self.corpus.texts(items)
            yield self._encode([next(stream) for _ in range(rows)], length)
