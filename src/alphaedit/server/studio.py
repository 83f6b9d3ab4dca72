"""The routes of the studio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from alphaedit.core.errors import AlphaEditError, LedgerError, RequestError
from alphaedit.jobs.studio import Studio
from alphaedit.server.refusing import as_json, error_body, refused, status_of
from alphaedit.server.studio_api import Api
from alphaedit.server.studio_pages import INDEX, Pages, nothing_at
from alphaedit.server.studio_safety import Door, Guarded

Handler = Callable[[Request], Awaitable[Response]]


def studio_application(studio: Studio, door: Door, *, ahead: bool = True) -> Starlette:
    """The ASGI application of a studio; the studio ends with it.

    Args:
        studio: what is served.
        door: who may come in.
        ahead: get ready what the first page asks for before it does.
    """
    pages = Pages()
    api = Api(studio, pages)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        warm = asyncio.create_task(api.warm()) if ahead else None
        yield
        if warm is not None:
            await warm
        await run_in_threadpool(studio.stop)

    async def index(request: Request) -> Response:
        return pages.file(INDEX)

    async def asset(request: Request) -> Response:
        return pages.file(request.path_params["name"])

    async def report(request: Request) -> Response:
        return await run_in_threadpool(pages.report, request.path_params["ticket"])

    routes = [
        Route("/", told(index), methods=["GET"]),
        Route("/page/{name}", told(asset), methods=["GET"]),
        Route("/report/{ticket}", told(report), methods=["GET"]),
        *(
            Route(f"/api/{path}", told(handler), methods=[method])
            for method, path, handler in api.routes()
        ),
    ]
    wrong: Mapping[Any, Any] = {404: _no_such_path, 405: _wrong_method, 500: _bug}
    return Starlette(
        routes=routes,
        exception_handlers=wrong,
        lifespan=life,
        middleware=[Middleware(Guarded, door=door)],
    )


def told(handler: Handler) -> Handler:
    """A handler whose errors are told as JSON."""

    async def call(request: Request) -> Response:
        try:
            return await handler(request)
        except LedgerError as error:  # it was changed, or is not as was thought: a conflict
            return as_json(error_body(error), 409)
        except AlphaEditError as error:
            if status_of(error)[0] >= 500 and not isinstance(error, RequestError):
                return as_json(error_body(error), 422)
            return refused(error)
        except ClientDisconnect:
            return Response(status_code=499)

    return call


async def _no_such_path(request: Request, error: Exception) -> Response:
    return refused(nothing_at(request.url.path))


async def _wrong_method(request: Request, error: Exception) -> Response:
    return refused(
        RequestError(
            f"{request.url.path[:100]} does not take {request.method[:20]}.",
            remedy="This is a bug of the page.",
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
