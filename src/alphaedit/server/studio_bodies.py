"""Bodies of the page's requests, checked before anything is made of them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from alphaedit.core import defaults
from alphaedit.core.errors import RequestError
from alphaedit.core.text import one_line

LARGEST = 48 << 20
"""Bytes: 50,000 facts and more."""
BODY_SECONDS = 60.0
Text = Annotated[str, Field(max_length=100_000)]
Short = Annotated[str, Field(max_length=2_000)]
Record = dict[str, Any]


class Body(BaseModel):
    """Fields of a request; others are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class AskBody(Body):
    """A prompt, and which models are to answer it."""

    prompt: Text
    models: Annotated[list[Short], Field(min_length=1, max_length=3)]
    max_tokens: Annotated[int, Field(ge=1)] = 24
    chat: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class FactsBody(Body):
    """Facts as text, or as records that a form has filled in."""

    text: Annotated[str, Field(max_length=LARGEST)] | None = None
    format: Literal["jsonl", "json", "csv", "tsv", "yaml"] | None = None
    records: list[Record] | None = None


class PreviewBody(Body):
    """Facts that are to be tried, and how."""

    records: list[Record]
    method: Short = defaults.METHOD
    settings: dict[str, Any] = {}
    batch_size: Annotated[int, Field(ge=1)] | None = None
    chat: bool = False


class WhyBody(Body):
    """A message for the ledger's log."""

    why: Short = ""


class RevertBody(WhyBody):
    """Edits to be taken out."""

    edits: Annotated[list[Short], Field(min_length=1, max_length=1_000)]


class VersionBody(WhyBody):
    """An entry to go back to."""

    version: Short


class ExportBody(Body):
    """What is written, and under which name."""

    name: Short
    form: Short = "lora"
    version: Short = "head"
    max_rank: Annotated[int, Field(ge=1)] | None = None


class TraceBody(Body):
    """A prompt to be traced."""

    prompt: Text
    subject: Text
    kind: Literal["hidden", "mlp", "attention"] = "hidden"
    samples: Annotated[int, Field(ge=1, le=100)] = 10
    model: Short = "base"


class SpectraBody(Body):
    """Layers to be looked at; by default those that are edited."""

    layers: Annotated[list[int], Field(max_length=200)] = []


class WhereBody(Body):
    """An edit to be looked at."""

    edit: Short


B = TypeVar("B", bound=Body)


async def body_of(request: Request, kind: type[B]) -> B:
    """The body of a request.

    Raises:
        RequestError: it is no JSON, too large, or lacks what is needed.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        raise _refused(415, "The body is no JSON.", "Send Content-Type: application/json.")
    try:
        return kind.model_validate_json(await _bytes(request))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(one_line(part)[:60] for part in first["loc"])
        where = f"Field {field!r}: " if field else ""
        raise _refused(400, f"{where}{first['msg']}.", "Correct it.") from None


async def _bytes(request: Request) -> bytes:
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > LARGEST:
                    raise _refused(
                        413,
                        f"This is more than {LARGEST >> 20} MB.",
                        "Give fewer facts at a time, or use `alphaedit edit MODEL FILE`.",
                    )
    except TimeoutError:
        raise _refused(408, "The request did not come to its end.", "Send it again.") from None
    return b"".join(parts)


def _refused(status: int, message: str, remedy: str) -> RequestError:
    codes = {400: "invalid_value", 408: "timeout", 413: "too_large", 415: "no_json"}
    return RequestError(message, remedy=remedy, status=status, code=codes[status])
