"""Examples on the pages of methods that change weights run, and their facts hold."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from alphaedit.cli.app import run

FOLDER = Path(__file__).parents[2] / "docs" / "methods"
LANGUAGES = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FAILS = {"ultraedit"}
"""Pages that say that their fact does not hold."""


def blocks(page: Path, language: str) -> list[str]:
    found = LANGUAGES.findall(page.read_text(encoding="utf-8"))
    return [block for kind, block in found if kind == language]


PAGES = sorted(
    page
    for page in FOLDER.glob("*.md")
    if any("bundled-small" in b for b in blocks(page, "python"))
)


def test_pages_are_found() -> None:
    assert {page.stem for page in PAGES} >= {"alphaedit", "memit", "fine-tuning", "plugins"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python(page: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", cache)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)
    assert bool(names["edit"].fails) == (page.stem in FAILS)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands(page: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHAEDIT_CACHE", cache)
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(page, "sh")
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    (line,) = [line for line in lines if line.startswith("alphaedit edit bundled-small")]
    code = run([*shlex.split(line)[1:], "--strict"])
    assert bool(code) == (page.stem in FAILS)
