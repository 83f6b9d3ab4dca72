"""`alphaedit ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from alphaedit.cli import options
from alphaedit.cli.options import examples
from alphaedit.cli.prepare import open_editor

EXAMPLES = examples(
    "alphaedit ask bundled 'The mother tongue of Danielle Darrieux is'",
    "alphaedit ask bundled 'The mother tongue of Danielle Darrieux is' --edits my-edits",
    "alphaedit ask ./my-instruct-model 'Who wrote Faust?' --chat",
    "alphaedit ask ./my-model 'Once upon a time' 'The sun' --max-new-tokens 40 --json",
)


@options.grouped
def ask(
    model: options.Model,
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT", help="Texts to go on from.")],
    edits: Annotated[
        Path | None,
        typer.Option("--edits", metavar="LEDGER", help="Apply the edits in force there first."),
    ] = None,
    chat: options.Chat = False,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="Tokens of an answer.")
    ] = 20,
    *,
    common: options.Seeded,
) -> dict[str, Any]:
    """Let a model go on from prompts (greedily), with or without edits."""
    session = common.session
    with session.progress() as progress:
        editor = open_editor(
            model, progress, seed=common.seed, loading=common.loading, ledger=edits
        )
        answers: list[str] = editor.ask(prompts, max_new_tokens, chat=chat)
    for prompt, answer in zip(prompts, answers, strict=True):
        session.say(prompt, style="dim", end="\n" if chat else "", lines=True)
        session.say(answer, style="bold", lines=True)
    return {
        "model": model,
        "edits": [edit.id for edit in editor.edits],
        "answers": [{"prompt": p, "answer": a} for p, a in zip(prompts, answers, strict=True)],
    }
