"""Texts of a fact: what they may hold, and the place for the subject in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence, Set

from alphaedit.core.errors import FactError, SubjectError
from alphaedit.core.parsing import Unread

SLOT = "{}"
LONGEST = 100_000
"""Characters of a text; the longest contexts of today hold some ten times as many."""

_KEPT = frozenset("\t\n\r")
_INVISIBLE = frozenset({"Cf", "Zs", "Zl", "Zp", "Cc"})
# Letters, marks and signs that show nothing: Hangul fillers, variation selectors, Braille's blank.
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}


def as_text(name: str, value: object) -> str:
    """`value`, if it is a text that can be stored.

    Raises:
        FactError: it is none, or holds half of a character; `name` is its field.
    """
    if not isinstance(value, str):
        raise FactError(
            f"Field {name!r} holds {kind_of(value)}, not text.",
            remedy=_text_remedy(name, value),
            field=name,
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise FactError(
            f"Field {name!r} holds half of a character (a lone surrogate): {short(value)}.",
            remedy="Write the character itself, in UTF-8.",
            field=name,
        ) from None
    return value


def _text_remedy(name: str, value: object) -> str:
    if value is None or isinstance(value, (Mapping, bytes)):
        return "Give a text."
    if isinstance(value, (Sequence, Set)):
        return f"A fact has one {name}: write a fact for each, or give one text."
    return "Put quotes around it."


def check_readable(name: str, text: str) -> None:
    """Refuse a text that no prompt or answer can be.

    Raises:
        FactError: it is longer than `LONGEST`, holds control characters other than tabs and line
            ends, or nothing but characters that cannot be seen; `name` is its field.
    """
    if len(text) > LONGEST:
        raise FactError(
            f"Field {name!r} has {len(text):,} characters; at most {LONGEST:,} are taken.",
            remedy="Shorten it.",
            field=name,
        )
    bad = None if text.isprintable() else next(filter(_controls, text), None)
    if bad is not None:
        raise FactError(
            f"Field {name!r} holds the control character U+{ord(bad):04X}: {short(text)}.",
            remedy="Remove it.",
            field=name,
        )
    if not any(_is_seen(c) for c in text):
        raise FactError(
            f"Field {name!r} holds nothing that can be seen: {short(ascii(text), quoted=False)}.",
            remedy="Give a text with letters, digits or signs.",
            field=name,
        )


def _controls(character: str) -> bool:
    return (character < " " or character == "\x7f") and character not in _KEPT


def _is_seen(character: str) -> bool:
    return character not in _BLANK and unicodedata.category(character) not in _INVISIBLE


def with_subject(name: str, text: str, subject: str) -> str:
    """`text` with the subject in the place of ``{}``, if it has one.

    Raises:
        SubjectError: it has several places; `name` is its field.
    """
    parts = _around(text, subject)
    count = sum(part.count(SLOT) for part in parts)
    if count > 1:
        raise SubjectError(
            f"Field {name!r} has {count} places for the subject in {short(text)}.",
            remedy="Leave one '{}' in it.",
            field=name,
        )
    return subject.join(part.replace(SLOT, subject) for part in parts) if count else text


def without_subject(name: str, text: str, subject: str) -> str:
    """`text`, which is about another subject and has no place for this one.

    Raises:
        FactError: it has one; `name` is its field.
    """
    if any(SLOT in part for part in _around(text, subject)):
        raise FactError(
            f"Field {name!r} has a place for the subject: {short(text)}. Prompts there are about "
            "other subjects.",
            remedy="Write another subject in place of '{}'.",
            field=name,
        )
    return text


def _around(text: str, subject: str) -> list[str]:
    """What stands around the subject where it has braces of its own, which are no place for it."""
    return text.split(subject) if SLOT in subject else [text]


def kind_of(value: object) -> str:
    """What a value is, for messages."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"a truth value ({value})"
    if isinstance(value, Unread):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 400:
        return "a number of more than 120 digits"
    if isinstance(value, int | float):
        return f"a number ({value})"
    if isinstance(value, str):
        return f"text ({short(value)})"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, bytes):
        return "bytes"
    return "a list" if isinstance(value, Sequence) else f"a {type(value).__name__}"


def short(text: str, most: int = 80, *, quoted: bool = True) -> str:
    """`text` for messages: in quotes, and cut if it is long."""
    cut = text if len(text) <= most else f"{text[: most - 3]}..."
    return repr(cut) if quoted else cut


def missing_remedy(prompt: str, subject: str) -> str:
    """What to do about a prompt without its subject."""
    if subject.casefold() in prompt.casefold():
        return "It is there in other case: write both the same way, or put '{}' in its place."
    if canonical(subject) in canonical(prompt):
        return "It is there with other spaces or accents encoded otherwise: copy one to the other."
    return "Put '{}' in its place, or write it as the prompt does."


def canonical(text: str) -> str:
    """A text without differences that do not matter: white space and Unicode's ways of writing."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def says(text: str, target: str) -> bool:
    """Whether a continuation begins with `target`, as a whole word."""
    continuation, wanted = canonical(text), canonical(target)
    rest = continuation[len(wanted) :]
    return continuation.startswith(wanted) and not (wanted[-1:].isalnum() and rest[:1].isalnum())
