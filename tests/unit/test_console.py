"""Consoles: nothing of others acts on the terminal, encodings are met, narrow tables are lists."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from alphaedit.cli import console as consoles
from alphaedit.cli.console import SafeConsole
from alphaedit.cli.output import print_json, to_json


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """What is written to standard output, which is a terminal of many colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    return redirect(monkeypatch, "utf-8")


def redirect(monkeypatch: pytest.MonkeyPatch, encoding: str) -> io.BytesIO:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding, write_through=True)
    monkeypatch.setattr("sys.stdout", stream)
    return raw


def of_words(width: int, **columns: str) -> str:
    """A table of one row, as it is printed so wide."""
    table = Table(title="A title", title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    table.add_row(*columns.values())
    out = io.StringIO()
    console = SafeConsole(width=width)
    console.file = out
    console.print(table)
    return out.getvalue()


def test_control_characters_of_others_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    # finding 13: also where a command hands text to rich as it is
    printed = terminal(monkeypatch)
    evil = "\x1b]0;title\x07\x1b[2J\u202e\x9b"
    table = Table(evil, title=evil)
    table.add_row(Text(evil))
    table.add_row(evil)
    console = SafeConsole(width=100)
    for shown in (evil, Text(evil), table):
        console.print(shown, style="bold red")
    text = printed.getvalue().decode()
    assert text.count("\\x1b[2J") == 6
    assert "\x1b[1;31m" in text, "our own colours stay"
    for piece in ("\x1b]0;", "\x1b[2J", "\x07", "\u202e", "\x9b"):
        assert piece not in text


def test_text_of_others_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = terminal(monkeypatch)
    console = SafeConsole(width=100)
    console.print("[bold]a[/bold] [/] :smile: [link=https://x.org]y[/link]")
    table = Table("[red]head[/]")
    table.add_row("[/nope]")
    console.print(table)
    text = printed.getvalue().decode()
    for piece in ("[bold]a[/bold] [/] :smile: [link=https://x.org]y", "[red]head[/]", "[/nope]"):
        assert piece in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_encodings_without_our_signs(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # finding 19
    raw = redirect(monkeypatch, encoding)
    console = SafeConsole(width=40)
    table = Table("é → 東")
    table.add_row(Text("x → …"))
    console.print(table)
    console.print("a → b", style="bold")
    print_json({"a": "東 → \ud800"})
    text = raw.getvalue().decode(encoding)
    assert "x -> ..." in text
    assert "a -> b" in text
    assert "+--" in text
    assert '{"a": "\\u6771 \\u2192 \\ud800"}' in text


def test_json_of_control_characters() -> None:
    assert to_json({"a": "\x1b\x9b\u202e\n"}) == '{"a": "\\u001b\\u009b\\u202e\\n"}'


@pytest.mark.parametrize("width", [20, 30, 40, 59])
def test_narrow_tables_are_lists(width: int) -> None:
    # D of the report: at 20 columns tables were frames without text
    prompt = "The mother tongue of Danielle Darrieux is"
    text = of_words(width, prompt=prompt, wanted="English", before="French", after="English")
    assert " ".join(text.split()) == (
        f"A title prompt: {prompt} wanted: English before: French after: English"
    )
    assert max(map(len, text.splitlines())) <= width


def test_wide_tables_are_tables() -> None:
    assert "│" in of_words(100, prompt="The mother tongue of Danielle Darrieux is", wanted="x")
    assert "│" in of_words(20, a="1", b="2"), "what fits stays a table"


def test_many_columns_are_a_list_at_any_width() -> None:
    columns = {f"column {i}": "some words" for i in range(9)}
    assert "│" not in of_words(80, **columns)
    assert "column 8: some words" in of_words(80, **columns)
    assert "│" in of_words(200, **columns)


def test_rows_of_a_list_cannot_be_forged() -> None:
    for evil in ("a\nwanted: Rome and much more words", f"{'x ' * 13}wanted: Rome"):
        text = of_words(30, prompt=evil, wanted="Paris")
        found = [line for line in text.splitlines() if line.startswith("wanted")]
        assert found == ["wanted: Paris"], text


def test_standard_error_that_is_full_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    SafeConsole(stderr=True).print("a note")
    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(OSError, match="No space"):
        SafeConsole().print("a result")


def test_commands_make_no_other_console() -> None:
    makers = [
        file.name
        for file in Path(consoles.__file__).parent.glob("*.py")
        if re.search(r"\bConsole\(", file.read_text(encoding="utf-8"))
    ]
    assert makers == ["command.py"], "it asks for the width only"
