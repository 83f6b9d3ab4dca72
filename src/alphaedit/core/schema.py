"""Records of known shape in files of others: types are checked before anything is made of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from alphaedit.core.errors import EditFileError
from alphaedit.core.reading import check_regular, megabytes
from alphaedit.core.text import one_line

MAX_JSON = 256 << 20
"""Bytes of edit.json or state.json; 400,000 facts or so."""
BACKUP = "Take it from a backup, or make the edit again."

Id = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=2**53)]


class Record(BaseModel):
    """JSON of a known shape: types as they are, names that are not known left alone."""

    model_config = ConfigDict(strict=True, extra="ignore")


M = TypeVar("M", bound=Record)


_WANTED = {
    "model_type": "should be an object",
    "dict_type": "should be an object",
    "list_type": "should be a list",
    "string_type": "should be text",
    "string_pattern_mismatch": "should be hexadecimal digits, as many as a hash or an id has",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
    "bool_type": "should be true or false",
}


def checked(
    kind: type[M],
    values: object,
    where: str,
    *,
    remedy: str = BACKUP,
    error: type[EditFileError] = EditFileError,
) -> M:
    """`values` as a record.

    Raises:
        EditFileError: a field is missing or of a wrong type; file and field are named.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        path = ".".join(one_line(part)[:80] for part in first["loc"])
        place = f"field {path!r}" if path else "what is there"
        if first["type"] == "missing":
            raise error(f"{where}: {place} is missing.", remedy=remedy) from None
        what = _WANTED.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:]
        actual = shown(first["input"])
        raise error(f"{where}: {place}: {what}, found {actual}.", remedy=remedy) from None


def shown(value: object) -> str:
    """A value of others, for a message."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = one_line(repr(value[:80] if isinstance(value, str) else value))
    return text if len(text) <= 60 else text[:59] + "…"


def read_json(path: Path) -> Any:
    """The content of a JSON file that alphaedit wrote.

    Raises:
        EditFileError: it is no file, too large, or not JSON.
    """
    check_regular(path, error=EditFileError, limit=sys.maxsize, special=BACKUP)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise EditFileError(
                f"{path} is larger than {megabytes(MAX_JSON)}, the limit.",
                remedy="Do not trust it, or give its facts in several batches.",
            )
        return from_json(raw)
    except (ValueError, OSError) as error:
        raise EditFileError(f"{path} cannot be read: {one_line(error)}.", remedy=BACKUP) from error
