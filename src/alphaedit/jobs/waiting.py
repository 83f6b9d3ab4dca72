"""Requests that wait for a model: few enough, oldest first, those of one model together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alphaedit.core.errors import BusyError, StoppingError

if TYPE_CHECKING:
    from alphaedit.model.answering import Ticket

MOST_GATHERS = 5


def stopping() -> StoppingError:
    """The error of a request that comes, or is still there, at the end."""
    return StoppingError("The server is stopping.", remedy="Ask again once it runs.")


class Waiting:
    """The queue between those who ask and the thread that answers.

    Args:
        most: requests that may wait.
        together: most requests of one batch.
        gather: a batch begins once no request has come for this many seconds, or it is full, or
            MOST_GATHERS as long.
    """

    def __init__(self, *, most: int, together: int, gather: float) -> None:
        self.most, self.together, self.gather = most, together, gather
        self._changed = threading.Condition()
        self._tickets: list[Ticket] = []
        self._works: deque[Callable[[], None]] = deque()
        self._closed = False
        self._latest = 0.0
        self._seconds = 1.0
        """Of a batch, lately."""

    def __len__(self) -> int:
        with self._changed:
            return len(self._tickets)

    def add(self, tickets: Sequence[Ticket]) -> None:
        """Let requests wait, all or none.

        Raises:
            BusyError: too many wait.
            StoppingError: no more are taken.
        """
        with self._changed:
            if self._closed:
                raise stopping()
            self._tickets = [ticket for ticket in self._tickets if not ticket.cancelled]
            if len(self._tickets) + len(tickets) > self.most:
                batches = -(-len(self._tickets) // self.together)
                raise BusyError(
                    f"{len(self._tickets)} requests wait already, of {self.most} that may.",
                    remedy="Ask again later, or start the server with a longer --queue.",
                    seconds=max(1, min(60, round(batches * self._seconds))),
                )
            self._tickets += tickets
            self._latest = time.monotonic()
            self._changed.notify_all()

    def call(self, work: Callable[[], None]) -> None:
        """Let something else wait for the thread that answers; requests go before it.

        Raises:
            StoppingError: nothing is taken any more.
        """
        with self._changed:
            if self._closed:
                raise stopping()
            self._works.append(work)
            self._changed.notify_all()

    def next(self) -> list[Ticket] | Callable[[], None]:
        """The oldest request and others of its model, or other work; waits for one.

        Empty at the end; other work that is left then is not done.
        """
        with self._changed:
            while not self._tickets and not self._works and not self._closed:
                self._changed.wait()
            if self._tickets:
                self._gathered()
            self._tickets = [ticket for ticket in self._tickets if not ticket.cancelled]
            if not self._tickets:
                if self._closed:
                    return []
                return self._works.popleft() if self._works else self.next()
            model = self._tickets[0].question.model
            same = [ticket for ticket in self._tickets if ticket.question.model == model]
            batch = same[: self.together]
            self._tickets = [ticket for ticket in self._tickets if ticket not in batch]
            return batch

    def _gathered(self) -> None:
        """Wait for more requests a moment: a batch takes about as long as each of them alone."""
        at_most = time.monotonic() + MOST_GATHERS * self.gather
        while not self._closed and len(self._tickets) < self.together:
            left = min(self._latest + self.gather, at_most) - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def took(self, seconds: float) -> None:
        """Remember how long a batch took, for those who are told when to ask again."""
        with self._changed:
            self._seconds = 0.7 * self._seconds + 0.3 * seconds

    def close(self) -> None:
        """Take no more requests; those that wait are still answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Ticket]:
        """Take those that wait out, and give them."""
        with self._changed:
            rest, self._tickets = self._tickets, []
            self._changed.notify_all()
            return rest
