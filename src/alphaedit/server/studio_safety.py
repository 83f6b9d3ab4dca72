"""Who may ask the studio, and what browsers may do with its pages."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alphaedit.core.errors import RequestError
from alphaedit.server.refusing import refused

TOKEN = "x-alphaedit-token"
"""Header that carries the token of the address."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
REPORT_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
"""Reports are files that anybody may have written: they get no script and no address."""
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True)
class Door:
    """Who may come in.

    Attributes:
        token: that every request of `/api` must carry.
        names: under which the server may be addressed; others are pages of somebody else whose
            name was made to lead here.
    """

    token: str = field(default_factory=new_token)
    names: Collection[str] = LOOPBACK_NAMES

    def check_host(self, headers: Headers) -> None:
        """Refuse requests to other names.

        Raises:
            RequestError: with status 421.
        """
        host = headers.get("host", "")
        if (_name(f"//{host}") or "") not in self.names:
            raise RequestError(
                f"This server is not called {host[:80]!r}.",
                remedy="Open the address that `alphaedit studio` printed; for another name start "
                "it with --allow-host NAME.",
                status=421,
                code="wrong_host",
            )

    def check_api(self, headers: Headers) -> None:
        """Refuse requests of other pages, and those without the token.

        Raises:
            RequestError: with status 403 or 401.
        """
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        own = origin is None or origin == f"http://{headers.get('host', '')}"
        if not own or site not in ("same-origin", "none"):
            raise RequestError(
                f"Pages of {(origin or site)[:80]!r} may not ask this server.",
                remedy="Open the address that `alphaedit studio` printed.",
                status=403,
                code="foreign_origin",
            )
        given = headers.get(TOKEN, "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            raise RequestError(
                "The token of the address is wrong." if given else "The request has no token.",
                remedy="Open the whole address that `alphaedit studio` printed, with what stands "
                "behind #.",
                status=401,
                code="wrong_token",
            )


def _name(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


class Guarded:
    """An application behind a door: every response tells browsers what they may not do."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and add the headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
                headers.setdefault("content-security-policy", PAGE_POLICY)
            await send(message)

        try:
            headers = Headers(scope=scope)
            self.door.check_host(headers)
            if scope["path"].startswith("/api/"):
                self.door.check_api(headers)
        except RequestError as error:
            await refused(error)(scope, receive, dressed)
            return
        await self.app(scope, receive, dressed)
