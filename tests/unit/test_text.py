"""Text of others: what acts on a terminal is shown, JSON means what it meant, encodings are met."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphaedit.core.text import in_encoding, json_visible, one_line, visible

RISKY = "\x1b[31m\x07\b\r\x9b\u202e\u2066\u200b\ufeff\x7f\u2028\ud800\U000e0041"


def test_control_characters_are_shown() -> None:
    # finding 13
    assert visible("a\x1b[2Kb\r\u202e\ud800") == "a\\x1b[2Kb\\r\\u202e\\ud800"
    assert visible("line\nline\ttab") == "line\nline\ttab"
    assert one_line("line\nline\ttab") == "line\\nline\\ttab"
    assert visible("\udcff") == "\\xff", "a byte of a file name, as the name has it"
    assert not set(visible(RISKY)) & set(RISKY.replace("[31m", ""))


def test_words_stay_as_they_are() -> None:
    for text in ("São Paulo, 東京, Москва → “x”", "👩\u200d👩\u200d👧 नमस्ते", "שלום مرحبا"):
        assert visible(text) == one_line(text) == text


@given(st.text())
def test_json_means_the_same(text: str) -> None:
    shown = json_visible(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(shown) == {"a": text}
    assert visible(shown) == shown


def test_json_takes_lone_surrogates() -> None:
    assert json_visible(json.dumps(["\ud800", "\U000e0041"], ensure_ascii=False)) == (
        '["\\ud800", "\\udb40\\udc41"]'
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", "a -> \\xe9... \\u6771 +-|"),
        ("latin-1", "a -> é... \\u6771 +-|"),
        ("utf-8", "a → é… 東 ┌─│"),
        (None, "a → é… 東 ┌─│"),
        ("no-such-encoding", "a → é… 東 ┌─│"),
    ],
)
def test_encodings(encoding: str | None, shown: str) -> None:
    # finding 19
    assert in_encoding("a → é… 東 ┌─│", encoding) == shown


@given(st.text(), st.sampled_from(["ascii", "latin-1", "cp1252", "utf-8", "utf-16"]))
def test_every_text_is_encoded(text: str, encoding: str) -> None:
    in_encoding(text, encoding).encode(encoding)
