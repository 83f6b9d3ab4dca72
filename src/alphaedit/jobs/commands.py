"""The command lines that do what the studio does."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphaedit.core.fact import Fact
    from alphaedit.jobs.preview import PreviewRequest

FACTS = "facts.jsonl"


def line(*words: object) -> str:
    """Words as a shell takes them."""
    return shlex.join(["alphaedit", *map(str, words)])


def ask(model: str, prompt: str, ledger: Path | None, tokens: int, *, chat: bool) -> str:
    """Of asking."""
    edits: list[object] = ["--edits", ledger] if ledger else []
    talk = ["--chat"] if chat else []
    dashes = ["--"] if prompt.startswith("-") else []
    return line("ask", *edits, *talk, "--max-new-tokens", tokens, model, *dashes, prompt)


def edit(model: str, request: PreviewRequest, ledger: Path) -> str:
    """Of editing; several facts stand for a file."""
    words: list[object] = ["edit", model, *_facts(request.facts)]
    words += ["--method", request.method]
    if request.preset:
        words += ["--preset", request.preset]
    for name, value in request.hyperparameters.items():
        if name == "plugins":
            for plugin in value:
                words += ["--plugin", plugin]
        else:
            words += ["--set", f"{name}={_value(value)}"]
    if request.batch_size:
        words += ["--batch-size", request.batch_size]
    if request.chat:
        words += ["--chat"]
    return line(*words, "-o", ledger)


def _facts(facts: Sequence[Fact]) -> list[object]:
    if len(facts) != 1 or facts[0].paraphrases or facts[0].neighborhood:
        return [FACTS]
    (fact,) = facts
    words: list[object] = ["--prompt", fact.prompt, "--subject", fact.subject]
    return [*words, "--target", fact.target]


def _value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def revert(ledger: Path, edits: Sequence[str], why: str) -> str:
    """Of taking edits out."""
    return line("revert", ledger, *edits, *(["--why", why] if why else []))


def checkout(ledger: Path, version: str, why: str) -> str:
    """Of going back."""
    return line("checkout", ledger, version, *(["--why", why] if why else []))


def export(ledger: Path, model: str, out: Path, values: Mapping[str, Any]) -> str:
    """Of an export."""
    words: list[object] = ["export", ledger, "--model", model, "--format", values["form"]]
    if values["version"] != "head":
        words += ["--at", values["version"]]
    if values.get("max_rank"):
        words += ["--max-rank", values["max_rank"]]
    return line(*words, "-o", out)


def diff(ledger: Path, a: str, b: str) -> str:
    """Of what versions differ in."""
    return line("diff", ledger, a, b)
