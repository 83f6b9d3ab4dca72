"""Read a data set of any known schema, from a file or the Hugging Face hub."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from alphaedit.bench import datasets as home
from alphaedit.bench.data import EditRecord
from alphaedit.bench.datasets.fields import REMEDY, Unlocatable, obj
from alphaedit.core.errors import DataError, FactError, SkippedWarning, unknown_name
from alphaedit.core.fact_text import short
from alphaedit.core.parsing import Broken, parse_json
from alphaedit.core.reading import decode, read_bytes

Row = Mapping[str, Any]
Reader = Callable[[Row, str], EditRecord]


@dataclass(frozen=True)
class Schema:
    """A published schema.

    Attributes:
        fits: whether a first record has its fields.
        read: makes a record of a row; the text says where the row stands.
        rank: schemas of lower rank are tried first when a file does not say what it is.
    """

    name: str
    title: str
    fits: Callable[[Row], bool]
    read: Reader
    rank: int = 5


@dataclass(frozen=True)
class Dataset:
    """Records, and what was set aside.

    Attributes:
        skipped: where and why, for records whose subject is not in their prompt.
        fingerprint: SHA-256 of the content.
    """

    source: str
    schema: str
    records: tuple[EditRecord, ...]
    skipped: tuple[str, ...]
    fingerprint: str


def schemas() -> dict[str, Schema]:
    """Every schema by name."""
    by_name: dict[str, Schema] = {}
    for module in iter_modules(home.__path__):
        for schema in getattr(import_module(f"{home.__name__}.{module.name}"), "SCHEMAS", ()):
            by_name[schema.name] = schema
    return dict(sorted(by_name.items()))


def get_schema(name: str) -> Schema:
    """The schema called `name`.

    Raises:
        UnknownNameError: there is none.
    """
    known = schemas()
    if name not in known:
        raise unknown_name("schema", name, list(known))
    return known[name]


def load(
    source: str | Path,
    schema: str | None = None,
    *,
    limit: int | None = None,
    seed: int | None = None,
    stratify: bool = False,
    text: str | None = None,
) -> Dataset:
    """The records of a .json (list) or .jsonl file, or of "hf:NAME[:CONFIG[:SPLIT]]".

    Args:
        source: the file, or the name of what `text` holds.
        schema: name of its schema; by default told from the first record.
        limit: at most so many, the first ones or a sample by `seed`.
        stratify: sample in equal parts from each relation.
        text: a list in JSON, or JSON Lines, in place of a file's content.

    Raises:
        DataError: the source is missing, no regular file, too large, broken, empty, of mixed
            schemas, or a field is missing or malformed; the message names file, record and field.
        UnknownNameError: no such schema.
    """
    if text is None:
        rows, fingerprint = _rows(str(source))
    else:
        lines = not text.lstrip().startswith("[")  # a list may have a line for each record
        rows, fingerprint = _parsed(text, str(source), lines), sha256(text.encode()).hexdigest()
    if not rows:
        raise DataError(f"{source} holds no records.", remedy="Give a file with records.")
    chosen = get_schema(schema) if schema else detect(rows[0][1], rows[0][0])
    if seed is not None or not limit:
        read, skipped = read_all(rows, chosen, named=bool(schema))
        records = sample(read, limit, seed=seed or 0, stratify=stratify)
    else:
        # In order: no need to understand what lies behind the last one that is asked for.
        read, skipped = read_all(rows, chosen, named=bool(schema), limit=limit)
        records = read
    if skipped:
        warnings.warn(
            SkippedWarning(
                f"{len(skipped)} of {len(rows)} records of {source} are set aside, as their "
                f"subject is not in their prompt; the first: {skipped[0]}."
            ),
            stacklevel=2,
        )
    if not records:
        raise DataError(f"No record of {source} can be used: {skipped[0]}.", remedy=REMEDY)
    return Dataset(str(source), chosen.name, tuple(records), tuple(skipped), fingerprint)


def detect(row: Any, where: str) -> Schema:
    """The schema that a record follows.

    Raises:
        DataError: none, naming the fields found and the schemas known.
    """
    first = obj(row, where)
    known = schemas()
    for schema in sorted(known.values(), key=lambda s: s.rank):
        if schema.fits(first):
            return schema
    raise DataError(
        f"{where}: the fields {short(', '.join(map(str, first)), quoted=False)} are of no known "
        "schema.",
        remedy=f"Known schemas: {', '.join(known)}. Name one with --schema.",
    )


def read_all(
    rows: Sequence[tuple[str, Any]], schema: Schema, *, named: bool, limit: int | None = None
) -> tuple[list[EditRecord], list[str]]:
    """Records of `rows`, and where and why some were set aside.

    Raises:
        DataError: a row is broken, its fact cannot be edited in, or (unless the schema was named)
            it is of another schema.
    """
    records: list[EditRecord] = []
    skipped: list[str] = []
    for where, row in rows:
        if limit is not None and len(records) == limit:
            break
        if not schema.fits(obj(row, where)) and not named:
            raise DataError(
                f"{where} does not follow the schema {schema.name} of the first record.",
                remedy="Give one file for each schema, or name the schema to see what is missing.",
            )
        try:
            record = schema.read(row, where)
            for fact in record.facts:
                _ = fact.subject_span
        except Unlocatable as error:
            skipped.append(f"{where}: {error}")
        except FactError as error:
            raise DataError(f"{where}: {error.bare}", remedy=error.remedy) from None
        else:
            records.append(record)
    return records, skipped


def sample(
    records: Sequence[EditRecord], limit: int | None, *, seed: int, stratify: bool = False
) -> list[EditRecord]:
    """`limit` of `records`, drawn by `seed`; with `stratify` in equal parts from each relation."""
    if limit is None or limit >= len(records):
        return list(records)
    rng = random.Random(seed)
    if not stratify:
        return rng.sample(list(records), limit)
    groups: dict[str, list[EditRecord]] = defaultdict(list)
    for record in records:
        groups[record.relation_id].append(record)
    for group in groups.values():
        rng.shuffle(group)
    drawn: list[EditRecord] = []
    while len(drawn) < limit:
        for group in groups.values():
            if group and len(drawn) < limit:
                drawn.append(group.pop())
    return drawn


def _rows(source: str) -> tuple[list[tuple[str, Any]], str]:
    if source.startswith("hf:"):
        return _hub(source)
    path = os.path.expanduser(source)
    if not os.path.exists(path):
        raise DataError(
            f"There is no file {path}.", remedy="Give a .json or .jsonl file, or hf:NAME."
        )
    raw = read_bytes(path, error=DataError, what="Data file", special=_SPECIAL)
    text = decode(raw, path, error=DataError)
    return _parsed(text, path, path.endswith(".jsonl")), sha256(raw).hexdigest()


_SPECIAL = "Give - to read standard input where a command takes it, or give a file."


def _parsed(text: str, name: str, lines: bool) -> list[tuple[str, Any]]:
    """Rows with their places, of JSON Lines or of one list."""
    if lines:
        placed = ((f"{name}, line {i}", line) for i, line in enumerate(text.split("\n"), start=1))
        return [(where, _parse(line, where)) for where, line in placed if line.strip()]
    data = _parse(text, name)
    if not isinstance(data, list):
        raise DataError(f"{name} does not hold a list of records.", remedy=REMEDY)
    return [(f"{name}, record {i}", row) for i, row in enumerate(data)]


def _parse(content: str, where: str) -> Any:
    try:
        return parse_json(content)
    except Broken as error:
        place = f" at line {error.line}, column {error.column}" if error.line else ""
        raise DataError(
            f"{where} is not JSON: {error.problem}{place}.", remedy="Mend the file."
        ) from None


def _hub(source: str) -> tuple[list[tuple[str, Any]], str]:
    name, _, rest = source.removeprefix("hf:").partition(":")
    config, _, split = rest.partition(":")
    try:
        from datasets import load_dataset  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        raise DataError(
            "Data sets of the Hugging Face hub need the datasets library.",
            remedy="pip install 'alphaedit[data]'",
        ) from None
    try:
        data = load_dataset(name, config or None, split=split or "train")
    except Exception as error:  # datasets raises many kinds, offline too
        raise DataError(
            f"Data set {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            remedy="Check the name and the connection, or give a file.",
        ) from error
    rows = [(f"{source}, record {i}", dict(row)) for i, row in enumerate(data)]
    return rows, sha256(json.dumps([r for _, r in rows], default=str).encode()).hexdigest()
