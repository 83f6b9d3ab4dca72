"""The HTML report: self-contained, complete, and safe with hostile text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alphaedit.bench.intervals import Rate
from alphaedit.core.edit import Answer
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.report.figures import curve_panel, save_spectra, svg
from alphaedit.report.page import Asked, Changed, Curve, LayerSpectrum, Report, render, write

HOSTILE = "<script>alert('x')</script>\"'&{{ 7 * 7 }}"
VOID = {"meta", "link", "br", "img", "hr", "input"}


def curve(method: str, level: float) -> Curve:
    rate = {"value": level, "low": level - 2, "high": level + 1, "n": 50}
    rows = tuple({"edits": n, "efficacy": rate, "kept": rate} for n in (10, 20, 30))
    return Curve(method, rows)


def full(text: str = "plain") -> Report:
    rate = Rate(97.25, 91.5, 99.125, 61)
    return Report(
        title=f"title {text}",
        subtitle=f"subtitle {text}",
        command=f"alphaedit edit '{text}'",
        changed=[
            Changed(
                f"prompt {text}",
                "English",
                Answer(f" French. {text}", 0.0001),
                Answer(" English. And", 0.987),
            )
        ],
        rephrased=[Asked(f"other words {text}", "French", "English")],
        unrelated=[Asked(f"left alone {text}", "Florence", "Florence", f"Florence {text}")],
        metrics={"unedited": {"efficacy": rate, "kept": None}, f"m {text}": {"efficacy": rate}},
        curves=[curve("AlphaEdit", 98.0), curve(f"MEMIT {text}", 60.0)],
        spectra=[LayerSpectrum(3, [10.0, 1.0, 0.01, 1e-9], 2, 0.5, 0.00123, 0.0045)],
        hyperparameters={"layers": [3, 4], "clamp": 0.75, text: text},
        seconds={"targets": 1.25},
        versions={"torch": "9.9.9"},
    )


class Checker(HTMLParser):
    """Collects addresses, scripts, ids, and tags that do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert checker.wrong == []
    return checker


def test_page_is_self_contained() -> None:
    page = render(full())
    checker = checked(page)
    assert all(address.startswith("#") for address in checker.addresses)
    assert set(a[1:] for a in checker.addresses) <= set(checker.ids)
    assert "http" not in page
    assert "@import" not in page
    assert not {"script", "link", "iframe", "img"} & set(checker.tags)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(checker.ids)
    assert len(checker.ids) == len(set(checker.ids))
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_page_holds_the_values() -> None:
    page = render(full())
    for text in (
        "prompt plain",
        "French",
        "&lt; 0.1 %",
        "98.7 %",
        "97.2 %",
        "91.5 to 99.1",
        "n = 61",
        "other words plain",
        "left alone plain",
        "null space 2 of 4",
        "0.12 %",
        "0.0045",
        "alphaedit edit",
        "3, 4",
        "0.75",
        "1.25",
        "9.9.9",
        "MEMIT plain",
        "efficacy (%)",
    ):
        assert text in page, text
    assert page.count("<svg") == 3


def test_hostile_text_is_escaped() -> None:
    page = render(full(HOSTILE))
    checker = checked(page)
    assert "script" not in checker.tags
    assert "<script" not in page
    assert "49" not in re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "&lt;script&gt;" in page


def test_empty_parts_are_left_out() -> None:
    page = render(Report("t", "s", "alphaedit eval"))
    checked(page)
    for heading in ("What was changed", "Metrics", "Spectrum", "Over sequential"):
        assert heading not in page


def test_long_lists_unfold() -> None:
    row = full().changed[0]
    page = render(Report("t", "s", "c", changed=[row] * 70))
    assert "48 more</summary>" in page
    assert "And 10 more" in page


def test_colours_follow_the_page() -> None:
    rows = {c.method: c.rows for c in (curve("a", 90), curve("b", 50))}
    picture = svg(curve_panel("kept", rows, 95.0, lowest=48), "k", "kept")
    assert "var(--series-1)" in picture
    assert "var(--series-2)" in picture
    assert not re.search(r"(?:stroke|fill): ?#(?!fff)", picture)


def test_write_is_all_or_nothing(tmp_path: Path) -> None:
    path = write(full(), tmp_path / "deep" / "report.html")
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!doctype html>")
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="Cannot write"):
        write(full(), tmp_path / "file" / "report.html")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_save_spectra(tmp_path: Path) -> None:
    spectra = [(1, [1.0, 0.1, 0.01], 1), (2, [2.0, 0.2, 0.0], 2)]
    for ending in ("svg", "png"):
        save_spectra(spectra, tmp_path / f"s.{ending}")
        assert (tmp_path / f"s.{ending}").stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"\.txt"):
        save_spectra(spectra, tmp_path / "s.txt")
