"""Methods and plug-ins of other packages that are broken: named, left out, in nobody's way."""

import json
import sys
import warnings
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from alphaedit.cli.app import run
from alphaedit.core.errors import ConfigError, UnknownNameError
from alphaedit.errors import BrokenEntryPoint
from alphaedit.methods import plugin, registry

CODE = """
from alphaedit.methods.base import Method as Base
class Method(Base):
    def solve(self, problem): ...
FINE = Method("fine", "Fine", "none", "Works.")
class Other:
    name, title, paper, summary = "other", "Other", "none", "Is none."
    def solve(self, problem): ...
OTHER = Other()
NO_METHOD = 3
class HalfMethod:
    name = "half"
HALF = HalfMethod()
class Shy:
    def __getattr__(self, name):
        raise RuntimeError("not today")
SHY = Shy()
def __getattr__(name):
    raise SystemExit("usage: made_up")
"""
METHODS = {
    "broken": ("nothere:M", "ModuleNotFoundError"),
    "no-attribute": ("made_up:M", "SystemExit"),
    "no-method": ("made_up:NO_METHOD", "no text 'name'"),
    "half": ("made_up:HALF", "no text 'title'"),
    "shy": ("made_up:SHY", "not today"),
    "a-class": ("made_up:Method", "no text 'name'"),
    "other": ("made_up:OTHER", "no object of a class derived from"),
    "fine": ("made_up:FINE", ""),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `made-up` whose entry points are broken in all ways, but for one."""
    info = tmp_path / "made_up-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    lines = ["[alphaedit.methods]", *(f"{name} = {to}" for name, (to, _) in METHODS.items())]
    lines += ["[alphaedit.plugins]", "torn = nothere:P", "no-plugin = made_up:FINE"]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (tmp_path / "made_up.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert PathDistribution(info).entry_points
    yield
    sys.modules.pop("made_up", None)


@pytest.mark.usefixtures("package")
def test_broken_methods_are_left_out_and_named() -> None:
    # finding 18
    with pytest.warns(BrokenEntryPoint) as told:
        found = registry.methods()
    assert {"alphaedit", "memit", "fine"} <= set(found)
    assert not (set(METHODS) - {"fine"}) & set(found)
    said = [str(one.message) for one in told]
    assert len(said) == len(METHODS) - 1
    for name, (to, why) in METHODS.items():
        if name != "fine":
            (mine,) = [text for text in said if f"{name} = {to}" in text]
            assert "package made-up" in mine
            assert why in mine


@pytest.mark.usefixtures("package")
def test_a_broken_method_that_is_asked_for_says_why() -> None:
    # finding 18
    with pytest.raises(ConfigError, match=r"'broken'.*made-up.*nothere") as failed:
        registry.get_method("Broken")
    assert "made-up" in str(failed.value.remedy)
    with pytest.raises(ConfigError, match=r"'torn'.*made-up.*nothere"):
        plugin.make("torn:a=1")
    assert registry.get_method("fine").name == "fine"


@pytest.mark.usefixtures("package")
def test_own_methods_do_not_ask_other_packages() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.get_method("memit_history").name == "memit-history"
        assert plugin.make("sphere:strength=0.8").name == "sphere"
    with pytest.warns(BrokenEntryPoint), pytest.raises(UnknownNameError, match="memti"):
        registry.get_method("memti")


@pytest.mark.usefixtures("package")
def test_plugins_are_listed_without_the_broken_ones() -> None:
    with pytest.warns(BrokenEntryPoint) as told:
        found = plugin.plugins()
    assert "no-plugin = made_up:FINE of package made-up" in str(told[1].message)
    assert "project" in found
    assert not {"torn", "no-plugin", "fine"} & set(found)


@pytest.mark.usefixtures("package")
def test_the_command_line_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    # finding 18
    assert run(["methods", "--json"]) == 0
    captured = capsys.readouterr()
    names = [row["name"] for row in json.loads(captured.out)["methods"]]
    assert "fine" in names
    assert "alphaedit" in names
    assert captured.err.count("Warning: A method is left out") == len(METHODS) - 1
    assert "bug" not in captured.err
    assert run(["eval", "m", "world", "--method", "broken"]) == 1
    assert "made-up" in capsys.readouterr().err
    assert run(["doctor", "--json"]) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert sum("package made-up" in p["what"] for p in problems) == len(METHODS) + 1
