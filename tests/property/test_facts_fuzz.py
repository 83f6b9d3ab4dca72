"""Files of facts, data sets and text in every state: they are read, or it is told why not.

No raw Python error, nothing that hangs, no file changed.
"""

import csv
import io
import json
import os
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz import assert_told, both, profile, run_cli
from tests.unit.test_datasets import EXAMPLES

from alphaedit.bench.ability import FORMS, published_tasks
from alphaedit.bench.datasets.registry import Dataset, load
from alphaedit.core.errors import AlphaEditError, ModelError
from alphaedit.core.fact import Fact, load_facts, read_facts
from alphaedit.core.records import FORMATS, format_of, read_records
from alphaedit.errors import SkippedWarning
from alphaedit.stats.corpus import check_corpus, open_corpus

BASES: list[dict[str, Any]] = [
    {"prompt": "The capital of {} is", "subject": "Spain", "target": "Lyon"},
    {
        "id": "7",
        "prompt": "{} speaks",
        "subject": "Zoë",
        "target": "東京",
        "truth": "Oslo",
        "paraphrases": ["The tongue of {} is", "Zoë says"],
        "neighborhood": ["Al speaks", "Bo speaks"],
    },
    {
        "case_id": 3,
        "prompt": "Al plays the",
        "subject": "Al",
        "target_new": "violin",
        "ground_truth": "cello",
        "rephrase_prompt": "{} is a master of the",
        "locality_prompt": "Tom plays the",
        "locality_ground_truth": "harp",
    },
    EXAMPLES["counterfact"],
]
SPECIAL = [
    "",
    " ",
    "{}",
    "{} {}",
    "\0",
    "\x1b[2J",
    "\u200b",
    "\ud800",
    "\u2028",
    "\ufeff",
    "a" * 999,
]
SPECIAL += ["2024-13-45", "2024-12-31", "0b_", "!!int x", "*a", "&a", "<<", "1e999", "-", "|", "#"]
SPECIAL += [
    "France",
    "x" * 100_001,
    "9" * 5000,
    "<|endoftext|>",
    '"',
    "'",
    ",",
    "\t",
    "=",
    "~",
    "NaN",
]
TEXTS = st.one_of(st.sampled_from(SPECIAL), st.text(max_size=12))
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.none(), st.just(10**4200), st.just(-(10**101))
)
VALUES = st.recursive(
    st.one_of(TEXTS, NUMBERS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
NAMES = sorted({name for base in BASES for name in base} | {"str", "requested_rewrite", "Prompt"})


@st.composite
def mutated(draw: st.DrawFn, base: Any, depth: int = 0) -> Any:
    """`base` with a few of its values changed, missing, renamed or doubled, at any depth."""
    if isinstance(base, dict) and base:
        row = dict(base)
        for _ in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(sorted(map(str, row)) or ["prompt"]))
            change = draw(st.sampled_from(["value", "inner", "gone", "renamed", "more"]))
            if change == "value":
                row[name] = draw(VALUES)
            elif change == "inner" and depth < 4:
                row[name] = draw(mutated(row.get(name), depth + 1))
            elif change == "gone":
                row.pop(name, None)
            elif change == "renamed":
                row[draw(st.sampled_from(NAMES) | TEXTS)] = row.pop(name, None)
            else:
                row[draw(st.sampled_from(NAMES) | TEXTS)] = draw(VALUES)
        return row
    if isinstance(base, list) and base and draw(st.booleans()):
        at = draw(st.integers(0, len(base) - 1))
        return [*base[:at], draw(mutated(base[at], depth + 1)), *base[at + 1 :]]
    return draw(VALUES)


def rows(bases: list[dict[str, Any]]) -> st.SearchStrategy[Any]:
    """Some records, most of them still good."""

    @st.composite
    def some(draw: st.DrawFn) -> list[Any]:
        chosen = draw(st.permutations(bases))[: draw(st.integers(1, 3))]
        return [draw(mutated(row)) if draw(st.integers(0, 2)) == 2 else row for row in chosen]

    anything = st.one_of(VALUES, st.lists(VALUES, max_size=3), some().map(lambda found: found * 2))
    return st.integers(0, 6).flatmap(lambda n: anything if n == 6 else some())


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, default=str)


def as_jsonl(value: Any) -> str:
    return "\n".join(map(as_json, value if isinstance(value, list) else [value]))


def as_yaml(value: Any) -> str:
    try:
        return yaml.safe_dump(value, allow_unicode=True)
    except (yaml.YAMLError, UnicodeEncodeError, ValueError):
        return as_json(value)


def as_table(value: Any, delimiter: str = ",") -> str:
    out = io.StringIO()
    found = value if isinstance(value, list) else [value]
    header = list(dict.fromkeys(str(n) for row in found if isinstance(row, dict) for n in row))
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(header or ["prompt", "subject", "target"])
    for row in found:
        if not isinstance(row, dict):
            row = dict.fromkeys(header[1:], row)
        cells = [row.get(name, "") for name in header]
        writer.writerow(
            ["|".join(map(_cell, c)) if isinstance(c, list) else _cell(c) for c in cells]
        )
    return out.getvalue()


def _cell(value: Any) -> str:
    return "9" * 5000 if isinstance(value, int) and abs(value) > 10**99 else str(value)


WRITERS: dict[str, Callable[[Any], str]] = {
    "json": as_json,
    "jsonl": as_jsonl,
    "yaml": as_yaml,
    "csv": as_table,
    "tsv": lambda value: as_table(value, "\t"),
}
PARTS = [b"\0", b"\xff", b"\xef\xbb\xbf", b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"- " * 3000]
PARTS += [b'"', b"'", b"\n", b"\r", b"\t", b",", b"|", b"&a ", b"*a", b"!!int ", b"%", b"? ", b": "]
PARTS += [b'"target": "x", ', b"target: x\n", b"<<: *a\n", b"9" * 5000, b"\x1f\x8b", b"PK\x03\x04"]
PARTS += [
    b"---\n",
    b"...\n",
    b"\xc2\x85",
    b"\xed\xa0\x80",
    b"\xe2\x80\xa8",
    b"2024-13-45",
    b"|" * 99,
]


@st.composite
def damaged(draw: st.DrawFn, text: str) -> bytes:
    """The bytes of a text, in some encoding, cut, or with something in their midst."""
    encoding = draw(
        st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
    )
    raw = text.encode(encoding, "replace")
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(raw)))
        change = draw(st.sampled_from(["cut", "put", "swap", "again", "ends"]))
        if change == "cut":
            raw = raw[:at]
        elif change == "put":
            raw = raw[:at] + draw(st.sampled_from(PARTS) | st.binary(max_size=4)) + raw[at:]
        elif change == "swap":
            raw = raw[:at] + draw(st.binary(min_size=1, max_size=2)) + raw[at + 1 :]
        elif change == "again":
            raw = raw[:at] + raw[at // 2 : at] + raw[at:]
        else:
            raw = raw.replace(b"\n", draw(st.sampled_from([b"\r\n", b"\r", b"\n\n"])))
    return raw


def files(writer: Callable[[Any], str], bases: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """The content of a file: of records, damaged or not, or of anything."""
    if writer in (WRITERS["csv"], WRITERS["tsv"]):
        bases = bases[:2]  # one header has one set of names
    made = rows(bases).map(writer)
    anything = st.one_of(made.flatmap(damaged), st.binary(max_size=40), st.sampled_from(PARTS))
    whole = made.map(lambda text: text.encode("utf-8", "replace"))
    return st.integers(0, 9).flatmap(lambda n: whole if n < 4 else anything)


def put(folder: Path, name: str, raw: bytes, way: str = "file") -> Path:
    """A path of `folder` under which `raw` lies, or something that is no file."""
    for old in folder.iterdir():
        old.rmdir() if old.is_dir() and not old.is_symlink() else old.unlink()
    path, real = folder / name, folder / "real"
    if way == "file":
        path.write_bytes(raw)
    elif way == "link":
        real.write_bytes(raw)
        path.symlink_to(real)
    elif way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    elif way != "nothing":
        path.symlink_to({"dangling": real, "loop": path, "device": "/dev/zero"}[way])
    return path


WAYS = ["file"] * 20 + ["link", "folder", "pipe", "nothing", "dangling", "loop", "device"]


def kept(folder: Path, call: Callable[[], Any]) -> Any:
    """What comes of `call`, told; no file of `folder` is changed by it."""

    def seen() -> list[tuple[str, bytes | None]]:
        found = sorted(folder.iterdir())
        return [(p.name, p.read_bytes() if p.is_file() else None) for p in found]

    before = seen()
    result = assert_told(call)
    assert seen() == before
    return result


class Outcomes:
    """How often something was read, and how often an error was told."""

    def __init__(self) -> None:
        self.read = self.told = 0

    def add(self, result: Any) -> None:
        if isinstance(result, AlphaEditError):
            self.told += 1
        else:
            self.read += 1

    def check(self) -> None:
        """Both happen, or the cases say nothing."""
        assert min(self.read, self.told) >= (self.read + self.told) / 20


def facts_or_error(found: Any) -> None:
    assert isinstance(found, AlphaEditError) or (
        isinstance(found, list) and found and all(isinstance(fact, Fact) for fact in found)
    )
    if isinstance(found, AlphaEditError):
        assert len(found.message) < 5000  # tells, and does not pour out the file
        assert found.remedy


@pytest.mark.parametrize("kind", FORMATS)
@both(100)
def test_facts(count: int, kind: str, tmp_path: Path) -> None:
    endings = st.sampled_from(
        [f".{kind}"] * 20 + [f".{kind.upper()}", ".txt", "", ".gz", ".yml", "."]
    )

    seen = Outcomes()

    @profile(count)
    @given(files(WRITERS[kind], BASES), endings, st.sampled_from(WAYS))
    def one(raw: bytes, ending: str, way: str) -> None:
        path = put(tmp_path, f"facts{ending}", raw, way)
        found = kept(tmp_path, lambda: load_facts(path))
        facts_or_error(found)
        seen.add(found)
        if isinstance(found, list):
            assert len(read_records(path)) == len(found)
            again = load_facts(
                put(tmp_path, "f.jsonl", as_jsonl([f.to_dict() for f in found]).encode())
            )
            assert again == found

    one()
    seen.check()


@pytest.mark.parametrize("kind", FORMATS)
@both(100)
def test_facts_of_a_text(count: int, kind: str) -> None:
    seen = Outcomes()

    @profile(count)
    @given(files(WRITERS[kind], BASES), st.booleans())
    def one(raw: bytes, named: bool) -> None:
        text = raw.decode("utf-8", "replace")
        found = assert_told(lambda: read_facts(text, kind if named else format_of(text)))
        facts_or_error(found)
        seen.add(found)

    one()
    seen.check()


@both(200)
def test_yaml_of_any_words(count: int, tmp_path: Path) -> None:
    words = ["- ", "? ", ": ", "a: ", "{", "}", "[", "]", ", ", "\n", "\n  ", "\n    ", "&a ", "*a"]
    words += [
        "!!int ",
        "!!float ",
        "!!timestamp ",
        "!!bool ",
        "!!set ",
        "!!omap ",
        "!!pairs ",
        "!x ",
    ]
    words += [
        "!!binary ",
        "!!null ",
        "!!map ",
        "!!seq ",
        "<<: ",
        "|\n  ",
        ">-\n  ",
        "'",
        '"',
        "\\x",
        "#",
    ]
    words += [
        "--- ",
        "...\n",
        "%YAML 1.1\n",
        "%TAG ! x\n",
        "@",
        "`",
        "\t",
        "=",
        "prompt: ",
        "target: ",
    ]
    words += [
        "0x",
        "1:60",
        "2024-13-45",
        "2024-01-01T25:00:00Z",
        ".inf",
        ".nan",
        "~",
        "yes",
        "0b_",
        "+.",
    ]

    @profile(count)
    @given(st.lists(st.sampled_from(words) | st.sampled_from(SPECIAL[:-6]), max_size=14))
    def one(parts: list[str]) -> None:
        raw = "".join(parts).encode("utf-8", "replace")
        path = put(tmp_path, "f.yaml", raw)
        facts_or_error(kept(tmp_path, lambda: load_facts(path)))

    one()


@pytest.mark.parametrize("schema", [*EXAMPLES, None])
@both(40)
def test_data_sets(count: int, schema: str | None, tmp_path: Path) -> None:
    bases = [EXAMPLES[schema]] if schema else list(EXAMPLES.values())
    whole = st.one_of(*(files(writer, bases) for writer in (as_json, as_jsonl)))

    seen = Outcomes()

    @profile(count)
    @given(whole, st.sampled_from([".json", ".jsonl", ".csv"]), st.sampled_from(WAYS), st.data())
    def one(raw: bytes, ending: str, way: str, data: st.DataObject) -> None:
        path = put(tmp_path, f"data{ending}", raw, way)
        named = schema if data.draw(st.booleans()) else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkippedWarning)
            found = kept(
                tmp_path, lambda: load(path, named, limit=data.draw(st.none() | st.just(1)))
            )
        assert isinstance(found, (Dataset, AlphaEditError))
        seen.add(found)
        for record in found.records if isinstance(found, Dataset) else ():
            assert all(fact.text for fact in record.facts)

    one()
    seen.check()


@both(60)
def test_tasks(count: int, tmp_path: Path) -> None:
    base = {"sentence": "a", "sentence1": "a", "sentence2": "b", "label": 1, "answer": 0}
    base |= {"question": "q", "choices": ["a", "b", "c", "d"]}

    seen = Outcomes()

    @profile(count)
    @given(files(as_json, [base] * 4), st.sampled_from(WAYS), st.sampled_from(sorted(FORMS)))
    def one(raw: bytes, way: str, name: str) -> None:
        put(tmp_path, f"{name}.json", raw, way)
        seen.add(kept(tmp_path, lambda: published_tasks(tmp_path, [name], shots=1)))

    one()
    seen.check()


@both(100)
def test_corpora(count: int, tmp_path: Path) -> None:
    base = {"text": "Some words.", "more": 1}

    seen = Outcomes()

    @profile(count)
    @given(
        files(as_jsonl, [base]),
        st.sampled_from([".txt", ".jsonl", "", ".gz"]),
        st.sampled_from(WAYS),
    )
    def one(raw: bytes, ending: str, way: str) -> None:
        path = put(tmp_path, f"text{ending}", raw, way)
        nothing: Any = None  # the model is asked only for text of its own

        def read() -> list[str]:
            return list(islice(open_corpus(str(path), nothing).texts(), 100))

        checked = kept(tmp_path, lambda: check_corpus(str(path)))
        found = kept(tmp_path, read)
        assert isinstance(found, AlphaEditError) or all(isinstance(text, str) for text in found)
        seen.add(found)
        assert checked is None or isinstance(found, AlphaEditError)

    one()
    seen.check()


@pytest.mark.parametrize("command", ["check", "edit", "trace", "eval", "tune", "plan"])
@both(30)
def test_command_lines(
    count: int, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise ModelError("As far as the model.", remedy="None needed.")

    for name in (
        "jobs.opening.Opening.open",
        "model.handle.ModelHandle.load",
    ):
        monkeypatch.setattr(f"alphaedit.{name}", stop)
    monkeypatch.setattr("alphaedit.model.shape.shape_of", stop)
    kinds = [*FORMATS, "txt", ""]
    content = st.sampled_from(sorted(WRITERS)).flatmap(lambda kind: files(WRITERS[kind], BASES))

    @profile(count)
    @given(content, st.sampled_from(kinds), st.sampled_from([*WAYS, *["stdin"] * 8]), st.data())
    def one(raw: bytes, kind: str, way: str, data: st.DataObject) -> None:
        path = "-" if way == "stdin" else str(put(tmp_path, f"f.{kind}", raw, way))
        argv = [command, "m", path, *data.draw(st.sampled_from([[], ["--json"], ["-q"]]))]
        if command in ("check", "edit", "trace"):
            argv += data.draw(st.sampled_from([[], [], ["--format", kind or "none"]]))
        if command == "tune":
            argv += ["-o", str(tmp_path / "preset.yaml")]
        before = sorted(tmp_path.iterdir())
        code, out, err = run_cli(argv, raw if way == "stdin" else b"")
        assert code in (1, 2)
        assert len(out + err) < 20_000
        if "--json" in argv:
            assert json.loads(out)["error"]["message"]
        assert sorted(tmp_path.iterdir()) == before
        if way == "file":
            assert Path(path).read_bytes() == raw

    one()
