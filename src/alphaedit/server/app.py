"""The routes: models, completions, chat completions, health and metrics."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from alphaedit.core.errors import AlphaEditError, RequestError
from alphaedit.jobs.serve import Answer, Service, Tickets
from alphaedit.model.answering import End, Event, Piece, Token
from alphaedit.server import reading
from alphaedit.server.metrics import metrics_text
from alphaedit.server.reading import Asked
from alphaedit.server.refusing import as_json, error_body, refused
from alphaedit.server.writing import Writer, event

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
BODY_SECONDS = 30.0
"""In which a body must have come."""
GONE_EVERY = 0.25
"""Seconds between looks at whether a client is still there."""
Told = asyncio.Queue[tuple[int, Event]]
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What requests may be.

    Attributes:
        body: bytes of a body.
        key: that clients must send; none if None.
    """

    body: int = 1 << 20
    key: str | None = None


def application(service: Service, limits: Limits) -> Starlette:
    """The ASGI application of a service; the service ends with it."""
    api = Api(service, limits)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.stop)

    routes = [
        Route("/health", api.guarded(api.health, free=True), methods=["GET"]),
        Route("/metrics", api.guarded(api.metrics), methods=["GET"]),
        Route("/v1/models", api.guarded(api.models), methods=["GET"]),
        Route("/v1/models/{name:path}", api.guarded(api.model), methods=["GET"]),
        Route("/v1/completions", api.guarded(api.completions), methods=["POST"]),
        Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
    ]
    wrong: Mapping[Any, Any] = {404: _no_such_path, 405: _wrong_method, 500: _bug}
    return Starlette(routes=routes, exception_handlers=wrong, lifespan=life)


class Api:
    """Handlers of requests."""

    def __init__(self, service: Service, limits: Limits) -> None:
        self.service, self.limits = service, limits

    def guarded(self, handler: Handler, *, free: bool = False) -> Handler:
        """A handler whose errors are told in OpenAI's form; `free` ones need no key."""

        async def call(request: Request) -> Response:
            try:
                self._check_origin(request)
                if not free:
                    self._check_key(request)
                return await handler(request)
            except AlphaEditError as error:
                return refused(error)
            except ClientDisconnect:
                return Response(status_code=499)

        return call

    async def health(self, request: Request) -> Response:
        """Whether it answers; without a key, for those who watch."""
        status = self.service.status()["status"]
        return as_json({"status": status}, 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        """Counts, as Prometheus reads them."""
        return PlainTextResponse(metrics_text(self.service), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """The served models."""
        names = self.service.models.names
        return as_json({"object": "list", "data": [self._about(name) for name in names]})

    async def model(self, request: Request) -> Response:
        """One of them."""
        name = request.path_params["name"]
        self.service.models.check(name)
        return as_json(self._about(name))

    async def completions(self, request: Request) -> Response:
        """OpenAI's completions."""
        body = reading.body_of(await self._body(request))
        return await self._answered(request, reading.completion(body, self.service.seed))

    async def chat(self, request: Request) -> Response:
        """OpenAI's chat completions."""
        body = reading.body_of(await self._body(request))
        service = self.service
        asked = await run_in_threadpool(
            reading.chat, body, service.seed, service.front.conversation
        )
        return await self._answered(request, asked)

    def _about(self, name: str) -> dict[str, Any]:
        service = self.service
        about = {"id": name, "object": "model", "created": service.began, "owned_by": "alphaedit"}
        return {**about, **service.models.status()[name]}

    def _check_key(self, request: Request) -> None:
        if self.limits.key is None:
            return
        given = request.headers.get("authorization", "")
        scheme, _, key = given.partition(" ")
        right = hmac.compare_digest(key.strip().encode(), self.limits.key.encode())
        if scheme.lower() != "bearer" or not right:
            raise RequestError(
                "The key is wrong." if given else "The request has no key.",
                remedy="Send the key that the server was started with: Authorization: Bearer KEY.",
                status=401,
                code="invalid_api_key",
            )

    def _check_origin(self, request: Request) -> None:
        """Refuse pages of other sites, which a browser would let ask a server of its user's."""
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).hostname not in LOOPBACK:
            raise RequestError(
                f"Pages of {origin[:100]!r} may not ask this server.",
                remedy="Ask from a program, or through a proxy that leaves the Origin header out.",
                status=403,
                code="foreign_origin",
            )

    async def _body(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(
                f"The body is {kind[:60] or 'of no named type'}.",
                remedy="Send JSON, with Content-Type: application/json.",
                status=415,
                code="unsupported_media_type",
            )
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.body:
            raise self._too_large()
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    parts.append(part)
                    if sum(map(len, parts)) > self.limits.body:
                        raise self._too_large()
        except TimeoutError:
            raise RequestError(
                f"The body did not come within {BODY_SECONDS:g} seconds.",
                remedy="Send it at once.",
                status=408,
                code="timeout",
            ) from None
        return b"".join(parts)

    def _too_large(self) -> RequestError:
        return RequestError(
            f"The body is longer than {self.limits.body:,} bytes.",
            remedy="Send less, or start the server with a larger --max-body.",
            status=413,
            code="body_too_large",
        )

    async def _answered(self, request: Request, asked: Asked) -> Response:
        loop, told = asyncio.get_running_loop(), Told()

        def tell(number: int, happened: Event) -> None:
            try:
                loop.call_soon_threadsafe(told.put_nowait, (number, happened))
            except RuntimeError:  # the server has ended, and nobody listens
                pass

        tickets = await run_in_threadpool(self.service.submit, asked.questions, tell)
        passed_on = False
        try:
            # Errors before any text are told by HTTP's number, so the first event is waited for.
            first = await _unless_gone(request, told.get())
            if isinstance(first[1], AlphaEditError):
                raise first[1]
            if not asked.stream:
                return as_json(await _unless_gone(request, _whole(Writer(asked), told, first)))
            passed_on = True
            return StreamingResponse(
                _chunks(Writer(asked), told, first, tickets),
                media_type="text/event-stream",
                headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
            )
        finally:
            if not passed_on:
                tickets.cancel()


async def _unless_gone(request: Request, work: Any) -> Any:
    """What `work` gives.

    Raises:
        ClientDisconnect: nobody waits for it any more.
    """
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=GONE_EVERY)
            if not task.done() and await request.is_disconnected():
                raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()


async def _whole(writer: Writer, told: Told, first: tuple[int, Event]) -> dict[str, Any]:
    """All answers, once they are complete."""
    count = len(writer.asked.questions)
    texts: list[list[str]] = [[] for _ in range(count)]
    tokens: list[list[Token]] = [[] for _ in range(count)]
    ends: dict[int, End] = {}
    number, happened = first
    while True:
        if isinstance(happened, AlphaEditError):
            raise happened
        if isinstance(happened, End):
            ends[number] = happened
        else:
            texts[number].append(happened.text)
            tokens[number] += happened.tokens
        if len(ends) == count:
            break
        number, happened = await told.get()
    answers = [
        Answer("".join(texts[number]), tuple(tokens[number]), ends[number])
        for number in range(count)
    ]
    return writer.whole(answers)


async def _chunks(
    writer: Writer, told: Told, first: tuple[int, Event], tickets: Tickets
) -> AsyncIterator[str]:
    """The events of a stream; requests are given up if nobody reads on."""
    left = len(writer.asked.questions)
    try:
        for line in writer.begin():
            yield line
        number, happened = first
        while True:
            if isinstance(happened, AlphaEditError):
                yield event(error_body(happened))
                return
            if isinstance(happened, Piece):
                yield writer.piece(number, happened)
            else:
                yield writer.end(number, happened)
                left -= 1
            if not left:
                break
            number, happened = await told.get()
        for line in writer.close():
            yield line
    finally:
        tickets.cancel()


async def _no_such_path(request: Request, error: Exception) -> Response:
    return refused(
        RequestError(
            f"There is nothing at {request.url.path[:100]}.",
            remedy="There are /v1/models, /v1/completions, /v1/chat/completions, /health and "
            "/metrics.",
            status=404,
            code="not_found",
        )
    )


async def _wrong_method(request: Request, error: Exception) -> Response:
    return refused(
        RequestError(
            f"{request.url.path[:100]} does not take {request.method[:20]}.",
            remedy="POST completions and chat completions; GET the others.",
            status=405,
            code="method_not_allowed",
        )
    )


async def _bug(request: Request, error: Exception) -> Response:
    return refused(
        AlphaEditError(
            f"{type(error).__name__}: {error}", remedy="This is a bug of alphaedit; see its log."
        )
    )
