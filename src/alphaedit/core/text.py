"""Text of others, made fit to be shown: nothing in it moves a cursor, hides or forges a line."""

from __future__ import annotations

import re

_RISKY = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, but for tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"  # direction, unseen
    "\ud800-\udfff\U000e0000-\U000e007f]"  # lone surrogates, tags
)
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_PLAIN = {
    "\u2192": "->",
    "\u2190": "<-",
    "\u2026": "...",
    "\u2013": "-",
    "\u2014": "-",
    "\u2022": "*",
    "\u00d7": "x",
    "\u00b7": "-",
    "\u00a0": " ",
    "\u2018": "'",
    "\u2019": "'",
    "\u201c": '"',
    "\u201d": '"',
    **{chr(code): "+" for code in range(0x2500, 0x2580)},  # corners of boxes
    **dict.fromkeys("\u2500\u2501\u2550\u2574\u2578\u257a", "-"),
    **dict.fromkeys("\u2502\u2503\u2551", "|"),
}
"""What stands for signs of our own where an encoding does not have them."""


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if 0xDC80 <= code <= 0xDCFF:  # a byte of an argument or file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"


def visible(text: str) -> str:
    r"""`text` with control characters, marks of direction and lone surrogates as `\x1b`.

    Newlines and tabs stay.
    """
    return _RISKY.sub(_escape, text)


def one_line(text: object) -> str:
    r"""`visible` text in one line: a newline is shown as `\n`."""
    return re.sub("[\n\t]", _escape, visible(str(text)))


def json_visible(json: str) -> str:
    r"""JSON with the same characters as JSON's own escapes, `\u001b`; it means what it meant."""

    def escape(match: re.Match[str]) -> str:
        return "".join(f"\\u{int.from_bytes(pair, 'big'):04x}" for pair in _pairs(match[0]))

    return _RISKY.sub(escape, json)


def _pairs(char: str) -> list[bytes]:
    data = char.encode("utf-16-be", "surrogatepass")
    return [data[at : at + 2] for at in range(0, len(data), 2)]


def in_encoding(text: str, encoding: str | None) -> str:
    r"""`text` as `encoding` can say it: "→" as "->", what has no likeness as `\u6771`.

    Args:
        encoding: of a stream; None and unknown names count as UTF-8, which has everything but
            lone surrogates.
    """
    try:
        text.encode(encoding or "utf-8")
        return text
    except UnicodeEncodeError:
        return "".join(_in_encoding(char, encoding or "utf-8") for char in text)
    except LookupError:
        return text


def _in_encoding(char: str, encoding: str) -> str:
    try:
        char.encode(encoding)
        return char
    except UnicodeEncodeError:
        return _PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode()


ANSWER_WORDS = 4
"""Words of an answer that are shown."""


def first_answer(text: str, words: int = ANSWER_WORDS) -> str:
    """The answer at the start of a continuation: up to a stop, at most `words` words."""
    line = text.strip().split("\n")[0]
    for stop in (". ", ", ", "; ", "? ", "! "):
        line = line.split(stop)[0]
    return " ".join(line.split()[:words]).rstrip(".,;?!")
