"""Which of many subjects a text names, without looking at each of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Letters of scripts that put no spaces between words: Thai to Khmer, Japanese, Chinese."""
_WORD = re.compile(rf"[^\W{_UNSPACED}]+|[{_UNSPACED}]")
_SPACED = re.compile(rf"[^\W{_UNSPACED}]")


class Subjects:
    """Subjects by their first word (or letter, where words have no spaces between them).

    A subject is named where it stands in a text as whole words, in upper or lower case.
    """

    def __init__(self, subjects: Sequence[str]) -> None:
        self._numbers: dict[str, list[int]] = {}
        for number, subject in enumerate(subjects):
            self._numbers.setdefault(_folded(subject), []).append(number)
        self._leads: dict[str, list[tuple[str, int]]] = {}
        for subject in self._numbers:
            word = _WORD.search(subject)
            if word:
                self._leads.setdefault(word.group(), []).append((subject, word.start()))
        self._wordless = [subject for subject in self._numbers if not _WORD.search(subject)]

    def named_in(self, text: str) -> list[int]:
        """Numbers of the subjects that are named in `text`, in their order."""
        folded = _folded(text)
        named = {subject for subject in self._wordless if subject in folded}
        for word in _WORD.finditer(folded):
            for subject, lead in self._leads.get(word.group(), ()):
                start = word.start() - lead
                if start >= 0 and folded.startswith(subject, start):
                    end = start + len(subject)
                    if not (_SPACED.match(folded, end) and _SPACED.match(folded, end - 1)):
                        named.add(subject)
        return sorted(number for subject in named for number in self._numbers[subject])


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).lower()
