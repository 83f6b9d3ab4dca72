"""Texts to token ids, and where in them a subject or a target lies."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from alphaedit.core.errors import FactError, ModelError, SubjectError
from alphaedit.model.told import told

_TOKENIZER = "Give the tokenizer that belongs to the model (tokenizer.json beside its weights)."


@dataclass(frozen=True)
class Encoded:
    """A text as tokens, with the place of its subject.

    Attributes:
        ids: token ids, special tokens in front included.
        subject_first: index in `ids` of the first token that covers the subject.
        subject_last: index in `ids` of the last token that covers the subject.
    """

    ids: list[int]
    subject_first: int
    subject_last: int

    @property
    def prompt_len(self) -> int:
        """Number of tokens of the whole text."""
        return len(self.ids)


class Tokens:
    """A fast tokenizer, asked for nothing but ids and character offsets.

    Args:
        tokenizer: A Hugging Face tokenizer.
        vocabulary: Number of ids that the model knows.

    Raises:
        ModelError: the tokenizer gives no character offsets, or belongs to a larger model.
    """

    def __init__(self, tokenizer: Any, vocabulary: int | None = None) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(tokenizer).__name__} gives no character offsets, which are needed to find "
                "subjects.",
                remedy="Use a fast tokenizer (a tokenizer.json in the model's directory).",
            )
        # Tokens that were added to it may lie beyond: many models have a padding token there.
        size = getattr(tokenizer, "vocab_size", 0)
        if vocabulary is not None and size > vocabulary:
            raise ModelError(
                f"The tokenizer has {size:,} tokens, and the model embeddings for {vocabulary:,}.",
                remedy=_TOKENIZER,
            )
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary

    @property
    def pad_id(self) -> int:
        """The id that fills padded places; they are masked, so any id does."""
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(self.tokenizer, name, None)
            if isinstance(value, int) and 0 <= value < (self.vocabulary or value + 1):
                return value
        return 0

    def _encode(self, text: str, special: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets; special tokens have offsets (0, 0)."""
        with told(f"The tokenizer fails on {text[:60]!r}; it", _TOKENIZER):
            out = self.tokenizer(
                text,
                add_special_tokens=special,
                return_offsets_mapping=True,
                return_special_tokens_mask=True,
                return_attention_mask=False,
                truncation=False,
                padding=False,
                verbose=False,
            )
        ids, offsets = list(out["input_ids"]), [tuple(o) for o in out["offset_mapping"]]
        if self.vocabulary is not None and ids and max(ids) >= self.vocabulary:
            raise ModelError(
                f"The tokenizer gives token {max(ids)} for {text[:60]!r}, and the model has "
                f"embeddings for tokens 0 to {self.vocabulary - 1}.",
                remedy=_TOKENIZER,
            )
        added = list(out["special_tokens_mask"])
        offsets = [(0, 0) if s else o for o, s in zip(offsets, added, strict=True)]
        # An end-of-text token that the tokenizer appends would end every prompt.
        while (
            special and added and added[-1] and offsets[-1] == (0, 0) and any(a == 0 for a in added)
        ):
            ids, offsets, added = ids[:-1], offsets[:-1], added[:-1]
        return ids, offsets

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, with the special tokens that the tokenizer itself puts in front."""
        return self._encode(text)[0]

    def encode_marked(self, text: str, characters: Sequence[int]) -> tuple[list[int], list[int]]:
        """Ids of `text`, and the last of the tokens that cover each of some characters.

        Characters that no token covers are left out.

        Args:
            characters: indices into `text`, ascending.
        """
        ids, offsets = self._encode(text)
        marked, wanted = list[int](), iter(characters)
        character = next(wanted, None)
        for token, (start, end) in enumerate(offsets):
            while character is not None and character < end:
                later = token + 1 < len(offsets) and offsets[token + 1][0] <= character
                if later and offsets[token + 1][1] > character:
                    break
                if start <= character:
                    marked.append(token)
                character = next(wanted, None)
        return ids, marked

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, without special tokens."""
        with told("What the model wrote", _TOKENIZER):
            text: str = self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        return text

    def encode_with_subject(self, text: str, span: tuple[int, int], prefix: str = "") -> Encoded:
        """Ids of ``prefix + text`` and the tokens of its subject.

        The subject's last token is the last of those that cover its last character other than a
        space: right for tokenizers that merge spaces or words, and for characters made of several
        tokens.

        Args:
            text: The text.
            span: First character of the subject in `text`, and the one after its last.
            prefix: Put in front of `text`.

        Raises:
            SubjectError: no token covers the subject.
        """
        start, end = span[0] + len(prefix), span[1] + len(prefix)
        full = prefix + text
        ids, offsets = self._encode(full)
        visible = [i for i in range(start, end) if not full[i].isspace()]
        first = _covering(offsets, visible)
        last = _covering(offsets, visible[::-1])
        if not first or not last or not self._aligned(ids[last[-1]], full, offsets[last[-1]]):
            raise SubjectError(
                f"The tokenizer has no token for the subject {full[start:end]!r} in {full!r}, or "
                "it drops a character before its end.",
                remedy="Write the prompt with characters that the model's tokenizer knows.",
            )
        return Encoded(ids, first[0], last[-1])

    def _aligned(self, token: int, text: str, offset: tuple[int, int]) -> bool:
        """Whether a token reads as the characters it is said to cover.

        Offsets slip behind a character that a tokenizer drops because it does not know it.
        """
        covered, read = (_folded(t) for t in (text[slice(*offset)], self.decode([token])))
        return not covered or not read or "\ufffd" in read or covered == read

    def encode_continuation(self, prompt: str, target: str) -> tuple[list[int], list[int]]:
        """Ids of `prompt`, and those of `target` as its continuation.

        Both are tokenised together where that extends the prompt's own ids; where the boundary
        would merge, the target is tokenised alone, with the space in front that reads right.

        Raises:
            FactError: the target has no tokens, or characters that the tokenizer does not know.
        """
        prompt_ids = self.encode(prompt)
        space = "" if not prompt or prompt[-1].isspace() or target[:1].isspace() else " "
        whole = self.encode(prompt + space + target)
        if len(whole) > len(prompt_ids) and whole[: len(prompt_ids)] == prompt_ids:
            target_ids = whole[len(prompt_ids) :]
        else:
            target_ids = self._alone(prompt_ids, whole, space, target)
        read = _folded(self.decode([*prompt_ids, *target_ids]))
        if not target.strip() or not target_ids or not read.endswith(_folded(target)):
            empty = not target.strip() or not target_ids
            what = "no tokens" if empty else "characters that the tokenizer does not know"
            raise FactError(
                f"The target {target!r} has {what}.",
                remedy="Give a target that the model can write.",
                field="target",
            )
        return prompt_ids, target_ids

    def _alone(self, prompt_ids: list[int], whole: list[int], space: str, target: str) -> list[int]:
        # SentencePiece puts a space of its own in front of any text; byte-level tokenizers do not.
        wanted = self.decode(whole)
        choices = [self._encode(text, special=False)[0] for text in (space + target, target)]
        for ids in choices:
            if ids and self.decode([*prompt_ids, *ids]) == wanted:
                return ids
        return choices[0]

    def pad(
        self, rows: Sequence[Sequence[int]], side: Literal["left", "right"]
    ) -> tuple[Tensor, Tensor]:
        """Rows of ids as one batch.

        Returns:
            ids and mask (1 for tokens, 0 for padding), both [n, longest] int64 on the CPU.
        """
        width = max((len(row) for row in rows), default=0)
        ids = torch.full((len(rows), width), self.pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
            ids[i, place] = torch.tensor(row, dtype=torch.long)
            mask[i, place] = 1
        return ids, mask


def _folded(text: str) -> str:
    """Without spaces, accents and case, which normalising tokenizers change."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in plain if not c.isspace() and not unicodedata.combining(c))


def _covering(offsets: Sequence[tuple[int, int]], characters: Sequence[int]) -> list[int]:
    """The tokens that cover the first of `characters` that any token covers."""
    for character in characters:
        tokens = [i for i, (start, end) in enumerate(offsets) if start <= character < end]
        if tokens:
            return tokens
    return []
