"""Errors as OpenAI's clients read them, with our sentences and remedies."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

from alphaedit.core.errors import (
    AlphaEditError,
    ArchitectureError,
    BusyError,
    ConfigError,
    FactError,
    ModelError,
    NonFiniteError,
    RequestError,
    StoppingError,
    UnknownNameError,
)

_STATUS: tuple[tuple[type[AlphaEditError], int, str], ...] = (
    (BusyError, 429, "rate_limit_exceeded"),
    (StoppingError, 503, "server_stopping"),
    (UnknownNameError, 404, "model_not_found"),
    (NonFiniteError, 500, "server_error"),
    (ArchitectureError, 500, "server_error"),
    (ConfigError, 400, "invalid_value"),
    (ModelError, 400, "invalid_value"),
    (FactError, 400, "invalid_value"),
)


def status_of(error: AlphaEditError) -> tuple[int, str]:
    """HTTP's number and a word for an error."""
    if isinstance(error, RequestError):
        return error.status, error.code
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            return status, code
    return 500, "server_error"


def error_body(error: AlphaEditError) -> dict[str, Any]:
    """An error in OpenAI's form; `message` has the remedy behind it, `remedy` alone."""
    status, code = status_of(error)
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    field = getattr(error, "field", None)
    if code == "model_not_found":
        field = "model"
    about = {"message": str(error), "type": kind, "param": field, "code": code}
    return {"error": {**about, "remedy": error.remedy}}


def refused(error: AlphaEditError) -> Response:
    """The response that tells an error."""
    status, _ = status_of(error)
    headers = {}
    if status in (429, 503):
        headers["Retry-After"] = str(getattr(error, "seconds", 1))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return as_json(error_body(error), status, headers)


def as_json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response in ASCII, so that no text of others is more than a text."""
    text = json.dumps(body, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")
