"""Ask a model for facts, as a test of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from alphaedit.core.fact import Fact
from alphaedit.core.files import write_text
from alphaedit.core.marks import XML
from alphaedit.core.progress import Progress, silent
from alphaedit.core.text import visible
from alphaedit.jobs.cancel import Cancel, watched
from alphaedit.jobs.late import Late, Wrote, untold
from alphaedit.jobs.ledgers import asked_json
from alphaedit.jobs.opening import Opening

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked
    from alphaedit.editor.session import Editor


@dataclass(frozen=True, kw_only=True)
class CheckRequest(Opening):
    """Facts that should hold.

    Attributes:
        facts: the facts.
        facts_from: what the JUnit report calls their source.
        edits: apply the edits in force in this ledger first.
        paraphrases: also ask the paraphrases of each fact.
        at_least: share that must hold.
        chat: ask in a conversation.
        junit: write a JUnit XML report here.
    """

    facts: Sequence[Fact]
    facts_from: str = "facts"
    edits: Path | None = None
    paraphrases: bool = False
    at_least: float = 1.0
    chat: bool = False
    junit: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What the model says.

    Attributes:
        request: what was asked for.
        editor: the model with the edits.
        asked: each fact, and whether it holds.
        junit: the report, if it was written.
        failed: outputs that could not be written, and why.
    """

    request: CheckRequest
    editor: Editor = field(repr=False)
    asked: Sequence[Asked]
    junit: Path | None
    failed: Mapping[str, Exception]

    @property
    def wrong(self) -> list[Asked]:
        """Facts that do not hold."""
        return [reply for reply in self.asked if not reply.holds]

    @property
    def share(self) -> float:
        """Share that holds."""
        return 1 - len(self.wrong) / len(self.asked)

    @property
    def ok(self) -> bool:
        """Whether as many hold as must."""
        return self.share >= self.request.at_least

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {
            "model": self.request.model,
            "edits": [edit.id for edit in self.editor.edits],
            "facts": asked_json(self.asked),
            "share": self.share,
            "ok": self.ok,
            "junit": str(self.junit) if self.junit else None,
        }


def run(
    request: CheckRequest,
    *,
    progress: Progress = silent,
    cancel: Cancel | None = None,
    wrote: Wrote = untold,
) -> CheckResult:
    """Ask for the facts, and write the report. A fact that does not hold is no error.

    Args:
        request: what to do.
        progress: is told how far it is.
        cancel: stops it before it asks.
        wrote: is told of each output that is complete.

    Raises:
        Cancelled: `cancel` was set.
        LedgerError, ModelError: with the remedy.
    """
    from alphaedit.editor.measured import ask_facts
    from alphaedit.model.chat import in_chat

    began = time.perf_counter()
    editor = request.open(watched(progress, cancel), ledger=request.edits)
    if cancel is not None:
        cancel.check()
    wanted = list(request.facts)
    if request.paraphrases:
        wanted = [
            replace(fact, prompt=prompt, paraphrases=())
            for fact in wanted
            for prompt in (fact.prompt, *fact.paraphrases)
        ]
    if request.chat:
        wanted = [in_chat(editor.handle.tokenizer, fact) for fact in wanted]
    asked = ask_facts(editor.handle, wanted)
    text = junit_xml(asked, request.facts_from, time.perf_counter() - began)
    late = Late(wrote)
    junit = late.write("junit", request.junit, partial(write_text, text))
    return CheckResult(request=request, editor=editor, asked=asked, junit=junit, failed=late.failed)


def junit_xml(asked: list[Asked], name: str, seconds: float) -> str:
    """A JUnit report with a test case for each fact."""
    wrong = [reply for reply in asked if not reply.holds]
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(name),
        tests=str(len(asked)),
        failures=str(len(wrong)),
        errors="0",
        time=f"{seconds:.3f}",
    )
    for reply in asked:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(reply.fact.subject),
            name=_clean(f"{reply.fact.text} {reply.fact.target}"),
        )
        if not reply.holds:
            failure = ElementTree.SubElement(
                case, "failure", message=_clean(f"says {reply.answer.text.strip()!r}")
            )
            failure.text = _clean(
                f"wanted {reply.fact.target!r} with p = {reply.answer.p_target:.4f}, "
                f"got {reply.answer.text!r}"
            )
    root = ElementTree.Element("testsuites")
    root.append(suite)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    head, _, body = text.partition("\n")
    return f"{head}\n{XML}\n{body}\n"


def _clean(text: str) -> str:
    """With characters that XML does not have as escapes."""
    return visible(text).translate({0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"})
