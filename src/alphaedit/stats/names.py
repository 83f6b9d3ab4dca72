"""Where names end in running text, by capital letters.

A fact is stored under the last token of its subject (Meng et al. 2022), and most of what should
stay as it is stands there too: other facts, of other names. Of running text that is a small share
of the tokens, so that a second moment over all of them hardly sees those.
"""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W_][\w'\u2019-]*")
_JOINS = frozenset("of the and de da del la le van von der den di du bin ibn al".split())
"""Small words inside of names."""
_ENDS = frozenset('.!?:;\n"“”«»()[]*#|')
"""What a sentence, a title or a line begins behind."""


def ends_of_names(text: str) -> list[int]:
    """Index of the last character of each name in `text`, in order.

    A name is a run of words with capital letters, small joining words inside it included. One such
    word alone at the beginning of a sentence is none: it may be any word. Where writing knows no
    capital letters there are none.
    """
    words = list(_WORD.finditer(text))
    ends: list[int] = []
    at = 0
    while at < len(words):
        last = _last_of_name(text, words, at)
        if last is None:
            at += 1
            continue
        if last > at or not _begins_sentence(text, words[at].start()):
            ends.append(words[last].end() - 1)
        at = last + 1
    return ends


def _last_of_name(text: str, words: list[re.Match[str]], first: int) -> int | None:
    """Number of the last word of a name that begins with word `first`; None if none does."""
    if not words[first][0][0].isupper():
        return None
    last = first
    at = first + 1
    while at < len(words) and text[words[at - 1].end() : words[at].start()] == " ":
        if words[at][0][0].isupper():
            last = at
        elif words[at][0] not in _JOINS or at > last + 2:
            break
        at += 1
    return last


def _begins_sentence(text: str, start: int) -> bool:
    before = text[:start].rstrip(" ")
    return not before or before[-1] in _ENDS
