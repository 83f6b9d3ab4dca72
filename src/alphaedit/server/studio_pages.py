"""The files of the studio's page: a fixed list, read once; and reports by tickets."""

from __future__ import annotations

import secrets
from importlib.resources import files
from pathlib import Path

from starlette.responses import HTMLResponse, Response

from alphaedit.core.errors import RequestError
from alphaedit.server.studio_safety import REPORT_POLICY

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
MOST_TICKETS = 50
LARGEST_REPORT = 64 << 20


class Pages:
    """What is served without a token: nothing in it is a secret."""

    def __init__(self) -> None:
        folder = files("alphaedit.server") / "page"
        self._files = {
            item.name: (item.read_bytes(), KINDS[Path(item.name).suffix])
            for item in folder.iterdir()
            if Path(item.name).suffix in KINDS
        }
        self._tickets: dict[str, Path] = {}

    def file(self, name: str) -> Response:
        """A file of the page.

        Raises:
            RequestError: there is none.
        """
        if name not in self._files:
            raise nothing_at(name)
        body, kind = self._files[name]
        return Response(body, media_type=kind)

    def ticket(self, path: Path) -> str:
        """A name by which a report can be opened in a frame, where no header can be sent."""
        name = secrets.token_urlsafe(24)
        self._tickets[name] = path
        for old in list(self._tickets)[:-MOST_TICKETS]:
            del self._tickets[old]
        return name

    def report(self, ticket: str) -> Response:
        """The report of a ticket.

        Raises:
            RequestError: there is no such ticket, or the report is gone or huge.
        """
        path = self._tickets.get(ticket)
        try:
            if path is None or path.stat().st_size > LARGEST_REPORT:
                raise nothing_at("report")
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            raise nothing_at("report") from None
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})


def nothing_at(path: str) -> RequestError:
    """The error of a path that is none."""
    return RequestError(
        f"There is nothing at {path[:100]}.",
        remedy="Open the address that `alphaedit studio` printed.",
        status=404,
        code="not_found",
    )
