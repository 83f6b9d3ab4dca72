"""Records of a facts file, each with its place, before they are understood."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alphaedit.core.errors import FactError, unknown_name
from alphaedit.core.parsing import YAML_LIMIT, Broken, parse_json, parse_yaml
from alphaedit.core.reading import PIPED, check_regular, megabytes, read_text

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


def read_records(path: str | Path, kind: str | None = None) -> list[Placed]:
    """Read the records of a ``.jsonl``, ``.json``, ``.csv``, ``.tsv`` or ``.yaml`` file.

    Args:
        path: The file. Its ending is looked at before it is opened.
        kind: Its format, one of `FORMATS`, whatever its ending.

    Returns:
        Pairs of a place, such as ``facts.jsonl, line 3``, and a record.

    Raises:
        FactError: The file is missing, no regular file, too large, empty, not UTF-8, of unknown
            kind or broken.
        UnknownNameError: No such format.
    """
    path = _as_path(path)
    check_regular(path, error=FactError, what=_WHAT, special=PIPED)
    if kind is None:
        kind = _ENDINGS.get(path.suffix.lower())
        if kind is None:
            raise FactError(
                f"Facts file {path} has an unknown ending {path.suffix!r}.",
                remedy=f"Known endings: {', '.join(_ENDINGS)}.",
            )
    text = read_text(path, error=FactError, what=_WHAT, special=PIPED)
    return parse_records(text, kind, str(path))


def parse_records(text: str, kind: str, name: str) -> list[Placed]:
    """The records of a text.

    Args:
        text: The text.
        kind: Its format, one of `FORMATS`.
        name: What messages call it, such as a path.

    Returns:
        Pairs of a place, such as ``standard input, line 3``, and a record.

    Raises:
        FactError: It is empty or broken; the message names line or record.
        UnknownNameError: No such format.
    """
    kind = _ENDINGS.get(f".{kind.lower().removeprefix('.')}", kind)
    if kind not in FORMATS:
        raise unknown_name("format of facts", kind, FORMATS)
    if not text.strip():
        raise FactError(f"{name} is empty.", remedy="Give at least one fact.")
    records = FORMATS[kind](text, name)
    if not records:
        raise FactError(f"{name} holds no facts.", remedy="Give at least one fact.")
    return records


def format_of(text: str) -> str:
    """The format that a text of facts seems to have, told from its first line.

    An object that is whole on the first line is JSON Lines; one that is not, and a list, JSON. A
    dash begins a list in YAML. All else is a table, with tabs if its first line has one.
    """
    first = next((line for line in text.split("\n") if line.strip()), "").strip()
    if first.startswith("{"):
        try:
            parse_json(first)
        except Broken:
            return "json" if _is_json(text) else "jsonl"
        return "jsonl"
    if first.startswith("["):
        return "json"
    if first.startswith("- ") or first in ("-", "---"):
        return "yaml"
    return "tsv" if "\t" in first else "csv"


def _is_json(text: str) -> bool:
    try:
        parse_json(text)
    except Broken:
        return False
    return True


def _as_path(path: object) -> Path:
    if not isinstance(path, (str, Path)):
        raise FactError(
            f"Facts are read from {type(path).__name__}, which is no path.",
            remedy="Give the path of a facts file.",
        )
    return Path(path)


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
    try:
        return parse_json(text, unique=True)
    except Broken as error:
        if error.field is not None:
            raise _twice(error, where) from None
        if error.line is None:
            raise FactError(
                f"JSON {error.problem}.", remedy="Give a list of facts.", where=where
            ) from None
        place = f"column {error.column}" if one_line else f"line {error.line}"
        raise FactError(
            f"broken JSON at {place}: {error.problem}.",
            remedy="A .jsonl file has one complete JSON object per line."
            if one_line
            else "Correct it there; a file with one object per line should end in .jsonl.",
            where=where,
        ) from None


def _twice(error: Broken, where: str) -> FactError:
    return FactError(error.problem, remedy="Remove one of the two.", where=where, field=error.field)


def _read_yaml(text: str, name: str) -> list[Placed]:
    if len(text) > YAML_LIMIT:
        raise FactError(
            f"this is YAML of {megabytes(len(text))}; at most {megabytes(YAML_LIMIT)} are read.",
            remedy="Split it, or write it as JSON Lines, which is read much faster.",
            where=name,
        )
    try:
        content = parse_yaml(text)
    except Broken as error:
        where = f"{name}, line {error.line}" if error.line else name
        if error.field is not None:
            raise _twice(error, where) from None
        raise FactError(
            f"broken YAML: {error.problem}.",
            remedy="Correct the indentation or the quotes there.",
            where=where,
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
                header = _check_header([cell.strip().lower() for cell in row], where)
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
            remedy = "The first line names the columns: prompt, subject and target are needed."
            if len(header) == 1:
                remedy += " They are separated by commas in .csv, by tabs in .tsv."
            raise FactError(
                f"Column {names[0]!r} is missing; found {', '.join(header)[:200]}.",
                remedy=remedy,
                where=where,
                field=names[0],
            )
    seen: set[str] = set()
    for name in header:
        if name in seen:
            raise FactError(
                f"Column {name[:80]!r} is there twice.",
                remedy="Remove one of the two.",
                where=where,
                field=name,
            )
        seen.add(name)
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
        # Only of plain values: a list may be as long as its file.
        plain = value is None or isinstance(value, (str, int, float))
        raise FactError(
            f"expected an object, found {type(value).__name__}"
            + (f" {str(value)[:40]!r}." if plain else "."),
            remedy="Give an object with prompt, subject and target.",
            where=where,
        )
    return value


FORMATS: dict[str, Callable[[str, str], list[Placed]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "yaml": _read_yaml,
}
"""Readers by format; each takes a text and its name."""
_WHAT = "Facts file"
_ENDINGS = {f".{name}": name for name in FORMATS} | {".yml": "yaml"}
