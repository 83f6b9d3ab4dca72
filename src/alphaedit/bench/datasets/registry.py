"""Read a data set of any known schema, from a file or the Hugging Face hub."""

from __future__ import annotations

import json
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
from alphaedit.bench.datasets.fields import REMEDY, SkippedWarning, Unlocatable, obj
from alphaedit.core.errors import DataError, unknown_name

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
    found: dict[str, Schema] = {}
    for module in iter_modules(home.__path__):
        for schema in getattr(import_module(f"{home.__name__}.{module.name}"), "SCHEMAS", ()):
            found[schema.name] = schema
    return dict(sorted(found.items()))


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
) -> Dataset:
    """The records of a .json (list) or .jsonl file, or of "hf:NAME[:CONFIG[:SPLIT]]".

    Args:
        schema: name of its schema; by default told from the first record.
        limit: at most so many, the first ones or a sample by `seed`.
        stratify: sample in equal parts from each relation.

    Raises:
        DataError: the source is missing, broken, empty, of mixed schemas, or a field is missing or
            malformed; the message names file, record and field.
        UnknownNameError: no such schema.
    """
    rows, fingerprint = _rows(str(source))
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
        f"{where}: the fields {', '.join(map(str, first))} are of no known schema.",
        remedy=f"Known schemas: {', '.join(known)}. Name one with --schema.",
    )


def read_all(
    rows: Sequence[tuple[str, Any]], schema: Schema, *, named: bool, limit: int | None = None
) -> tuple[list[EditRecord], list[str]]:
    """Records of `rows`, and where and why some were set aside.

    Raises:
        DataError: a row is broken, or (unless the schema was named) of another schema.
    """
    records: list[EditRecord] = []
    skipped: list[str] = []
    for where, row in rows:
        if limit is not None and len(records) == limit:
            break
        if not named and not schema.fits(obj(row, where)):
            raise DataError(
                f"{where} does not follow the schema {schema.name} of the first record.",
                remedy="Give one file for each schema, or name the schema to see what is missing.",
            )
        try:
            records.append(schema.read(row, where))
        except Unlocatable as error:
            skipped.append(f"{where}: {error}")
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
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(
            f"There is no file {path}.", remedy="Give a .json or .jsonl file, or hf:NAME."
        )
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.", remedy="Re-encode it.") from None
    rows: list[tuple[str, Any]] = []
    if path.suffix == ".jsonl":
        for number, line in enumerate(content.split("\n"), start=1):
            if line.strip():
                where = f"{path}, line {number}"
                rows.append((where, _parse(line, where)))
    else:
        data = _parse(content, str(path))
        if not isinstance(data, list):
            raise DataError(f"{path} does not hold a list of records.", remedy=REMEDY)
        rows = [(f"{path}, record {i}", row) for i, row in enumerate(data)]
    return rows, sha256(raw).hexdigest()


def _parse(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not JSON: {error}.", remedy="Mend the file.") from None


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
