"""Rules of the house that no linter knows."""

import ast
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_LINES = 400
MAX_FUNCTION = 60
"""Lines of a function from `def` to its end; options of commands stand in classes of their own."""
BANNED_CALLS = {
    "torch.manual_seed": "pass a torch.Generator",
    "torch.cuda.manual_seed_all": "pass a torch.Generator",
    "np.random.seed": "pass a numpy Generator",
    "random.seed": "pass a random.Random",
    "set_seed": "pass a torch.Generator",
}
VAGUE = {"found", "held", "kept", "one", "said"}
"""No names of variables, arguments or functions: say what the value is."""
PUBLIC = {
    ("core/errors.py", "kept"),
    ("editor/versioned.py", "kept"),
    ("ledger/ledger.py", "kept"),
    ("bench/run.py", "kept"),
}
"""Arguments that users give by name."""


def violations(code: str, may_print: bool = False) -> Iterator[str]:
    tree = ast.parse(code)
    compared: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            # Asking which device a tensor lies on is fine; choosing one is not.
            compared.update([node.left, *node.comparators])
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in BANNED_CALLS:
                yield f"{node.lineno}: {name}(); {BANNED_CALLS[name]}"
            elif name == "print" and not may_print:
                yield f"{node.lineno}: print() outside cli"
            elif name.endswith(".cuda"):
                yield f"{node.lineno}: {name}(); use .to(device)"
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in compared:
            value = node.value
            if isinstance(value, str) and (value == "cuda" or value.startswith("cuda:")):
                yield f"{node.lineno}: hard-coded device {value!r}"


def vague(code: str) -> Iterator[tuple[str, str]]:
    """Line and name of each variable, argument and function that is called by a vague word.

    Fields of classes are left out: what is saved or measured has names of its own.
    """
    tree = ast.parse(code)
    fields = {
        statement.target
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields:
            name = node.id
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = node.name
        if name in VAGUE:
            yield f"{node.lineno}: {name}", name


def functions(code: str) -> Iterator[tuple[str, int]]:
    """Name and lines of each function, without its decorators."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_sources_are_found() -> None:
    assert ROOT / "src/alphaedit/core/fact.py" in SOURCES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_source_file(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    lines = code.count("\n")
    assert lines <= MAX_LINES, f"{lines} lines: what has this file become?"
    may_print = path.is_relative_to(ROOT / "src/alphaedit/cli")
    assert list(violations(code, may_print)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_functions_are_short(path: Path) -> None:
    for name, lines in functions(path.read_text(encoding="utf-8")):
        assert lines <= MAX_FUNCTION, f"{name} has {lines} lines: what has it become?"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_names_say_what_they_hold(path: Path) -> None:
    place = path.relative_to(ROOT / "src/alphaedit").as_posix()
    names = vague(path.read_text(encoding="utf-8"))
    assert [line for line, name in names if (place, name) not in PUBLIC] == []


def test_rules_catch_what_they_name() -> None:
    code = 'x.cuda()\ntorch.manual_seed(0)\nprint(1)\nd = "cuda:0"\nok = d.type == "cuda"\n'
    assert [line.partition(":")[0] for line in violations(code)] == ["1", "2", "3", "4"]
    assert list(violations("print(1)", may_print=True)) == []
    code = "class A:\n  kept: int\n  def f(self, one):\n    for held in one:\n      x = held\n"
    code += "key = lambda said: 1\nwith f() as found:\n  pass\ndef held():\n  pass\n"
    names = ["3: one", "4: held", "6: said", "7: found", "9: held"]
    assert sorted(line for line, _ in vague(code)) == names


def test_links_in_the_documentation() -> None:
    check = runpy.run_path(str(ROOT / "docs" / "check_links.py"))
    broken = {page: check["broken_links"](page) for page in check["pages"]()}
    assert not any(broken.values()), broken


def test_link_checker(tmp_path: Path) -> None:
    check = runpy.run_path(str(ROOT / "docs" / "check_links.py"))
    page = tmp_path / "a.md"
    page.write_text(
        "[self](a.md#top) [web](https://x.org) [top](#top) `[code](no.md)`\n"
        '![picture](b.png) <img alt="c" src="c.png">\n```\n[code](no.md)\n```\n[d](<d e.md>)'
    )
    assert check["broken_links"](page) == ["b.png", "c.png", "d e.md"]


@pytest.mark.parametrize("name", ["api", "errors"])
def test_pages_are_made_from_the_code(name: str) -> None:
    made = runpy.run_path(str(ROOT / f"docs/update_{name}.py"))["page"]()
    there = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    assert there == made, f"run docs/update_{name}.py"
