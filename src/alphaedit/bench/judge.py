"""A judge of free answers: a model behind an OpenAI-compatible endpoint, or one loaded here.

Deterministic matching (`bench.qa.matches`) is the default everywhere; a judge is asked only where
one is given, and its metrics say so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from alphaedit.bench.data import EditRecord
from alphaedit.bench.intervals import percent
from alphaedit.bench.metrics import Metrics
from alphaedit.core.endpoint import post
from alphaedit.core.errors import ConfigError, ResourceError
from alphaedit.core.progress import Progress, silent
from alphaedit.model.generate import generate
from alphaedit.model.handle import ModelHandle
from alphaedit.model.responder import Responder
from alphaedit.model.scoring import score

KEY = "ALPHAEDIT_JUDGE_KEY"
ANSWER_TOKENS = 48
PROMPT = (
    "A system was asked to go on from a prompt. Decide whether what it said means the same as the "
    "expected answer; more words after it do no harm.\nPrompt: {prompt}\nExpected answer: {answer}"
    "\nWhat it said: {said}\nDoes it agree with the expected answer? Say yes or no.\nDecision:"
)


class Judge(Protocol):
    """Decides whether what was said agrees with an expected answer."""

    @property
    def name(self) -> str:
        """What it is called."""

    def agrees(self, prompt: str, answer: str, reply: str) -> bool:
        """Yes or no."""


@dataclass(frozen=True)
class LocalJudge:
    """A causal language model: "yes" or "no", whichever is likelier after the question."""

    responder: ModelHandle | Responder
    name: str = "local"

    def agrees(self, prompt: str, answer: str, reply: str) -> bool:
        """See Judge."""
        asked = PROMPT.format(prompt=prompt, answer=answer, said=reply)
        yes, no = score(self.responder, [(asked, "yes"), (asked, "no")])
        return yes.mean_logprob > no.mean_logprob


@dataclass(frozen=True)
class EndpointJudge:
    """A chat model behind an endpoint, at temperature 0.

    Attributes:
        url: up to and without ``/chat/completions``, such as ``https://api.openai.com/v1``.
        model: name of the model there.
        tries: requests before giving up, each after twice the wait.
        wait: seconds before the second one.
    """

    url: str
    model: str
    tries: int = 4
    wait: float = 1.0
    timeout: float = 60.0
    key: str | None = field(default_factory=lambda: os.environ.get(KEY), repr=False)

    @property
    def name(self) -> str:
        """The model's."""
        return self.model

    def agrees(self, prompt: str, answer: str, reply: str) -> bool:
        """See Judge.

        Raises:
            ResourceError: the endpoint does not answer, refuses, or says neither yes nor no.
        """
        asked = PROMPT.format(prompt=prompt, answer=answer, said=reply)
        text = self._ask(asked).strip().lower()
        for word, verdict in (("yes", True), ("no", False)):
            if text.lstrip("*\"'").startswith(word):
                return verdict
        raise ResourceError(
            f"The judge {self.model} said neither yes nor no: {text[:60]!r}.",
            remedy="Choose a model that follows instructions.",
        )

    def _ask(self, asked: str) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": asked}],
            "temperature": 0,
            "max_tokens": 4,
        }
        return post(
            f"{self.url.rstrip('/')}/chat/completions",
            body,
            lambda reply: str(reply["choices"][0]["message"]["content"]),
            what="The judge",
            remedy=f"Check the address, the model's name, and the key in ${KEY}.",
            key=self.key,
            tries=self.tries,
            wait=self.wait,
            timeout=self.timeout,
        )


def open_judge(spec: str, model: str | None = None, *, device: str | None = None) -> Judge:
    """The judge that `spec` names: an address (then give `model`), or a model to load.

    Raises:
        ConfigError: an address without a model's name.
        ModelError: the model cannot be loaded.
    """
    if spec.startswith(("http://", "https://")):
        if not model:
            raise ConfigError("--judge is an address.", remedy="Name the model: --judge-model.")
        return EndpointJudge(spec, model)
    return LocalJudge(ModelHandle.load(spec, device=device), spec)


def judged_metrics(
    responder: ModelHandle | Responder,
    records: Sequence[EditRecord],
    judge: Judge,
    *,
    progress: Progress = silent,
) -> Metrics:
    """Shares of free answers that a judge accepts: rewrites, paraphrases, portability probes.

    The best of all accepted answers counts.
    """
    asked: dict[str, list[tuple[str, tuple[str, ...]]]] = {
        "edit_success_judge": [(f.text, (f.target,)) for r in records for f in r.facts],
        "generalization_judge": [
            (p, (r.target_new,)) for r in records for p in r.paraphrase_prompts
        ],
        "portability_judge": [
            (p.prompt, p.answers) for r in records for p in r.probes if p.kind == "portability"
        ],
    }
    out: Metrics = {}
    for name, pairs in asked.items():
        texts = generate(responder, [prompt for prompt, _ in pairs], ANSWER_TOKENS)
        verdicts = []
        for done, (text, (prompt, answers)) in enumerate(zip(texts, pairs, strict=True)):
            progress("judge", done, len(pairs))
            verdicts.append(any(judge.agrees(prompt, answer, text) for answer in answers))
        progress("judge", len(pairs), len(pairs))
        out[name] = percent(verdicts)
    return out
