"""Serve a model with the edits of ledgers: requests wait, and are answered in batches."""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alphaedit.core.errors import AlphaEditError, ConfigError
from alphaedit.core.progress import Progress, silent
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.front import Front
from alphaedit.jobs.opening import Opening
from alphaedit.jobs.serving import ServedModels
from alphaedit.jobs.waiting import Waiting, stopping
from alphaedit.ledger.known import remember
from alphaedit.ledger.ledger import Ledger

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor
    from alphaedit.model.answering import End, Event, Question, Ticket, Token

LOG = logging.getLogger(__name__)
BATCH, QUEUE, MAX_NEW_TOKENS, GATHER = 16, 64, 1024, 0.01


@dataclass(frozen=True, kw_only=True)
class ServeRequest(Opening):
    """What is served.

    Attributes:
        name: of the unedited model; by default the last part of where it is.
        ledgers: directories of ledgers, by the names of the models that have their edits.
        batch: most requests that are answered together.
        queue: most requests that wait.
        max_new_tokens: most tokens of an answer.
        gather: seconds without a new request after which a batch begins.
    """

    name: str | None = None
    ledgers: Mapping[str, Path] = field(default_factory=dict)
    batch: int = BATCH
    queue: int = QUEUE
    max_new_tokens: int = MAX_NEW_TOKENS
    gather: float = GATHER

    @property
    def base(self) -> str:
        """Name of the unedited model."""
        return self.name or Path(self.model).name or self.model

    def check(self) -> None:
        """Refuse what cannot be served; no model is loaded for it.

        Raises:
            ConfigError: a number is impossible, or two models have one name.
            LedgerError: a ledger is missing or broken.
        """
        for name in ("batch", "queue", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}.", remedy="Give 1 or more.")
        if self.base in self.ledgers:
            raise ConfigError(
                f"Two models would be called {self.base!r}: the unedited one, and that of "
                f"{self.ledgers[self.base]}.",
                remedy=f"Name it otherwise: --edits NAME={self.ledgers[self.base]}.",
            )
        for path in self.ledgers.values():
            Ledger(path)


@dataclass(frozen=True)
class Answer:
    """A whole answer.

    Attributes:
        text: what was written.
        tokens: its tokens with log-probabilities, if they were wanted.
        end: why it ended, and what it took.
    """

    text: str
    tokens: tuple[Token, ...]
    end: End


class Service:
    """Owns a model, and answers requests until it is stopped.

    One thread runs the model. It takes the oldest request and those of the same ledger that wait,
    brings the ledger's edits into force, and answers all of them together. Hooks decide for each
    row of a batch at the end of its own prompt (`model.route`), and memories put each prompt by
    itself, so that no request has to do with what runs beside it.

    Attributes:
        request: what is served.
        front: checks requests and writes conversations.
        models: the served models by name.
        counts: of requests by model and outcome, tokens by model and kind, and batches.
    """

    def __init__(self, editor: Editor, request: ServeRequest) -> None:
        """Begin to serve; the editor belongs to the service from here on.

        Raises:
            FingerprintError: a ledger is of another model.
            LedgerError: one is broken.
        """
        self.request = request
        self.models = ServedModels(editor, request.base, request.ledgers)
        self.front = Front(editor.handle, request.max_new_tokens)
        self.counts: Counter[tuple[str, ...]] = Counter()
        self._handle = editor.handle
        self._lock = threading.Lock()
        self._waiting = Waiting(most=request.queue, together=request.batch, gather=request.gather)
        self._running: list[Ticket] = []
        self.began = int(time.time())
        self.stopping = False
        self._seeds = random.Random(request.seed)
        self._thread = threading.Thread(target=self._work, name="alphaedit-serve", daemon=True)
        self._thread.start()

    def submit(self, questions: Sequence[Question], tell: Callable[[int, Event], None]) -> Tickets:
        """Let questions wait to be answered, all or none.

        Args:
            questions: what is asked.
            tell: called in the service's thread with a question's number, and what becomes of it.

        Raises:
            UnknownNameError: there is no such model.
            ModelError, ConfigError: a prompt cannot be answered, or not in the length asked for.
            BusyError: too many requests wait.
            StoppingError: the service is stopping.
        """
        from functools import partial

        from alphaedit.model.answering import Ticket

        checked = []
        for question in questions:
            self.models.check(question.model)
            checked.append(self.front.checked(question))
        tickets = [
            Ticket(question, partial(tell, number)) for number, question in enumerate(checked)
        ]
        try:
            self._waiting.add(tickets)
        except AlphaEditError:
            self._count(("requests", checked[0].model, "refused"), len(tickets))
            raise
        return Tickets(tickets)

    def stream(self, question: Question) -> Iterator[Event]:
        """What becomes of one question: pieces as they are made, then the end.

        Whoever stops reading gives the request up.

        Raises:
            AlphaEditError: see `submit`; or what went wrong while it was answered.
        """
        from alphaedit.model.answering import End

        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        tickets = self.submit([question], lambda number, event: events.put(event))
        try:
            while True:
                event = events.get()
                if isinstance(event, AlphaEditError):
                    raise event
                yield event
                if isinstance(event, End):
                    return
        finally:
            tickets.cancel()

    def ask(self, question: Question) -> Answer:
        """The whole answer to one question.

        Raises:
            AlphaEditError: see `stream`.
        """
        *pieces, end = self.stream(question)
        text = "".join(piece.text for piece in pieces)  # type: ignore[union-attr]
        tokens = tuple(token for piece in pieces for token in piece.tokens)  # type: ignore[union-attr]
        return Answer(text, tokens, end)  # type: ignore[arg-type]

    def call(self, work: Callable[[], None]) -> None:
        """Let the thread that owns the model do something between batches; it must not raise.

        Raises:
            StoppingError: the service is stopping.
        """
        self._waiting.call(work)

    def seed(self) -> int:
        """A seed for a request that names none."""
        with self._lock:
            return self._seeds.getrandbits(63)

    def status(self) -> dict[str, Any]:
        """How it is: JSON values."""
        return {
            "status": "stopping" if self.stopping else "ok" if self.alive else "failed",
            "waiting": len(self._waiting),
            "running": len(self._running),
            "models": self.models.status(),
        }

    @property
    def alive(self) -> bool:
        """Whether the thread that answers runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Take no more requests; those there are will be answered."""
        self.stopping = True
        self._waiting.close()

    def stop(self, grace: float = 0.0) -> bool:
        """Take no more requests, and end: at once, or when those there are have been answered.

        Args:
            grace: seconds to wait for that; requests left then are told that the server stops.

        Returns:
            Whether the thread has ended.
        """
        self.close()
        self._thread.join(grace)
        for ticket in self._waiting.clear():
            ticket.tell(stopping())
        with self._lock:
            running = list(self._running)
        for ticket in running:
            ticket.tell(stopping())
            ticket.cancel()
        self._thread.join(grace + 60)
        return not self.alive

    def _work(self) -> None:
        while batch := self._waiting.next():
            if callable(batch):
                batch()
                continue
            with self._lock:
                self._running = batch
            began = time.perf_counter()
            try:
                self._answer(batch)
            except BaseException as error:  # whatever it is: the next batch must be answered
                LOG.exception("a batch failed")
                problem = error if isinstance(error, AlphaEditError) else failure(error)
                for ticket in batch:
                    ticket.tell(problem)
            seconds = time.perf_counter() - began
            self._waiting.took(seconds)
            self._count(("batches",), 1)
            self._count(("rows",), len(batch))
            with self._lock:
                self._running = []

    def _answer(self, batch: Sequence[Ticket]) -> None:
        from alphaedit.model.answering import answer

        version = self.models.bring(batch[0].question.model)
        answer(self._handle, batch, version)
        for ticket in batch:
            model, end = ticket.question.model, ticket.end
            outcome = "answered" if end else "failed" if ticket.over else "given up"
            self._count(("requests", model, outcome), 1)
            if end is not None:
                self._count(("tokens", model, "prompt"), end.prompt_tokens)
                self._count(("tokens", model, "completion"), end.new_tokens)

    def _count(self, what: tuple[str, ...], more: int) -> None:
        with self._lock:
            self.counts[what] += more

    def counted(self) -> dict[tuple[str, ...], int]:
        """A copy of `counts`."""
        with self._lock:
            return dict(self.counts)


@dataclass(frozen=True)
class Tickets:
    """Requests that were submitted together."""

    tickets: Sequence[Ticket]

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        for ticket in self.tickets:
            ticket.cancel()


def failure(error: BaseException) -> AlphaEditError:
    """What is told of an error that is none of ours."""
    from alphaedit.core.errors import ResourceError
    from alphaedit.model.memory import is_out_of_memory

    if is_out_of_memory(error):
        return ResourceError(
            "Memory does not suffice to answer.",
            remedy="Start the server with a smaller --batch, or ask for less.",
        )
    return AlphaEditError(
        f"{type(error).__name__}: {error}", remedy="This is a bug of alphaedit; its log has more."
    )


def run(
    request: ServeRequest, *, progress: Progress = silent, cancel: Cancel | None = None
) -> Service:
    """Load the model, read the ledgers, and begin to answer.

    Raises:
        ConfigError, LedgerError: found before the model is loaded.
        FingerprintError: a ledger is of another model.
        ModelError: the model cannot be loaded.
        Cancelled: `cancel` was set.
    """
    request.check()
    progress = watched(progress, cancel)
    editor = request.open(progress)
    service = Service(editor, request)
    for path in request.ledgers.values():
        remember(Ledger(path), request.model)
    return service
