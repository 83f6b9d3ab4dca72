"""Commands on the pages of the documentation exist, with the options and settings they name."""

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from alphaedit.cli.app import app
from alphaedit.editor.standard import before_a_model
from alphaedit.methods.plugin import make, plugins
from alphaedit.methods.registry import get_method, methods

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
PAGES = [page for page in PAGES if page.name not in ("api.md", "errors.md")]
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(alphaedit [^`]+)`")
ENDS = {"|", "||", "&&", ";", ">", ">>", "<", "2>", "&"}
SETTINGS = ("edit", "eval", "plan", "tune")
OUTSIDE = {"my-memit", "half-memit", "unit-gradient"}
"""Methods that pages have the reader write."""
COMMANDS = typer.main.get_command(app)


def words_of(line: str) -> list[str]:
    """The words of the call of alphaedit in a line of shell, if there is one."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(lexer)
    if "alphaedit" not in words:
        return []
    start = words.index("alphaedit")
    before = words[start - 1] if start else ""
    if start and before not in {"-m", "$", *ENDS} and "=" not in before:
        return []
    end = next((i for i, word in enumerate(words) if i > start and word in ENDS), len(words))
    return words[start + 1 : end]


def calls(text: str) -> Iterator[list[str]]:
    """The words of each call in blocks of shell."""
    for language, block in BLOCK.findall(text):
        if language not in ("", "sh", "bash", "console"):
            continue
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if "alphaedit" in line and not line.lstrip().startswith(("{", '"', "from ", "import ")):
                words = words_of(line)
                if words:
                    yield words


def command_of(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that is called, its name, and what follows."""
    command, name, rest = COMMANDS, "alphaedit", list(words)
    while hasattr(command, "commands"):
        assert rest, f"alphaedit {shlex.join(words)}: no command"
        name = rest.pop(0)
        if name.startswith("-"):
            return command, "alphaedit", [name, *rest]
        deeper = command.commands.get(name)
        assert deeper is not None, f"there is no command {name!r}"
        command = deeper
    return command, name, rest


def check_call(words: list[str]) -> None:
    """Parse a call as the command line does, without running it."""
    command, name, rest = command_of(words)
    if {"--help", "-h", "--version", "--install-completion"} & set(rest):
        return
    context = command.make_context(name, rest)
    given = context.params
    method = before_a_model(given.get("method") or "alphaedit")
    if name not in SETTINGS or method in OUTSIDE:
        return
    settings = get_method(method).config.model_fields
    for item in given["settings"] or ():
        assert item.partition("=")[0] in settings, f"{method} has no setting {item!r}"
    for spec in given.get("plugins") or ():
        make(spec)


def check_inline(words: list[str]) -> None:
    """A call that a sentence names: its command and options exist."""
    command, _, rest = command_of(words)
    known = {name for parameter in command.params for name in parameter.opts}
    known |= {name for parameter in command.params for name in parameter.secondary_opts}
    for word in rest:
        if word.startswith("--") and word != "--":
            assert word.partition("=")[0] in known | {"--help", "--json", "--debug"}, word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_parse(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = []
    for words in calls(text):
        try:
            check_call(words)
        except Exception as error:
            if re.search(r"(file|path|directory) '.*' does not exist", str(error)):
                continue  # the reader has it
            wrong.append(f"alphaedit {shlex.join(words)}: {error}")
    for call in INLINE.findall(BLOCK.sub("", text)):
        try:
            check_inline(call.replace("...", "x").split()[1:])
        except AssertionError as error:
            wrong.append(f"{call}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_python(page: Path) -> None:
    for language, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(textwrap.dedent(block))


def test_every_method_and_plugin_has_its_page() -> None:
    table = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    pages = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("docs/methods/*.md")}
    heads = {path.stem: text[:400] for path, text in pages.items()}
    own = [
        name
        for name in methods()
        if find_spec(f"alphaedit.methods.zoo.{name.replace('-', '_')}") is not None
    ]
    assert len(own) > 30
    missing = [
        name
        for name in own
        if f"`{name}`" not in table
        or (name not in heads and not any(f"`--method {name}`" in text for text in heads.values()))
    ]
    assert missing == []
    of_plugins = pages[ROOT / "docs" / "methods" / "plugins.md"]
    assert [name for name in plugins() if f"[`{name}`](#" not in of_plugins] == []
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [path.name for path in pages if f"methods/{path.name}" not in site] == []


def test_what_is_wrong_is_told() -> None:
    assert list(calls("```sh\nls; alphaedit edit m f.jsonl \\\n    -o x | cat # no\n```")) == [
        ["edit", "m", "f.jsonl", "-o", "x"]
    ]
    assert sum(bool(list(calls(page.read_text("utf-8")))) for page in PAGES) > 10
    for words, said in (
        ("edti m f", "no command 'edti'"),
        ("edit m f --metod rome", "metod"),
        ("edit m f --set clampp=3", "clampp"),
        ("edit m f --method ft --set bound=3", "bound"),
        ("edit m f --plugin spere", "spere"),
        ("edit m f --batch-size x", "valid integer"),
    ):
        with pytest.raises(Exception, match=said):
            check_call(words.split())
    with pytest.raises(AssertionError, match="--metod"):
        check_inline(["edit", "--metod"])
