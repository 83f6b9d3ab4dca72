"""IKE: edits as text in the context, with demonstrations (Zheng et al., EMNLP 2023)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from alphaedit.core.change import Change, MemoryChange
from alphaedit.core.patch import Patch
from alphaedit.methods.base import NO_WEIGHTS, Method, Needs, Problem, Solution, one_layer
from alphaedit.methods.config import Settings, tuned
from alphaedit.methods.steps.encoder import best_encoder, cosine_distance, embed, mean_key
from alphaedit.methods.timer import Timer
from alphaedit.model.handle import ModelHandle

NOTE = "New Fact: {}.\nPrompt: {}"


class IkeSettings(Settings):
    """Settings of a memory of statements."""

    scope: Literal["subject", "distance"] = Field(
        "subject",
        description="what a statement is put in front of: prompts that name its subject, or all "
        "that are near to its prompt",
    )
    distance: float | None = Field(
        None,
        gt=0,
        description="largest cosine distance, for that scope; by default measured",
        json_schema_extra=tuned(1.25),
    )
    demonstrations: int = Field(
        4,
        ge=0,
        description="other facts of the memory that are shown before, the nearest last",
        json_schema_extra=tuned(2.0),
    )


def install(handle: ModelHandle, changes: Sequence[Change]) -> Callable[[], None]:
    """Put the statement nearest to a prompt in front of it, if there is one in its scope."""
    keys = torch.cat([change.rows["key"] for change in changes])
    entries = [text.split("\n", 1) for change in changes for text in change.texts]
    mean, options = changes[-1].shared["mean"], changes[-1].options

    def render(prompts: Sequence[str]) -> list[str]:
        queries = embed(handle, prompts, options["layer"]) - mean
        return [note(prompt, query) for prompt, query in zip(prompts, queries, strict=True)]

    def note(prompt: str, query: Tensor) -> str:
        apart = cosine_distance(keys, query[None]).tolist()
        # Of two statements about the same prompt the later counts.
        order = sorted(range(len(entries)), key=lambda i: (apart[i], -i))
        near = [i for i in order if _in_scope(entries[i][0], prompt, apart[i], options)]
        if not near:
            return prompt
        shown = [i for i in order if i != near[0]][: options["demonstrations"]][::-1]
        before = [NOTE.format(entries[i][1], f"{entries[i][1]}.\n\n") for i in shown]
        return "".join([*before, NOTE.format(entries[near[0]][1], prompt)])

    handle.memories.append(render)
    return lambda: handle.memories.remove(render)


def _in_scope(subject: str, prompt: str, apart: float, options: Mapping[str, Any]) -> bool:
    if options["scope"] == "distance":
        return bool(apart <= options["distance"])
    return re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Ike(Method):
    """Statements are kept with the keys of their prompts, and found by the keys of a prompt."""

    @property
    def needs(self) -> Needs:
        """Nothing of the weights."""
        return NO_WEIGHTS

    def suggest(self, handle: ModelHandle, over: Mapping[str, Any]) -> Mapping[str, Any]:
        """The layer and the distance that part paraphrases from neighbors best."""
        layer, found = best_encoder(handle, over.get("layers"))
        return {"layers": (layer,), "distance": found.distance}

    def solve(self, problem: Problem[IkeSettings]) -> Solution:
        """See Method."""
        hp, handle, facts, timer = problem.hyperparameters, problem.handle, problem.facts, Timer()
        with timer.phase("keys"):
            layer = one_layer(problem, "ike")
            mean = mean_key(handle, layer)
            keys = embed(handle, [fact.text for fact in facts], layer) - mean
        change = MemoryChange(
            "ike",
            torch.arange(len(facts)),
            {"key": keys},
            {"mean": mean},
            tuple(f"{fact.subject}\n{fact.text} {fact.target}" for fact in facts),
            {"layer": layer, **hp.model_dump(include={"scope", "distance", "demonstrations"})},
        )
        state = replace(problem.state, edits=problem.state.edits + len(facts))
        return Solution(Patch(changes=(change,)), state, timer.seconds)


METHOD = Ike(
    name="ike",
    title="IKE",
    paper="https://arxiv.org/abs/2305.12740",
    summary="Statements in a memory: the one nearest to a prompt is put in front of it.",
    config=IkeSettings,
    installs={"ike": install},
)
