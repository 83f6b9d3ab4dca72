"""Answers in the form of OpenAI's completions and chat completions, whole or in chunks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alphaedit.jobs.serve import Answer
from alphaedit.model.answering import End, Piece, Token
from alphaedit.server.reading import Asked

LEAST = -9999.0
"""Stands for a log-probability of minus infinity, which JSON does not have."""
DONE = "data: [DONE]\n\n"


class Writer:
    """Writes what one request is answered."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._id = f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._offsets = [0] * len(asked.questions)
        self._ends: list[End] = []

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers, in the order of the prompts."""
        choices = [self._choice(number, answer) for number, answer in enumerate(answers)]
        ends = [answer.end for answer in answers]
        return {**self._head(ends[0].version), "choices": choices, "usage": usage(ends)}

    def begin(self) -> Iterator[str]:
        """What a stream begins with."""
        for number, question in enumerate(self.asked.questions):
            if self.asked.chat:
                yield self._chunk(number, {"delta": {"role": "assistant", "content": ""}})
            elif self.asked.echo:
                yield self._chunk(number, {"text": question.prompt})

    def piece(self, number: int, piece: Piece) -> str:
        """Some text of the answer to a question."""
        rated = self._rated(number, piece.tokens)
        if self.asked.chat:
            return self._chunk(number, {"delta": {"content": piece.text}, "logprobs": rated})
        return self._chunk(number, {"text": piece.text, "logprobs": rated})

    def end(self, number: int, end: End) -> str:
        """The end of the answer to a question."""
        self._ends.append(end)
        empty: dict[str, Any] = {"delta": {}} if self.asked.chat else {"text": ""}
        return self._chunk(number, empty, end)

    def close(self) -> Iterator[str]:
        """What a stream ends with."""
        if self.asked.usage:
            head = {**self._head(self._ends[0].version), "choices": []}
            yield event({**head, "usage": usage(self._ends)})
        yield DONE

    def _head(self, version: str | None) -> dict[str, Any]:
        kind = "text_completion"
        if self.asked.chat:
            kind = "chat.completion.chunk" if self.asked.stream else "chat.completion"
        head = {"id": self._id, "object": kind, "created": self._created}
        return {**head, "model": self.asked.model, "system_fingerprint": version}

    def _choice(self, number: int, answer: Answer) -> dict[str, Any]:
        about: dict[str, Any] = {"index": number, "finish_reason": answer.end.reason}
        about["logprobs"] = self._rated(number, answer.tokens)
        if self.asked.chat:
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            return {**about, "message": message}
        front = self.asked.questions[number].prompt if self.asked.echo else ""
        return {**about, "text": front + answer.text}

    def _chunk(self, number: int, what: Mapping[str, Any], end: End | None = None) -> str:
        choice = {"index": number, "logprobs": None, "finish_reason": None, **what}
        if end is not None:
            choice["finish_reason"] = end.reason
        chunk = {**self._head(end.version if end else None), "choices": [choice]}
        return event({**chunk, "usage": None} if self.asked.usage else chunk)

    def _rated(self, number: int, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.asked.questions[number].best is None:
            return None
        if self.asked.chat:
            content = []
            for token in tokens:
                best = [_bytes(text, logprob) for text, logprob in token.best]
                content.append({**_bytes(token.text, token.logprob), "top_logprobs": best})
            return {"content": content, "refusal": None}
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token.text)
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [_finite(token.logprob) for token in tokens],
            "top_logprobs": [{text: _finite(p) for text, p in token.best} for token in tokens],
            "text_offset": offsets,
        }


def usage(ends: Sequence[End]) -> dict[str, int]:
    """Tokens that were read and written."""
    read, written = (sum(getattr(end, name) for end in ends) for name in _COUNTS)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


_COUNTS = ("prompt_tokens", "new_tokens")


def event(body: Mapping[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"


def _finite(value: float) -> float:
    return max(value, LEAST)


def _bytes(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _finite(logprob), "bytes": list(text.encode())}
