"""Make the next things of an iterator while the last one is worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def prefetch(items: Iterable[T], most: int = 64) -> Iterator[T]:
    """The items in their order, made in a thread that is at most `most` of them ahead.

    What the iterator raises is raised here. The thread ends when this iterator is closed.
    """
    made: queue.Queue[tuple[bool, object]] = queue.Queue(most)
    done = threading.Event()

    def put(kind: bool, value: object) -> bool:
        while not done.is_set():
            try:
                made.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            more, value = made.get()
            if isinstance(value, BaseException) and not more:
                raise value
            if not more:
                return
            yield value  # type: ignore[misc]
    finally:
        done.set()
        # One that is still at work when the interpreter ends would take the process down.
        thread.join(timeout=5.0)
