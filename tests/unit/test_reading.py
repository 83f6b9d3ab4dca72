"""Files of others: what is no file, too large or no text is refused at once, with a remedy."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz import in_time
from tests.tiny import tiny_model

from alphaedit.bench.ability import published_tasks
from alphaedit.bench.datasets.registry import load
from alphaedit.bench.experiments import spec
from alphaedit.core import reading
from alphaedit.core.errors import AlphaEditError, ConfigError, DataError, FactError, StatsError
from alphaedit.core.fact import load_facts
from alphaedit.core.reading import check_text, decode, read_text
from alphaedit.methods.presets import read_preset
from alphaedit.methods.steps.graph import load_graph
from alphaedit.model.handle import ModelHandle
from alphaedit.stats.corpus import check_corpus, open_corpus

FACT = b'{"prompt": "The capital of {} is", "subject": "France", "target": "Lyon"}\n'
Reader = Callable[[Path], Any]


def corpus(path: Path) -> list[str]:
    handle = ModelHandle.load(*tiny_model("gpt2"))
    return list(islice(open_corpus(str(path), handle).texts(), 3))


def task(path: Path) -> Any:
    return published_tasks(path.parent, [path.name.removesuffix(".json")])


READERS: dict[str, tuple[Reader, str, type[AlphaEditError]]] = {
    "facts": (load_facts, "f.jsonl", FactError),
    "data": (load, "f.jsonl", DataError),
    "corpus": (corpus, "f.jsonl", StatsError),
    "checked corpus": (lambda path: check_corpus(str(path)), "f.txt", StatsError),
    "text": (corpus, "f.txt", StatsError),
    "task": (task, "sst2.json", DataError),
    "preset": (read_preset, "p.yaml", ConfigError),
    "experiment": (lambda path: spec.load(str(path)), "e.yaml", ConfigError),
    "graph": (lambda path: load_graph(str(path)), "g.tsv", DataError),
}
every_reader = pytest.mark.parametrize("name", READERS)


def refused(name: str, folder: Path, *parts: str) -> None:
    """The reader called `name` refuses its file in `folder`, within seconds."""
    read, file, error = READERS[name]
    with in_time(20), pytest.raises(error) as caught:
        read(folder / file)
    for part in (str(folder / file), *parts):
        assert part in str(caught.value)
    assert caught.value.remedy


@contextmanager
def listening(path: Path) -> Iterator[None]:
    """A socket at `path`, whose name may be longer than sockets take."""
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as held:
            held.bind(path.name)
            yield
    finally:
        os.chdir(here)


# finding 15
@every_reader
def test_what_never_ends_is_not_read(name: str, tmp_path: Path) -> None:
    file = tmp_path / READERS[name][1]
    os.mkfifo(file)
    refused(name, tmp_path, "is a pipe, not a regular file")
    file.unlink()
    file.symlink_to("/dev/zero")
    refused(name, tmp_path, "is a device, not a regular file")
    file.unlink()
    with listening(file):
        refused(name, tmp_path, "is a socket, not a regular file")


# finding 15
@every_reader
def test_a_limit_that_is_told(name: str, tmp_path: Path) -> None:
    with open(tmp_path / READERS[name][1], "wb") as file:
        file.truncate(reading.LIMIT + 1)
    limit = "8 MiB" if name in ("preset", "experiment") else "512 MiB"
    refused(name, tmp_path, f"at most {limit} are read", "Split it, or give a part of it")


def test_a_file_that_grows_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.txt"
    path.write_bytes(b"a" * 3 * reading.CHUNK)
    monkeypatch.setattr(reading, "check_regular", lambda *_, **__: None)
    assert len(read_text(path, error=DataError, limit=3 * reading.CHUNK)) == 3 * reading.CHUNK
    with pytest.raises(DataError, match="is larger; at most 2 MiB are read"):
        read_text(path, error=DataError, limit=2 * reading.CHUNK)
    path.unlink()
    os.mkfifo(path)  # took its place behind the check
    with in_time(20), pytest.raises(DataError, match="is a pipe"):
        read_text(path, error=DataError)


# finding 15
@pytest.mark.parametrize("ending", ["", ".txt", ".exe", ".jsonl.gz"])
def test_the_ending_is_looked_at_before_the_file_is_opened(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"facts{ending}"
    path.write_bytes(FACT)
    monkeypatch.setattr(reading, "_opened", None)
    with pytest.raises(FactError, match="unknown ending") as caught:
        load_facts(path)
    assert ".jsonl" in str(caught.value.remedy)


def test_facts_in_a_pipe_are_to_be_piped_in(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.jsonl")
    with pytest.raises(FactError) as caught:
        load_facts(tmp_path / "f.jsonl")
    assert "give -" in str(caught.value.remedy)


@every_reader
@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"\x1f\x8b\x08\x00\x00\x00", "a gzip archive"),
        (b"PK\x03\x04\x14\x00", "a zip archive"),
        (b"\xfd7zXZ\x00\x00", "an xz archive"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"one\ntwo\x00", "NUL byte"),
    ],
)
def test_archives_and_what_is_no_text(name: str, raw: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / READERS[name][1]).write_bytes(raw)
    refused(name, tmp_path, kind)


@every_reader
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    refused(name, tmp_path)
    (tmp_path / READERS[name][1]).symlink_to(tmp_path / READERS[name][1])
    refused(name, tmp_path)


@pytest.mark.parametrize("name", [name for name in READERS if name != "checked corpus"])
def test_other_encodings(name: str, tmp_path: Path) -> None:
    (tmp_path / READERS[name][1]).write_bytes("one\nZoë".encode("latin-1"))
    refused(name, tmp_path, "line 2", "0xeb", "UTF-8")


def test_the_byte_that_is_no_text_is_counted_with_the_mark() -> None:
    assert decode(b"\xef\xbb\xbfa", "f", error=DataError) == "a"
    with pytest.raises(DataError, match=r"^f, line 2: not UTF-8 \(byte 5 is 0xff\)"):
        decode(b"\xef\xbb\xbfa\n\xff", "f", error=DataError)


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path in ("a\x00.jsonl", "x" * 5000 + ".jsonl"):
        with pytest.raises(FactError, match="cannot be read"):
            load_facts(path)
        with pytest.raises(DataError, match="no file"):
            load(path)
    for value in (3, None, b"f.jsonl", ["f.jsonl"]):
        with pytest.raises(FactError, match="no path"):
            load_facts(value)  # type: ignore[arg-type]
    check_text(Path(__file__), error=DataError)


def test_a_corpus_of_half_characters_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"text": "a"}\n{"text": "\\ud800"}\n')
    refused("corpus", tmp_path, "line 2")
    (tmp_path / "f.jsonl").write_text('{"text": "a\u2028b"}\n[[[', encoding="utf-8")
    refused("corpus", tmp_path, "line 2")
    (tmp_path / "f.jsonl").write_text("[" * 100_000)
    refused("corpus", tmp_path, "line 1", "nested too deeply")


# finding 17
@pytest.mark.parametrize("name", ["preset", "experiment"])
@pytest.mark.parametrize("text", ["[" * 20_000, "a: 1\nb: 2\na: 3", "a: &a [*a]", "a: !!x y"])
def test_settings_in_yaml(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / READERS[name][1]).write_text(text)
    refused(name, tmp_path, "line ", "is not YAML")


# finding 17
@pytest.mark.parametrize("value", ["2024-13-45", "9" * 5000, "!!int x"])
def test_settings_that_are_no_numbers(value: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"all: {{layers: [1], clamp: {value}}}")
    refused("preset", tmp_path, "clamp")
    (tmp_path / "e.yaml").write_text(f"name: {value}")
    refused("experiment", tmp_path, "name: Input should be a valid string")
    with pytest.raises(ConfigError, match="sample: Input should be"):
        spec.load("hidden-shift", spec.parse_overrides([f"sample={value}"]))
