"""How alike two texts are: words they share in a row (BLEU), and what an encoder makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphaedit.core.errors import ModelError

ROWS = 32
MOST_TOKENS = 512


def has_bleu() -> bool:
    """Whether sacrebleu is installed."""
    return find_spec("sacrebleu") is not None


def bleu(text: str, reference: str) -> float:
    """BLEU of one text, 0 to 1: words as WMT splits them, up to four in a row, smoothed.

    By sacrebleu (Post 2018); only where `has_bleu`.
    """
    import sacrebleu

    return float(sacrebleu.sentence_bleu(text, [reference]).score) / 100


class TextEncoder:
    """A sentence encoder: the mean of a model's last hidden states, of length 1.

    Cosines of these of all-MiniLM-L6-v2 are what UnKE and AnyEdit report as BERTScore; with
    another encoder they are other numbers.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    @classmethod
    def load(cls, path: str | Path) -> TextEncoder:
        """An encoder in transformers' format, from a folder or by name.

        Raises:
            ModelError: there is none, or it cannot be read.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            model = AutoModel.from_pretrained(str(path), trust_remote_code=False).eval()
            tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"The encoder {str(path)!r} cannot be read: {str(error).splitlines()[0]}",
                remedy="Give the folder of a sentence encoder such as all-MiniLM-L6-v2, with "
                "config.json, weights and tokenizer.",
            ) from error
        if tokenizer.pad_token is None:
            raise ModelError(
                f"The tokenizer of {str(path)!r} has no padding: it is no sentence encoder's.",
                remedy="Give a sentence encoder such as all-MiniLM-L6-v2.",
            )
        return cls(model, tokenizer)

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors [n, d] float32 of length 1; of a text without tokens, 0.

        What is behind the first 512 tokens, or as many as the encoder reads, is not read.
        """
        limit = min(getattr(self.model.config, "max_position_embeddings", MOST_TOKENS), MOST_TOKENS)
        parts = []
        for at in range(0, len(texts), ROWS):
            read = self.tokenizer(
                list(texts[at : at + ROWS]),
                padding=True,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            )
            states = self.model(**read).last_hidden_state.float()
            mask = read["attention_mask"][..., None].to(states)
            parts.append((states * mask).sum(1) / mask.sum(1).clamp_min(1))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def alike(self, texts: Sequence[str], references: Sequence[str]) -> list[float]:
        """Cosines of texts and references, pair by pair."""
        cosines: list[float] = (self.embed(texts) * self.embed(references)).sum(1).tolist()
        return cosines
