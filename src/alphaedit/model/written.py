"""Text of tokens that come one by one, in pieces that are never taken back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""Stands for a character of which some bytes are still to come."""


class Written:
    """What a model has written so far.

    Attributes:
        ids: its tokens.
        stopped: whether a text that ends it was written; it and what follows are left out.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: Sequence[str] = (),
        *,
        in_pieces: bool = True,
    ) -> None:
        """Begin.

        Args:
            decode: text of tokens.
            stop: texts that end it.
            in_pieces: whether anybody wants text before the end.
        """
        self.ids: list[int] = []
        self.stopped = False
        self._decode, self._stop = decode, [text for text in stop if text]
        self._each = in_pieces or bool(self._stop)
        self._given = 0

    def add(self, token: int) -> str:
        """Go on with a token; the text that is now certain and was not given before."""
        self.ids.append(token)
        if not self._each or self.stopped:
            return ""
        text = self._decode(self.ids)
        places = [at for stop in self._stop if (at := text.find(stop, self._given)) >= 0]
        if places:
            self.stopped = True
            return self._upto(text, min(places))
        whole = text.rstrip(UNFINISHED)
        return self._upto(whole, len(whole) - self._open(whole))

    def rest(self) -> str:
        """What was held back, when nothing follows."""
        if self.stopped:
            return ""
        text = self._decode(self.ids)
        return self._upto(text, len(text))

    def _open(self, text: str) -> int:
        """Characters at the end that may be the beginning of a text that ends it."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stop):
                return count
        return 0

    def _upto(self, text: str, end: int) -> str:
        if end <= self._given:
            return ""
        piece, self._given = text[self._given : end], end
        return piece
