"""Bodies of requests: what OpenAI's interface has, taken or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alphaedit.core.arguments import as_text, shown
from alphaedit.core.errors import ConfigError, FieldError, RequestError
from alphaedit.model.answering import Question
from alphaedit.model.sampling import Sampling

USUAL_TOKENS = 16
"""Of a completion that names no number, as OpenAI has it."""
MOST_STOPS, MOST_LOGPROBS, MOST_TOP_LOGPROBS, MOST_TOP_K = 4, 5, 20, 1_000_000
IGNORED = {"user", "service_tier", "parallel_tool_calls", "safety_identifier", "prompt_cache_key"}
"""Fields that change nothing here."""
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields that are not supported, and their values that ask for nothing."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks for.

    Attributes:
        model: name of the model.
        questions: one for each prompt.
        chat: it is a conversation.
        stream: answers are sent as they are made.
        usage: a stream ends with the number of tokens.
        echo: prompts stand in front of answers.
    """

    model: str
    questions: tuple[Question, ...]
    chat: bool
    stream: bool
    usage: bool
    echo: bool = False


class Fields:
    """Fields of a JSON object, each taken once; null is as if it were not there."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._left = {name: value for name, value in body.items() if value is not None}

    def take(self, name: str, kinds: tuple[type, ...], wanted: str, default: Any = None) -> Any:
        """A field's value, of one of some kinds.

        Raises:
            FieldError: it is of another kind; `wanted` says what it should be.
        """
        value = self._left.pop(name, None)
        if value is None:
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise FieldError(f"{name} is {shown(value)}.", remedy=f"Give {wanted}.", field=name)
        return value

    def number(self, name: str, low: float, high: float, default: Any, *, whole: bool) -> Any:
        """A number from `low` to `high`."""
        what = f"a {'whole ' if whole else ''}number from {low:g} to {high:.12g}"
        value = self.take(name, (int,) if whole else (int, float), what, default)
        if value is not default and not low <= value <= high:
            raise FieldError(f"{name} is {shown(value)}.", remedy=f"Give {what}.", field=name)
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        return bool(self.take(name, (bool,), "true or false", False))

    def text(self, name: str) -> str:
        """A text that must be there."""
        value = self.take(name, (str,), "a text")
        if value is None:
            raise FieldError(f"The request has no {name}.", remedy="Give a text.", field=name)
        return text_in(name, value)

    def close(self) -> None:
        """Refuse all that was not taken, unless it asks for nothing.

        Raises:
            FieldError: a field is not supported here, or nobody knows it.
        """
        for name, value in self._left.items():
            if name in IGNORED:
                continue
            if name not in NEUTRAL:
                raise FieldError(
                    f"The field {name[:60]!r} is not known.", remedy="Leave it out.", field=name
                )
            if value not in NEUTRAL[name]:
                neutral = " or ".join(json.dumps(value) for value in NEUTRAL[name])
                raise FieldError(
                    f"{name} is {shown(value)}, which is not supported here.",
                    remedy=f"Leave it out{f', or give {neutral}' if neutral else ''}.",
                    field=name,
                )


def text_in(name: str, value: str) -> str:
    """A text, if it can be written.

    Raises:
        FieldError: it holds half of a character.
    """
    try:
        return as_text(name, value)
    except ConfigError as error:
        raise FieldError(error.message, remedy=error.remedy, field=name) from None


def body_of(data: bytes) -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        RequestError: it is none.
    """

    def no_number(text: str) -> Any:
        raise ValueError(f"{text} is no number of JSON")

    problem = ""
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        body, problem = None, f": {str(error)[:200]}"
    if not isinstance(body, dict):
        raise RequestError(
            f"The body is no JSON object{problem}.",
            remedy='Send one, such as {"model": "NAME", "prompt": "TEXT"}.',
            status=400,
            code="invalid_json",
        )
    return body


def completion(body: Mapping[str, Any], seed: Callable[[], int]) -> Asked:
    """What a request of completions asks for; `seed` gives one where it names none.

    Raises:
        FieldError: a field is missing, impossible, or not supported.
    """
    fields = Fields(body)
    model, prompts = fields.text("model"), _prompts(fields)
    best = fields.number("logprobs", 0, MOST_LOGPROBS, None, whole=True)
    echo = fields.flag("echo")
    if echo and best is not None:
        raise FieldError(
            "echo with logprobs is not supported: where a prompt ends in the text that is rated "
            "is not told, and edits may decide there.",
            remedy="Measure by `alphaedit eval MODEL RECORDS --edits LEDGER`.",
            field="echo",
        )
    wanted = fields.number("max_tokens", 1, 2**31 - 1, None, whole=True)
    how = _how(fields, seed)
    stream, usage = _stream(fields)
    fields.close()
    questions = tuple(
        Question(
            model=model,
            prompt=prompt,
            max_tokens=wanted,
            usual_tokens=USUAL_TOKENS,
            best=best,
            in_pieces=stream,
            **how,
        )
        for prompt in prompts
    )
    return Asked(
        model=model, questions=questions, chat=False, stream=stream, usage=usage, echo=echo
    )


def chat(
    body: Mapping[str, Any],
    seed: Callable[[], int],
    write: Callable[[Sequence[Mapping[str, str]]], str],
) -> Asked:
    """What a request of chat completions asks for.

    Args:
        body: its fields.
        seed: gives one where it names none.
        write: the text of a conversation.

    Raises:
        FieldError: a field is missing, impossible, or not supported.
        ModelError: the model has no chat template, or one that fails.
    """
    fields = Fields(body)
    model, turns = fields.text("model"), _turns(fields)
    best = fields.number("top_logprobs", 0, MOST_TOP_LOGPROBS, None, whole=True)
    if not fields.flag("logprobs"):
        if best is not None:
            raise FieldError(
                "top_logprobs is given without logprobs.",
                remedy="Give logprobs: true.",
                field="top_logprobs",
            )
    else:
        best = best or 0
    wanted = fields.number("max_tokens", 1, 2**31 - 1, None, whole=True)
    newer = fields.number("max_completion_tokens", 1, 2**31 - 1, wanted, whole=True)
    if wanted not in (None, newer):
        raise FieldError(
            f"max_tokens is {wanted}, and max_completion_tokens {newer}.",
            remedy="Give the second alone.",
            field="max_tokens",
        )
    how = _how(fields, seed)
    stream, usage = _stream(fields)
    fields.close()
    question = Question(
        model=model,
        prompt=write(turns),
        max_tokens=newer,
        best=best,
        chat=True,
        in_pieces=stream,
        **how,
    )
    return Asked(model=model, questions=(question,), chat=True, stream=stream, usage=usage)


def _how(fields: Fields, seed: Callable[[], int]) -> dict[str, Any]:
    """Sampling and stop texts."""
    sampling = Sampling(
        temperature=float(fields.number("temperature", 0, 2, 1.0, whole=False)),
        top_p=float(fields.number("top_p", 0, 1, 1.0, whole=False)),
        top_k=fields.number("top_k", 1, MOST_TOP_K, None, whole=True),
        seed=_seed(fields, seed),
    )
    stop = fields.take("stop", (str, list), "a text, or a list of texts", [])
    stops = [stop] if isinstance(stop, str) else stop
    if len(stops) > MOST_STOPS or not all(isinstance(text, str) and text for text in stops):
        raise FieldError(
            f"stop is {shown(stop)}.",
            remedy=f"Give a text, or at most {MOST_STOPS}, none empty.",
            field="stop",
        )
    return {"sampling": sampling, "stop": tuple(text_in("stop", text) for text in stops)}


def _seed(fields: Fields, seed: Callable[[], int]) -> int:
    given = fields.number("seed", -(2**63), 2**63 - 1, None, whole=True)
    return seed() if given is None else int(given) % 2**63


def _stream(fields: Fields) -> tuple[bool, bool]:
    """Whether answers are streamed, and whether their tokens are counted at the end."""
    stream = fields.flag("stream")
    options = fields.take("stream_options", (dict,), "an object")
    if options is None:
        return stream, False
    if not stream:
        raise FieldError(
            "stream_options is given without stream.",
            remedy="Give stream: true, or leave it out.",
            field="stream_options",
        )
    inner = Fields(options)
    usage = inner.flag("include_usage")
    inner.flag("include_obfuscation")
    inner.close()
    return stream, usage


def _prompts(fields: Fields) -> list[str]:
    given = fields.take("prompt", (str, list), "a text, or a list of texts")
    prompts = [given] if isinstance(given, str) else given
    if not prompts:
        raise FieldError("The request has no prompt.", remedy="Give a text.", field="prompt")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise FieldError(
            "A prompt is no text; prompts as tokens are not supported, as memories read texts.",
            remedy="Give a text, or a list of texts.",
            field="prompt",
        )
    return [text_in("prompt", prompt) for prompt in prompts]


def _turns(fields: Fields) -> list[dict[str, str]]:
    given = fields.take("messages", (list,), "a list of messages")
    if not given:
        raise FieldError(
            "The request has no messages.",
            remedy='Give some, such as [{"role": "user", "content": "TEXT"}].',
            field="messages",
        )
    return [_turn(message, f"messages[{number}]") for number, message in enumerate(given)]


def _joined(parts: Sequence[Any]) -> str | None:
    """The text of a content in parts; None if one is of another type."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "".join(texts)


def _turn(message: Any, where: str) -> dict[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in ROLES:
        raise FieldError(
            f"{where} has the role {shown(role)}.",
            remedy=f"Give an object with one of {', '.join(ROLES)}; tools are not supported.",
            field=where,
        )
    content = message.get("content")
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(content, str):
        raise FieldError(
            f"The content of {where} is no text; pictures and sound are not supported.",
            remedy="Give a text, or parts of the type text.",
            field=where,
        )
    return {"role": ROLES[role], "content": text_in(where, content)}
