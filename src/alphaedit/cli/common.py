"""What all commands share: options, progress on standard error, JSON on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alphaedit.core.errors import ConfigError
from alphaedit.core.progress import Progress as Report

if TYPE_CHECKING:
    from alphaedit.editor.session import Editor

JsonOption = Annotated[
    bool, typer.Option("--json", help="print exactly one JSON object on standard output")
]
SeedOption = Annotated[int, typer.Option(help="seed of everything that is drawn")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: cpu")]
DtypeOption = Annotated[str | None, typer.Option(help="float32, bfloat16, float16, float64")]
CorpusOption = Annotated[
    str | None,
    typer.Option(help="text for second moments: a file, hf:NAME, bundled, self (by the model)"),
]
TokensOption = Annotated[int | None, typer.Option(help="token budget of the second moments")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="override a hyperparameter, e.g. --set layers=[3,4] --set ridge=1"),
]
PresetOption = Annotated[str | None, typer.Option(help="name of a preset of hyperparameters")]
MethodOption = Annotated[str, typer.Option(help="see `alphaedit methods`")]

out = Console()
err = Console(stderr=True)


def emit(data: dict[str, Any]) -> None:
    """Print one JSON object on standard output."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, default=str) + "\n")


def overrides(pairs: list[str] | None) -> dict[str, Any]:
    """`--set` pairs as values.

    Raises:
        ConfigError: a pair is not NAME=VALUE.
    """
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, sign, text = pair.partition("=")
        if not sign or not name.strip():
            raise ConfigError(f"--set {pair!r} is not NAME=VALUE.", remedy="Write --set ridge=1.")
        values[name.strip().replace("-", "_")] = yaml.safe_load(text)
    return values


@contextmanager
def progress_bars() -> Iterator[Report]:
    """A Progress that draws bars on standard error, one for each phase."""
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    tasks: dict[str, TaskID] = {}

    def report(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = bars.add_task(phase, total=total)
        bars.update(tasks[phase], completed=done, total=total, visible=done < total)

    with bars:
        yield report


def open_editor(
    model: str,
    report: Report,
    *,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    corpus: str | None = None,
    tokens: int | None = None,
    session: Path | None = None,
) -> Editor:
    """The editor for `model`, with the edits of `session` applied."""
    from alphaedit.editor.session import Editor

    editor = Editor.from_pretrained(
        model,
        device=device,
        dtype=dtype,
        seed=seed,
        corpus=corpus,
        tokens=tokens,
        progress=report,
    )
    if session is not None:
        editor.load(session)
    return editor


def refuse_existing(folder: Path | None, force: bool) -> None:
    """Refuse to write over a directory.

    Raises:
        ConfigError: `folder` exists and `force` is not given.
    """
    if folder is not None and folder.exists() and not force:
        raise ConfigError(f"{folder} exists.", remedy="Choose another directory, or give --force.")


def percent(value: float) -> str:
    """A probability for people."""
    return f"{100 * value:.1f}%"
