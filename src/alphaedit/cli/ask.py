"""`alphaedit ask`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alphaedit.cli import common


def ask(
    model: Annotated[str, typer.Argument(help="directory, hub name, or 'bundled'")],
    prompts: Annotated[list[str], typer.Argument(help="texts to continue")],
    edits: Annotated[Path | None, typer.Option(help="session whose edits are applied")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="length of the answer")] = 12,
    json: common.JsonOption = False,
    device: common.DeviceOption = None,
    dtype: common.DtypeOption = None,
) -> None:
    """Continue prompts greedily, with or without edits.

    [bold]Examples[/]

    alphaedit ask bundled "The mother tongue of Danielle Darrieux is"

    alphaedit ask bundled "The Eiffel Tower is located in" --edits my-edits
    """
    from alphaedit.model.generate import generate

    with common.progress_bars() as report:
        editor = common.open_editor(model, report, device=device, dtype=dtype, session=edits)
        answers = generate(editor.handle, prompts, max_new_tokens)
    if json:
        pairs = zip(prompts, answers, strict=True)
        common.emit({"answers": [{"prompt": p, "answer": a} for p, a in pairs]})
        return
    for prompt, answer in zip(prompts, answers, strict=True):
        common.out.print(f"{prompt}[bold]{answer}[/]", highlight=False, soft_wrap=True)
