"""`alphaedit check`: do facts hold? For continuous integration."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from xml.etree import ElementTree

import typer

from alphaedit.cli import facts as sources
from alphaedit.cli import ledgers, options
from alphaedit.cli.options import examples
from alphaedit.cli.output import FAILED, Session, output_console
from alphaedit.cli.outputs import Late, Output, check_outputs
from alphaedit.cli.prepare import open_editor
from alphaedit.core.marks import XML
from alphaedit.core.text import visible

if TYPE_CHECKING:
    from alphaedit.editor.measured import Asked

EXAMPLES = examples(
    "alphaedit check bundled facts.jsonl --edits my-edits",
    "alphaedit check ./my-model facts.csv --junit report.xml",
    "alphaedit check ./my-model facts.csv --edits my-edits --at-least 0.95 --json",
    "psql -c 'COPY facts TO STDOUT CSV HEADER' | alphaedit check ./my-model - --format csv",
)


@options.loads_model
def check(
    model: options.Model,
    facts: Annotated[
        Path,
        typer.Argument(
            metavar="FACTS", help="Facts, as for `alphaedit edit`; - for standard input."
        ),
    ],
    edits: Annotated[
        Path | None,
        typer.Option("--edits", metavar="LEDGER", help="Apply the edits in force there first."),
    ] = None,
    format: sources.Format = None,
    paraphrases: Annotated[
        bool, typer.Option("--paraphrases", help="Also ask the paraphrases of each fact.")
    ] = False,
    at_least: Annotated[
        float,
        typer.Option("--at-least", min=0, max=1, help="Share that must hold for exit code 0."),
    ] = 1.0,
    junit: Annotated[
        Path | None,
        typer.Option(
            "--junit", metavar="FILE", help="Write a JUnit XML report.", show_default=False
        ),
    ] = None,
    chat: options.Chat = False,
    force: options.Force = False,
    json: options.Json = False,
    seed: options.Seed = 0,
    loading: options.Loading = options.AS_STORED,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> dict[str, Any]:
    """Ask a model for facts; exit code 1 if one is wrong.

    A fact holds if what the model says to its prompt begins with the target.
    """
    check_outputs(model, [Output("--junit", junit)], force=force, inputs={"--edits": edits})
    wanted = sources.load(facts, format)
    out = Session(json=json, quiet=quiet)
    began = time.perf_counter()
    with out.progress() as progress:
        editor = open_editor(model, progress, seed=seed, loading=loading, session=edits)
        from dataclasses import replace

        from alphaedit.editor.measured import ask_facts

        if paraphrases:
            wanted = [
                replace(fact, prompt=prompt, paraphrases=())
                for fact in wanted
                for prompt in (fact.prompt, *fact.paraphrases)
            ]
        if chat:
            from alphaedit.model.chat import in_chat

            wanted = [in_chat(editor.handle.tokenizer, fact) for fact in wanted]
        asked = ask_facts(editor.handle, wanted)
        seconds = time.perf_counter() - began
        from alphaedit.core.files import write_text

        late, text = Late(out), junit_xml(asked, sources.name_of(facts), seconds)
        junit = late.write("--junit", junit, partial(write_text, text))
    wrong = [one for one in asked if not one.holds]
    share = 1 - len(wrong) / len(asked)
    if not json:
        console = output_console()
        if wrong:
            ledgers.asked_table(wrong, "Wrong")
        console.print(f"{len(asked) - len(wrong)} of {len(asked)} facts hold.", highlight=False)
    result = {
        "model": model,
        "edits": [edit.id for edit in editor.edits],
        "facts": ledgers.asked_json(asked),
        "share": share,
        "ok": share >= at_least,
        "junit": str(junit) if junit else None,
    }
    return late.end(result, code=0 if result["ok"] else FAILED)


def junit_xml(asked: list[Asked], name: str, seconds: float) -> str:
    """A JUnit report with a test case for each fact."""
    wrong = [one for one in asked if not one.holds]
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(name),
        tests=str(len(asked)),
        failures=str(len(wrong)),
        errors="0",
        time=f"{seconds:.3f}",
    )
    for one in asked:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=_clean(one.fact.subject),
            name=_clean(f"{one.fact.text} {one.fact.target}"),
        )
        if not one.holds:
            failure = ElementTree.SubElement(
                case, "failure", message=_clean(f"says {one.answer.text.strip()!r}")
            )
            failure.text = _clean(
                f"wanted {one.fact.target!r} with p = {one.answer.p_target:.4f}, "
                f"got {one.answer.text!r}"
            )
    root = ElementTree.Element("testsuites")
    root.append(suite)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    head, _, body = text.partition("\n")
    return f"{head}\n{XML}\n{body}\n"


def _clean(text: str) -> str:
    """With characters that XML does not have as escapes."""
    return visible(text).translate({0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"})
