"""Records of a facts file, each with its place, before they are understood."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from alphaedit.core.errors import FactError

Record = dict[str, Any]
Placed = tuple[str, Record]

_LIST_COLUMNS = {
    "paraphrases",
    "neighborhood",
    "rephrase_prompts",
    "paraphrase_prompts",
    "neighborhood_prompts",
}
_COLUMNS = (("prompt",), ("subject",), ("target", "target_new"))


def read_records(path: Path) -> list[Placed]:
    """Read the records of a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.yaml`` file.

    Returns:
        Pairs of a place, such as ``facts.jsonl, line 3``, and a record.

    Raises:
        FactError: The file is missing, a directory, empty, not UTF-8, of unknown kind or broken.
    """
    text = _read_text(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise FactError(
            f"Facts file {path} has an unknown ending {path.suffix!r}.",
            remedy=f"Known endings: {', '.join(_READERS)}.",
        )
    if not text.strip():
        raise FactError(f"Facts file {path} is empty.", remedy="Give at least one fact.")
    records = reader(text, str(path))
    if not records:
        raise FactError(f"Facts file {path} holds no facts.", remedy="Give at least one fact.")
    return records


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise FactError(f"Facts file {path} does not exist.", remedy="Check the path.") from None
    except IsADirectoryError:
        raise FactError(
            f"Facts file {path} is a directory.", remedy="Give a file inside it."
        ) from None
    except OSError as error:
        raise FactError(
            f"Facts file {path} cannot be read: {error.strerror or error}.",
            remedy="Check its permissions.",
        ) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FactError(
            f"not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}).",
            remedy="Save the file in UTF-8.",
            where=f"{path}, line {line}",
        ) from None


def _read_jsonl(text: str, name: str) -> list[Placed]:
    records = []
    # Not splitlines(): JSON text may hold U+2028 and its kin unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}, line {number}"
            records.append((where, _require_object(_parse_json(line, where, one_line=True), where)))
    return records


def _read_json(text: str, name: str) -> list[Placed]:
    return _numbered(_parse_json(text, name), name)


def _parse_json(text: str, where: str, *, one_line: bool = False) -> Any:
    def no_doubles(pairs: list[tuple[str, Any]]) -> Record:
        record = dict(pairs)
        if len(record) < len(pairs):
            keys = [key for key, _ in pairs]
            double = next(key for key in keys if keys.count(key) > 1)
            raise FactError(
                f"Field {double!r} is given twice.",
                remedy="Remove one of the two.",
                where=where,
                field=double,
            )
        return record

    try:
        return json.loads(text, object_pairs_hook=no_doubles)
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if one_line else f"line {error.lineno}"
        raise FactError(
            f"broken JSON at {place}: {error.msg}.",
            remedy="A .jsonl file has one complete JSON object per line."
            if one_line
            else "Correct it there; a file with one object per line should end in .jsonl.",
            where=where,
        ) from None
    except RecursionError:
        raise FactError(
            "JSON nested too deeply.", remedy="Give a list of facts.", where=where
        ) from None


def _read_yaml(text: str, name: str) -> list[Placed]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise FactError(
            f"broken YAML: {problem}.",
            remedy="Correct the indentation or the quotes there.",
            where=f"{name}, line {mark.line + 1}" if mark else name,
        ) from None
    return _numbered(content, name)


def _read_csv(text: str, name: str, delimiter: str = ",") -> list[Placed]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[Placed] = []
    header: list[str] | None = None
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            where = f"{name}, line {reader.line_num}"
            if header is None:
                header = _check_header([cell.strip() for cell in row], where)
            elif len(row) != len(header):
                raise FactError(
                    f"{len(row)} cells, but the header has {len(header)} columns.",
                    remedy="Put quotes around texts that hold the separator.",
                    where=where,
                )
            else:
                cells = zip(header, row, strict=True)
                records.append((where, {c: _cell(c, v) for c, v in cells if v.strip()}))
                for column in ("prompt", "subject", "target", "target_new"):
                    # An empty cell of a needed column is an empty field, not a missing one.
                    if column in header:
                        records[-1][1].setdefault(column, "")
    except csv.Error as error:
        raise FactError(
            f"broken CSV: {error}.",
            remedy="Check quotes and separators.",
            where=f"{name}, line {reader.line_num}",
        ) from None
    return records


def _read_tsv(text: str, name: str) -> list[Placed]:
    return _read_csv(text, name, "\t")


def _check_header(header: list[str], where: str) -> list[str]:
    for names in _COLUMNS:
        if not any(name in header for name in names):
            raise FactError(
                f"Column {names[0]!r} is missing; found {', '.join(header)}.",
                remedy="The first line names the columns: prompt, subject and target are needed.",
                where=where,
                field=names[0],
            )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise FactError(
            f"Column {doubled[0]!r} is there twice.",
            remedy="Remove one of the two.",
            where=where,
            field=doubled[0],
        )
    return header


def _cell(column: str, value: str) -> Any:
    if column in _LIST_COLUMNS:
        return [part.strip() for part in value.split("|") if part.strip()]
    return value


def _numbered(content: Any, name: str) -> list[Placed]:
    items = [content] if isinstance(content, dict) else content
    if not isinstance(items, list):
        raise FactError(
            "the file does not hold a list of facts.",
            remedy="Give a list of objects with prompt, subject and target.",
            where=name,
        )
    placed = []
    for number, item in enumerate(items, start=1):
        where = f"{name}, record {number}"
        placed.append((where, _require_object(item, where)))
    return placed


def _require_object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise FactError(
            f"expected an object, found {type(value).__name__} {str(value)[:40]!r}.",
            remedy="Give an object with prompt, subject and target.",
            where=where,
        )
    return value


_READERS: dict[str, Callable[[str, str], list[Placed]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
}
