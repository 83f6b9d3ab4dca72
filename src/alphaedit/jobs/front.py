"""What is checked of a request before it waits, beside the thread that answers."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from alphaedit.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from alphaedit.model.answering import Question
    from alphaedit.model.handle import ModelHandle


class Front:
    """A tokenizer of its own, as those of two threads must not be the same.

    Args:
        handle: the model that answers.
        most: tokens of an answer that a request may ask for, and gets if it names no number.
    """

    def __init__(self, handle: ModelHandle, most: int) -> None:
        from alphaedit.model.tokens import Tokens

        self.tokenizer = copy.deepcopy(handle.tokenizer)
        self.limit = handle.max_positions
        self.most = most
        self._tokens = Tokens(self.tokenizer)
        self._lock = threading.Lock()

    def conversation(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The text that the chat template writes of turns.

        Raises:
            ModelError: the tokenizer has no chat template, or one that fails.
        """
        from alphaedit.model.chat import conversation

        with self._lock:
            return conversation(self.tokenizer, turns)

    def checked(self, question: Question) -> Question:
        """The question with a number of tokens that there is room for.

        Raises:
            ModelError: the prompt has no tokens, or leaves no room for an answer.
            ConfigError: the answer may be longer than there is room for, or than is allowed.
        """
        with self._lock:
            length = len(self._tokens.encode(question.prompt))
        if not length:
            raise ModelError(
                "An empty prompt: the model's tokenizer gives no token for it.",
                remedy="Give some text to go on from.",
            )
        if self.limit is not None and length >= self.limit:
            raise ModelError(
                f"A prompt of {length} tokens leaves no room for an answer: the model reads "
                f"{self.limit} in all.",
                remedy="Shorten the prompt.",
            )
        room = self.most if self.limit is None else min(self.most, self.limit - length)
        wanted = question.max_tokens
        if wanted is None:
            return replace(question, max_tokens=min(room, question.usual_tokens or room))
        if wanted > self.most:
            raise ConfigError(
                f"max_tokens is {wanted}, and this server gives at most {self.most}.",
                remedy="Ask for fewer, or start the server with a larger --max-new-tokens.",
            )
        if wanted > room:
            raise ConfigError(
                f"max_tokens is {wanted}, the prompt has {length} tokens, and the model reads "
                f"{self.limit} in all.",
                remedy=f"Ask for at most {room}, or shorten the prompt.",
            )
        return question
