"""What the page of the studio asks for: reading, checking and starting are thin over `jobs`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from alphaedit.core.defaults import METHOD
from alphaedit.core.errors import AlphaEditError, FactError, FieldError
from alphaedit.core.fact import Fact
from alphaedit.editor.standard import before_a_model, method_for
from alphaedit.jobs import checking, commands, studio_about, studio_runs
from alphaedit.jobs.look import LookRequest
from alphaedit.jobs.preview import PreviewRequest
from alphaedit.jobs.runs import told as error_told
from alphaedit.jobs.serve import Tickets
from alphaedit.jobs.settings import methods_for, settings_of
from alphaedit.jobs.studio import EDITED, Studio
from alphaedit.ledger.ledger import Ledger
from alphaedit.model.answering import End, Event, Question
from alphaedit.model.sampling import Sampling
from alphaedit.server import studio_bodies as bodies
from alphaedit.server.refusing import as_json
from alphaedit.server.studio_bodies import body_of
from alphaedit.server.studio_pages import Pages

Handler = Callable[[Request], Awaitable[Response]]
BEST = 5
"""Likeliest tokens that are told with each token."""
WAIT, TICK = 20.0, 0.15
"""Seconds: how long news are waited for, and how often is looked."""


class Api:
    """Handlers of the page's requests."""

    def __init__(self, studio: Studio, pages: Pages) -> None:
        self.studio, self.pages = studio, pages
        self.gallery = studio_about.Gallery(studio.opened.results)
        self._about: dict[str, Any] | None = None
        self._methods: list[dict[str, Any]] | None = None
        self._once = asyncio.Lock()

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path below /api/, and handler of each."""
        return [
            ("GET", "about", self.about),
            ("GET", "methods", self.methods),
            ("GET", "news", self.news),
            ("POST", "ask", self.ask),
            ("POST", "facts/read", self.read_facts),
            ("POST", "facts/ask", self.ask_facts),
            ("POST", "previews", self.preview),
            ("POST", "previews/{name}/keep", self.keep),
            ("POST", "previews/{name}/discard", self.discard),
            ("GET", "runs/{name}", self.run),
            ("POST", "runs/{name}/cancel", self.cancel),
            ("GET", "history", self.history),
            ("GET", "history/diff", self.diff),
            ("GET", "history/edits/{name}", self.edit),
            ("POST", "history/revert", self.revert),
            ("POST", "history/checkout", self.checkout),
            ("POST", "exports", self.export),
            ("POST", "look/trace", self.trace),
            ("POST", "look/spectra", self.spectra),
            ("POST", "look/where", self.where),
            ("GET", "results", self.results),
            ("GET", "results/page", self.result_page),
        ]

    async def warm(self) -> None:
        """Get ready what the first page will ask for."""
        await self._told()
        await self._known_methods()

    async def _told(self) -> dict[str, Any]:
        async with self._once:
            if self._about is None:
                self._about = await run_in_threadpool(studio_about.about, self.studio)
            return self._about

    async def _known_methods(self) -> list[dict[str, Any]]:
        async with self._once:
            if self._methods is None:
                self._methods = await run_in_threadpool(methods_for, self.studio.editor.handle)
            return self._methods

    async def about(self, request: Request) -> Response:
        """The model, and where it works."""
        return as_json({**await self._told(), **await run_in_threadpool(self._now)})

    async def methods(self, request: Request) -> Response:
        """All methods with their settings."""
        editor, known = self.studio.editor, await self._known_methods()
        standard = await run_in_threadpool(method_for, METHOD, editor.handle, editor.edits)
        return as_json({"methods": known, "standard": standard.name})

    def _now(self) -> dict[str, Any]:
        """What changes: the ledger, and what goes on."""
        timeline, status = self.studio.timeline, self.studio.status()
        try:
            head = timeline.head()
            ledger = {
                "begun": head is not None,
                "version": head.id if head else None,
                "edits": head.size if head else 0,
                "entries": len(timeline.begun().history.entries) if head else 0,
                "problem": status["models"][EDITED]["problem"],
            }
        except (AlphaEditError, OSError) as error:
            ledger = {"begun": True, "version": None, "edits": 0, "problem": str(error)}
        return {
            "status": status["status"],
            "waiting": status["waiting"],
            "now": ledger,
            "previews": self.studio.previews,
        }

    async def news(self, request: Request) -> Response:
        """Runs that changed since a revision; waits a while for the first that does."""
        runs = self.studio.runs
        since = _number(request, "since", 0)
        version = request.query_params.get("version")
        loop = asyncio.get_running_loop()
        until = loop.time() + (WAIT if request.query_params.get("wait") else 0)
        now = await run_in_threadpool(self._now)
        looked = loop.time()
        while loop.time() < until and not self.studio.stopping:
            if runs.revision != since or (version and version != str(now["now"]["version"])):
                break
            await asyncio.sleep(TICK)
            if await request.is_disconnected():
                return Response(status_code=499)
            if loop.time() - looked > 1:  # other processes may write the ledger
                now, looked = await run_in_threadpool(self._now), loop.time()
        revision, rows = runs.listed(since if since <= runs.revision else 0)
        now = await run_in_threadpool(self._now)
        return as_json({"revision": revision, "runs": rows, **now})

    async def ask(self, request: Request) -> Response:
        """Answers of models, streamed as lines of JSON."""
        body = await body_of(request, bodies.AskBody)
        front, opened = self.studio.front, self.studio.opened
        if body.max_tokens > opened.max_new_tokens:
            raise FieldError(
                f"{body.max_tokens} tokens are more than {opened.max_new_tokens}.",
                remedy="Ask for fewer.",
                field="max_tokens",
            )
        prompt = body.prompt
        if body.chat:
            turns = [{"role": "user", "content": prompt}]
            prompt = await run_in_threadpool(front.conversation, turns)
        # What is in force answers first, so that edits are changed over once and not twice.
        models = sorted(body.models, key=self.studio.models.in_force, reverse=True)
        questions = [
            Question(
                model=model,
                prompt=prompt,
                max_tokens=body.max_tokens,
                sampling=Sampling(temperature=body.temperature, seed=body.seed),
                best=BEST,
                best_if_known=True,
                chat=body.chat,
                in_pieces=True,
            )
            for model in models
        ]
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

        def tell(number: int, happened: Event) -> None:
            try:
                loop.call_soon_threadsafe(events.put_nowait, (number, happened))
            except RuntimeError:  # the server has ended, and nobody listens
                pass

        tickets = await run_in_threadpool(self.studio.submit, questions, tell)
        ledger = opened.ledger if Ledger.at(opened.ledger) else None
        command = commands.ask(opened.model, body.prompt, ledger, body.max_tokens, chat=body.chat)
        lines = _lines(models, events, tickets, command)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def read_facts(self, request: Request) -> Response:
        """Facts of a text or a form, and what is the matter with each."""
        body = await body_of(request, bodies.FactsBody)
        rows = await run_in_threadpool(self._rows, body)
        wrong = sum(not row.ok for row in rows)
        return as_json({"rows": [row.to_json() for row in rows], "wrong": wrong})

    def _rows(self, body: bodies.FactsBody) -> list[checking.Row]:
        if (body.text is None) == (body.records is None):
            raise FactError("There are no facts.", remedy="Give a text, or records.")
        if body.text is not None:
            rows = checking.read(body.text, body.format)
        else:
            rows = checking.of_records(body.records or [])
        checking.check(rows, self.studio.timeline.standing())
        return rows

    async def ask_facts(self, request: Request) -> Response:
        """Begin to ask the model for facts."""
        body = await body_of(request, bodies.FactsBody)
        rows = await run_in_threadpool(self._rows, body)
        return as_json({"run": studio_runs.start_check(self.studio, rows).id}, 202)

    async def preview(self, request: Request) -> Response:
        """Begin to try facts out."""
        body = await body_of(request, bodies.PreviewBody)

        def begin() -> str:
            facts = [Fact.from_dict(r, f"fact {n}") for n, r in enumerate(body.records, 1)]
            settings = settings_of(before_a_model(body.method), body.settings)
            asked = PreviewRequest(
                facts=facts,
                method=body.method,
                hyperparameters=settings,
                batch_size=body.batch_size,
                chat=body.chat,
            )
            return studio_runs.start_preview(self.studio, asked).id

        return as_json({"run": await run_in_threadpool(begin)}, 202)

    async def keep(self, request: Request) -> Response:
        """Record a preview."""
        body, name = await body_of(request, bodies.WhyBody), request.path_params["name"]
        return as_json(await run_in_threadpool(self.studio.keep, name, body.why))

    async def discard(self, request: Request) -> Response:
        """Forget a preview."""
        await run_in_threadpool(self.studio.discard, request.path_params["name"])
        return as_json({"discarded": request.path_params["name"]})

    async def run(self, request: Request) -> Response:
        """All of a run."""
        return as_json(_finite(self.studio.runs.whole(request.path_params["name"])))

    async def cancel(self, request: Request) -> Response:
        """Stop a run."""
        return as_json({"state": self.studio.runs.stop(request.path_params["name"]).state})

    async def history(self, request: Request) -> Response:
        """Some entries of the ledger, the latest first."""
        before = _number(request, "before", None)
        count, words = _number(request, "count", 50), request.query_params.get("words", "")
        page = await run_in_threadpool(self.studio.timeline.page, before, count, words[:200])
        return as_json(page)

    async def diff(self, request: Request) -> Response:
        """What two versions differ in."""
        a, b = (request.query_params.get(name, "head")[:100] for name in ("a", "b"))
        told = await run_in_threadpool(self.studio.timeline.diff, a, b)
        return as_json({**told, "command": commands.diff(self.studio.opened.ledger, a, b)})

    async def edit(self, request: Request) -> Response:
        """One edit."""
        name = request.path_params["name"]
        return as_json(_finite(await run_in_threadpool(self.studio.timeline.edit, name)))

    async def revert(self, request: Request) -> Response:
        """Take edits out."""
        body = await body_of(request, bodies.RevertBody)
        call = studio_runs.take_out
        return as_json(await run_in_threadpool(call, self.studio, body.edits, body.why))

    async def checkout(self, request: Request) -> Response:
        """Go back."""
        body = await body_of(request, bodies.VersionBody)
        call = studio_runs.go_back
        return as_json(await run_in_threadpool(call, self.studio, body.version, body.why))

    async def export(self, request: Request) -> Response:
        """Begin to write the edits of a version."""
        body = await body_of(request, bodies.ExportBody)
        given = (body.name, body.form, body.version, body.max_rank)
        run = await run_in_threadpool(studio_runs.start_export, self.studio, *given)
        return as_json({"run": run.id}, 202)

    async def trace(self, request: Request) -> Response:
        """Begin to trace a prompt."""
        body = await body_of(request, bodies.TraceBody)
        asked = LookRequest(
            fact=Fact(body.prompt, body.subject, "?"), kind=body.kind, samples=body.samples
        )
        return as_json({"run": studio_runs.start_trace(self.studio, asked, body.model).id}, 202)

    async def spectra(self, request: Request) -> Response:
        """Begin to look at layers."""
        body = await body_of(request, bodies.SpectraBody)
        return as_json({"run": studio_runs.start_spectra(self.studio, body.layers).id}, 202)

    async def where(self, request: Request) -> Response:
        """Begin to look at an edit."""
        body = await body_of(request, bodies.WhereBody)
        run = await run_in_threadpool(studio_runs.start_where, self.studio, body.edit)
        return as_json({"run": run.id}, 202)

    async def results(self, request: Request) -> Response:
        """Experiments and their numbers."""
        rows = await run_in_threadpool(self.gallery.listed)
        folder = str(self.gallery.folder) if self.gallery.folder else None
        return as_json(_finite({"folder": folder, "results": rows}))

    async def result_page(self, request: Request) -> Response:
        """A ticket for a report."""
        path = await run_in_threadpool(self.gallery.page, request.query_params.get("name", ""))
        return as_json({"address": f"/report/{self.pages.ticket(path)}"})


async def _lines(
    models: list[str], events: asyncio.Queue[tuple[int, Event]], tickets: Tickets, command: str
) -> AsyncIterator[str]:
    """What becomes of each question, a line each; they are given up if nobody reads on."""
    left = len(models)
    try:
        yield _line({"command": command})
        while left:
            number, happened = await events.get()
            about: dict[str, Any] = {"model": models[number]}
            if isinstance(happened, AlphaEditError):
                left -= 1
                yield _line({**about, "error": error_told(happened)})
            elif isinstance(happened, End):
                left -= 1
                yield _line({**about, "end": vars(happened)})
            else:
                tokens = [
                    {"text": token.text, "logprob": token.logprob, "best": token.best}
                    for token in happened.tokens
                ]
                yield _line({**about, "text": happened.text, "tokens": tokens})
    finally:
        tickets.cancel()


def _line(values: Any) -> str:
    return json.dumps(_finite(values), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Values with null where JSON has no number."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(name): _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def _number(request: Request, name: str, usual: Any) -> Any:
    """A whole number of the query.

    Raises:
        FieldError: it is none.
    """
    text = request.query_params.get(name)
    if text is None or text == "":
        return usual
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise FieldError(f"{name} is {text[:40]!r}.", remedy="Give a number.", field=name)
    return int(text)
