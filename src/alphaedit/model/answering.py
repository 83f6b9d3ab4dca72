"""Requests that are answered together: each row by its own settings, tokens told as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from alphaedit.core.errors import AlphaEditError, ConfigError
from alphaedit.model.generate import BATCH_TOKENS, stream_ids
from alphaedit.model.handle import ModelHandle
from alphaedit.model.sampling import Sampler, Sampling
from alphaedit.model.written import Written


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt, and how it is to be answered.

    Attributes:
        model: name of the served model.
        prompt: the text that is gone on from; of a conversation what the chat template wrote.
        max_tokens: most tokens of the answer; it is refused if there is no room for them.
        usual_tokens: the same where that is None, or as many as there is room for.
        sampling: how tokens are chosen.
        stop: texts that end the answer, left out of it.
        best: how many of the likeliest tokens are told with each token; None for no probabilities.
        best_if_known: where no probabilities can be had, the answer comes without them.
        chat: the model's own ends of a turn end the answer too.
        in_pieces: text is told as it is made.
    """

    model: str
    prompt: str
    max_tokens: int | None = None
    usual_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    best: int | None = None
    best_if_known: bool = False
    chat: bool = False
    in_pieces: bool = False


@dataclass(frozen=True)
class Token:
    """A token with log-probabilities (natural logarithm): its own, and those of the likeliest."""

    text: str
    logprob: float
    best: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Piece:
    """Some text of an answer, and the tokens it was made of if their probabilities are wanted."""

    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class End:
    """An answer is complete.

    Attributes:
        reason: "stop" where the model or a stop text ended it, else "length".
        prompt_tokens: tokens that the model read, what a memory put in front included.
        new_tokens: tokens that it wrote.
        version: the edits in force, by their version in the ledger.
    """

    reason: Literal["stop", "length"]
    prompt_tokens: int
    new_tokens: int
    version: str


Event = Piece | End | AlphaEditError
"""What is told of a request: pieces, then its end or an error."""


class Ticket:
    """A request that waits or is answered.

    Attributes:
        question: what is asked.
        over: its end or an error was told.
        end: of its answer, if it has come to that.
    """

    def __init__(self, question: Question, tell: Callable[[Event], None]) -> None:
        self.question = question
        self.over = False
        self.end: End | None = None
        self._tell = tell
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Nobody waits for the answer any more; from any thread."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set()

    def tell(self, event: Event) -> None:
        """Tell whoever asked; nothing after the end."""
        if self.over:
            return
        self.over = not isinstance(event, Piece)
        if isinstance(event, End):
            self.end = event
        self._tell(event)


class Row:
    """One request while it is answered."""

    def __init__(self, handle: ModelHandle, ticket: Ticket, prompt: list[int], room: int) -> None:
        asked = ticket.question
        self.ticket, self.prompt, self.room = ticket, prompt, room
        self.sampler = None if asked.sampling.greedy else Sampler(asked.sampling)
        self.done = False
        self._handle = handle
        self._ends = ends_of(handle, chat=asked.chat)
        self._written = Written(handle.tokens.decode, asked.stop, in_pieces=asked.in_pieces)
        self._tokens: list[Token] = []
        self._later: list[str] = []

    def take(self, token: int, logits: Tensor, version: str) -> None:
        """Go on with a token that was chosen by `logits` [vocabulary]."""
        if self.ticket.cancelled:
            self.done = True
            return
        if token in self._ends:
            self._close("stop", version)
            return
        asked = self.ticket.question
        if asked.best is not None:
            self._tokens.append(self._rated(token, logits, asked.best))
        text = self._written.add(token)
        if text and asked.in_pieces:
            self._give(text)
        elif text:
            self._later.append(text)
        if self._written.stopped:
            self._close("stop", version)
        elif len(self._written.ids) >= self.room:
            self._close("length", version)

    def _close(self, reason: Literal["stop", "length"], version: str) -> None:
        self.done = True
        text = "".join([*self._later, self._written.rest()])
        if text or self._tokens:
            self._give(text)
        count = len(self._written.ids)
        self.ticket.tell(End(reason, len(self.prompt), count, version))

    def _give(self, text: str) -> None:
        tokens, self._tokens = tuple(self._tokens), []
        self.ticket.tell(Piece(text, tokens))

    def _rated(self, token: int, logits: Tensor, count: int) -> Token:
        log_p = logits.log_softmax(-1)
        values, index = log_p.topk(min(count, len(log_p)))
        decode = self._handle.tokens.decode
        best = [(decode([int(i)]), float(v)) for i, v in zip(index, values, strict=True)]
        return Token(decode([token]), float(log_p[token]), tuple(best))


def ends_of(handle: ModelHandle, *, chat: bool) -> set[int]:
    """Tokens that end an answer: end of text, and in a conversation those of the model's turns."""
    ends = {getattr(handle.tokenizer, "eos_token_id", None)}
    if chat:
        config = getattr(handle.model, "generation_config", None)
        turns = getattr(config, "eos_token_id", None)
        ends |= set(turns) if isinstance(turns, (list, tuple)) else {turns}
    return {token for token in ends if isinstance(token, int)}


def answer(handle: ModelHandle, tickets: Sequence[Ticket], version: str) -> None:
    """Answer requests with the edits that are in force now; each is told what becomes of it.

    An error of one prompt is told to its request alone.

    Args:
        handle: the model.
        tickets: requests, all of them of the model as it is now.
        version: of the edits in force.
    """
    if handle.routed is not None:
        for ticket in tickets:
            _told_apart(ticket, lambda ticket: _elsewhere(handle, ticket, version))
        return
    rows: list[Row] = []
    for ticket in tickets:
        _told_apart(ticket, lambda ticket: rows.append(_row(handle, ticket)))
    for together in packs(rows, handle.max_positions):
        try:
            _go_on(handle, together, version)
        except AlphaEditError as error:
            for row in together:
                row.ticket.tell(error)


def packs(rows: Sequence[Row], limit: int | None) -> Iterator[list[Row]]:
    """Rows that may run together: none is shorter for it, as the longest leaves room for all."""
    pack: list[Row] = []
    longest = room = 0
    # Equal lengths side by side need no padding.
    for row in sorted(rows, key=lambda row: len(row.prompt)):
        longest, room = len(row.prompt), max(room, row.room)
        full = limit is not None and longest + room > limit
        if pack and (full or (len(pack) + 1) * longest > BATCH_TOKENS):
            yield pack
            pack, room = [], row.room
        pack.append(row)
    if pack:
        yield pack


def _told_apart(ticket: Ticket, do: Callable[[Ticket], None]) -> None:
    """Do something for a request; an error is told to it alone."""
    if ticket.cancelled:
        return
    try:
        do(ticket)
    except AlphaEditError as error:
        ticket.tell(error)


def _row(handle: ModelHandle, ticket: Ticket) -> Row:
    (text,) = handle.rendered([ticket.question.prompt])
    ids = handle.tokens.encode(text)
    assert ticket.question.max_tokens is not None
    limit, room = handle.max_positions, ticket.question.max_tokens
    return Row(handle, ticket, ids, room if limit is None else min(room, limit - len(ids)))


def _go_on(handle: ModelHandle, rows: Sequence[Row], version: str) -> None:
    """Answer rows in one batch; those that are over stay in it, and are told nothing more."""
    latest: list[Tensor] = []

    def pick(logits: Tensor) -> Tensor:
        latest[:] = [logits]
        chosen = logits.argmax(-1)
        for number, row in enumerate(rows):
            if row.sampler is not None and not row.done:
                chosen[number] = row.sampler.draw(logits[number])
        return chosen

    steps = stream_ids(handle, [row.prompt for row in rows], pick)
    try:
        for tokens in steps:
            for row, token, logits in zip(rows, tokens.tolist(), latest[0], strict=True):
                if not row.done:
                    row.take(token, logits, version)
            if all(row.done for row in rows):
                break
    finally:
        steps.close()  # type: ignore[attr-defined]


def _elsewhere(handle: ModelHandle, ticket: Ticket, version: str) -> None:
    """Answer by what stands in the model's place: greedily, and in one piece."""
    asked, responder = ticket.question, handle.routed
    assert responder is not None
    assert asked.max_tokens is not None
    rated = asked.best is not None and not asked.best_if_known
    if not asked.sampling.greedy or rated:
        raise ConfigError(
            f"{asked.model} sends some requests to other models, and gives neither samples nor "
            "log-probabilities.",
            remedy="Ask with temperature 0 and without logprobs.",
        )
    (text,) = responder.generate([asked.prompt], asked.max_tokens)
    (read,), count = responder.lengths([asked.prompt]), len(handle.tokens.encode(text))
    places = [at for stop in asked.stop if stop and (at := text.find(stop)) >= 0]
    short = bool(places) or count < asked.max_tokens
    ticket.tell(Piece(text[: min(places, default=len(text))]))
    ticket.tell(End("stop" if short else "length", read, count, version))
