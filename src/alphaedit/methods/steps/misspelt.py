"""Which of many texts is a given one, but for a few letters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alphaedit.core.fact_text import canonical

BINS = 64


def distance(word: str, other: str) -> int:
    """Levenshtein's distance: fewest letters put in, taken out or changed.

    By words of bits, as many as `word` has letters, a step for each letter of `other` (Hyyro 2003).
    """
    if not word:
        return len(other)
    places: dict[str, int] = {}
    for at, letter in enumerate(word):
        places[letter] = places.get(letter, 0) | 1 << at
    full, last = (1 << len(word)) - 1, 1 << (len(word) - 1)
    more, less, count = full, 0, len(word)
    for letter in other:
        same = places.get(letter, 0)
        vertical = same | less
        horizontal = (((same & more) + more) ^ more) | same
        up = less | ~(horizontal | more) & full
        down = more & horizontal
        count += bool(up & last) - bool(down & last)
        up, down = (up << 1 | 1) & full, down << 1 & full
        more = down | ~(vertical | up) & full
        less = up & vertical
    return count


class Misspelt:
    """Texts, to be found by ones that differ in a small share of their letters.

    White space, case and ways of writing letters in Unicode do not count.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [_folded(text) for text in texts]
        self._letters = _letters(self._texts)
        self._lengths = self._letters.sum(1)

    def nearest(self, text: str, share: float) -> int | None:
        """Number of the text that differs least; the later of two.

        Args:
            text: what is asked.
            share: most letters that may differ, as a share of the longer one's.
        """
        if not self._texts:
            return None
        asked = _folded(text)
        # No text is nearer than the letters that it has more of, or fewer.
        apart = _letters([asked]) - self._letters
        fewest = torch.maximum(apart.clamp_min(0).sum(1), (-apart).clamp_min(0).sum(1))
        least = fewest.double() / self._lengths.clamp_min(max(len(asked), 1))
        order = least.argsort()
        best, nearest = share, None
        for number in order[least[order] <= share].tolist():
            if nearest is not None and float(least[number]) > best:
                break
            other = self._texts[number]
            differs = distance(asked, other) / max(len(asked), len(other), 1)
            if differs < best or (differs == best and (nearest is None or number > nearest)):
                best, nearest = differs, number
        return nearest


def _letters(texts: Sequence[str]) -> Tensor:
    """How often each letter occurs, by its code modulo `BINS`, [texts, BINS] int32."""
    counts = torch.zeros(len(texts), BINS, dtype=torch.int32)
    for row, text in enumerate(texts):
        bins = torch.tensor([ord(letter) % BINS for letter in text], dtype=torch.int64)
        counts[row] = torch.bincount(bins, minlength=BINS)
    return counts


def _folded(text: str) -> str:
    return canonical(text).casefold()
