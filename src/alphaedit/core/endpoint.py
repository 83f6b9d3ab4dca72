"""JSON over HTTP, asked again while a server is busy."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from alphaedit.core.errors import ResourceError

Found = TypeVar("Found")
SHOWN = 200
"""Characters of a server's own words that are passed on."""


def post(
    url: str,
    body: Mapping[str, Any],
    read: Callable[[Any], Found],
    *,
    what: str,
    remedy: str,
    key: str | None = None,
    tries: int = 4,
    wait: float = 1.0,
    timeout: float = 60.0,
) -> Found:
    """What `read` makes of the reply.

    Args:
        url: where to.
        body: what is sent.
        read: raises ValueError, KeyError, IndexError or TypeError for a reply that is none.
        what: who is asked, for the message.
        remedy: what to do where there is no answer.
        key: sent as a bearer token.
        tries: requests before giving up, each after twice the wait.
        wait: seconds before the second one.
        timeout: seconds that each may take.

    Raises:
        ResourceError: there is no answer, or the server refuses.
    """
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    problem = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return read(json.load(reply))
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:  # refused: asking again changes nothing
                explanation = error.read().decode("utf-8", "replace").strip()
                problem += f": {explanation[:SHOWN]}" if explanation.strip("{}") else ""
                break
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            problem = str(error) or type(error).__name__
    raise ResourceError(f"{what} at {url} does not answer: {problem}.", remedy=remedy)
